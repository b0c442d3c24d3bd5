#!/usr/bin/env python3
"""PyTorch's side of the training benches, a process that process.ts starts (f32, CPU).

Requests are JSON lines on stdin (`Case` in process.ts), answers JSON lines on stdout. A step is

- mezo-sgd (Malladi et al. 2023, the princeton-nlp repository): perturb all parameters by +eps z,
  forward, by -2 eps z, forward, back by +eps z, then theta -= lr g z, with z made anew from one
  seed each time: four normal generations a step;
- lozo (Chen et al. 2024, the optsuite repository): the same with z = U V^T for matrices, V drawn
  anew every WINDOW steps, dense z for vectors;
- eval: one forward.

Perturbations are in place, which is faster than the originals' `param.data = param.data + ...`.
Where only options carry labels the loss is MeZO's: logits of all tokens, labels ignored but for
the option. Token ids are the same as in steps.ts. Batches of tasks are as MeZO's code makes them under
--train_as_classification: every option a row, padded on the left to a multiple of eight, the loss the
cross-entropy of the options' mean log-probabilities.
"""

import argparse
import json
import os
import resource
import sys
import time

import numpy as np
import torch
from torch.nn import CrossEntropyLoss
from transformers import OPTForCausalLM

LR, EPS = 1e-6, 1e-3
RANK, WINDOW = 2, 50


def mezo_perturb(parameters, seed, scale, state):
    """theta += scale * z, in place; z from `seed`, parameter by parameter."""
    torch.manual_seed(seed)
    for p in parameters:
        z = torch.normal(mean=0.0, std=1.0, size=p.size(), device=p.device, dtype=p.dtype)
        p.data.add_(z, alpha=scale)


def lozo_perturb(parameters, seed, scale, state):
    """theta += scale * U V^T; U from `seed`, V of this window in `state`."""
    torch.manual_seed(seed)
    for p, v in zip(parameters, state['v']):
        if v is None:
            z = torch.normal(mean=0.0, std=1.0, size=p.size(), device=p.device, dtype=p.dtype)
        else:
            z = torch.randn(p.size(0), RANK, device=p.device, dtype=p.dtype) @ v.t()
        p.data.add_(z, alpha=scale)


PERTURB = {'mezo-sgd': mezo_perturb, 'lozo': lozo_perturb}


def option_loss(model, ids):
    """MeZO's loss of option tokens alone, here the last token of each row."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = ids.clone()[..., 1:].contiguous()
    shift_labels[:, :-1] = -100
    flat = shift_logits.view(-1, model.config.vocab_size)
    return CrossEntropyLoss(ignore_index=-100)(flat, shift_labels.view(-1))


def task_loss(model, batch):
    """MeZO's forward_wrap_with_option_len on examples with as many options each."""
    rows = [option for example in batch for option in example['options']]
    width = -(-max(len(row['ids']) for row in rows) // 8) * 8
    ids = torch.full((len(rows), width), 1)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row['ids']):] = torch.tensor(row['ids'])
        mask[i, width - len(row['ids']):] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = ids[..., 1:].clone()
    shift_labels[shift_labels == 1] = -100
    for i, row in enumerate(rows):
        shift_labels[i, :-row['answerTokens']] = -100
    label_mask = shift_labels != -100
    shift_labels[~label_mask] = 0
    log_probs = torch.log_softmax(shift_logits, dim=-1)
    chosen = log_probs.gather(-1, shift_labels.unsqueeze(-1)).squeeze(-1)
    means = (chosen * label_mask).sum(-1) / label_mask.sum(-1)
    scores = means.view(len(batch), -1)
    answers = torch.tensor([example['answer'] for example in batch])
    return CrossEntropyLoss()(scores, answers)


def forward(model, data, labels):
    with torch.inference_mode():
        if labels == 'task':
            return task_loss(model, data).item()
        if labels == 'option':
            return option_loss(model, data).item()
        return model(input_ids=data, attention_mask=torch.ones_like(data), labels=data).loss.item()


def zo_step(model, parameters, data, labels, request, step, state):
    """One step; the mean of both losses."""
    perturb, seed = PERTURB[request['method']], step
    if request['method'] == 'lozo' and ('v' not in state or step % WINDOW == 0):
        state['v'] = [torch.randn(p.size(1), RANK) if p.ndim > 1 else None for p in parameters]
    perturb(parameters, seed, EPS, state)
    loss_plus = forward(model, data, labels)
    perturb(parameters, seed, -2 * EPS, state)
    loss_minus = forward(model, data, labels)
    perturb(parameters, seed, EPS, state)
    projected_grad = (loss_plus - loss_minus) / (2 * EPS)
    perturb(parameters, seed, -LR * projected_grad, state)
    return (loss_plus + loss_minus) / 2


def token_ids(request, vocab, step):
    """As in steps.ts: a hash (Knuth's multiplicative) of where the token is."""
    b, t = np.ogrid[:request['batch'], :request['tokens']]
    place = (step * 1000003 + b * 7919 + t).astype(np.uint64) % 2 ** 32
    mixed = place * np.uint64(2654435761) % 2 ** 32
    return torch.from_numpy((4 + (mixed.astype(np.int64) >> 8) % (vocab - 4)))


def take_steps(model, request, state):
    """Times of request['steps'] steps, and the last one's loss."""
    parameters, ms = list(model.parameters()), []
    task = request.get('task')
    if task and task not in state:
        with open(task) as file:
            state[task] = json.load(file)
    labels = 'task' if task else request['labels']
    for step in range(request['first'], request['first'] + request['steps']):
        data = state[task][step] if task else token_ids(request, model.config.vocab_size, step)
        began = time.perf_counter()
        if request['method'] == 'eval':
            loss = forward(model, data, labels)
        else:
            loss = zo_step(model, parameters, data, labels, request, step, state)
        ms.append((time.perf_counter() - began) * 1000)
    return ms, loss


def gflops():
    """Speed of a matrix product of this PyTorch; 0 if the product is wrong."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    right = (a[:64].double() @ b.double() - (a @ b)[:64]).abs().max() < 1e-2
    best = float('inf')
    for _ in range(4):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * 2048 ** 3 / best / 1e9 if right else 0.0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)),
                        help='all cores, unless given')
    parser.add_argument('--gflops', action='store_true', help='print the speed of a product, end')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)  # Debian's build would start with one
    if args.gflops:
        print(gflops())
        return
    core = os.environ.get('OPENBLAS_CORETYPE')
    detail = (f'PyTorch {torch.__version__}, {torch.get_num_threads()} threads'
              f'{f", OPENBLAS_CORETYPE={core}" if core else ""}')
    model, path, state = None, None, {}
    for line in sys.stdin:
        request = json.loads(line)
        if request['model'] != path or request.get('fresh'):
            model, path = None, request['model']
            model = OPTForCausalLM.from_pretrained(path).float()
            model.eval()
            state = {}
        ms, loss = take_steps(model, request, state)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(dict(ms=ms, loss=loss, rss_peak_bytes=rss, detail=detail)), flush=True)


if __name__ == '__main__':
    main()
