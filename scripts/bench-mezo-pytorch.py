#!/usr/bin/env python3
"""Times plain PyTorch MeZO steps on an OPT checkpoint (f32, CPU): the yardstick for zo2.

The step is MeZO's (Malladi et al. 2023, trainer of the princeton-nlp repository): perturb all
parameters by +eps z, forward, by -2 eps z, forward, back by +eps z, then theta -= lr g z, with z
made anew from one seed each time: four normal generations a step. Perturbations are in place
(`add_`), which is faster than the original's `param.data = param.data + ...`.
Random token ids; the loss is over all tokens. Prints one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

import numpy as np
import torch
from transformers import OPTForCausalLM


def perturb(parameters, seed, scale):
    """theta += scale * z, in place; z from `seed`, parameter by parameter."""
    torch.manual_seed(seed)
    for p in parameters:
        z = torch.normal(mean=0.0, std=1.0, size=p.size(), device=p.device, dtype=p.dtype)
        p.data.add_(z, alpha=scale)


def forward(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.item()


def mezo_step(model, parameters, ids, lr, eps, seed):
    """One step; returns both losses."""
    perturb(parameters, seed, eps)
    loss_plus = forward(model, ids)
    perturb(parameters, seed, -2 * eps)
    loss_minus = forward(model, ids)
    perturb(parameters, seed, eps)
    projected_grad = (loss_plus - loss_minus) / (2 * eps)
    perturb(parameters, seed, -lr * projected_grad)
    return loss_plus, loss_minus


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='Hugging Face folder of an OPT')
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--length', type=int, default=64, help='tokens per row')
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--lr', type=float, default=1e-6)
    parser.add_argument('--eps', type=float, default=1e-3)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)),
                        help='all cores, unless given')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)  # Debian's build would start with one
    model = OPTForCausalLM.from_pretrained(args.model, torch_dtype=torch.float32)
    model.eval()
    parameters = list(model.parameters())
    rng = np.random.default_rng(0)
    step_ms, losses = [], []
    for _ in range(args.steps):
        shape = args.batch_size, args.length
        ids = torch.from_numpy(rng.integers(4, model.config.vocab_size, shape))
        seed = int(rng.integers(1_000_000_000))
        began = time.perf_counter()
        losses.append(mezo_step(model, parameters, ids, args.lr, args.eps, seed))
        step_ms.append(round((time.perf_counter() - began) * 1000, 1))
    if not np.isfinite(losses).all():
        sys.exit(f'the loss is not finite: {losses}')
    print(json.dumps(dict(
        step_ms=step_ms, median_ms=statistics.median(step_ms),
        rss_peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        threads=torch.get_num_threads(), torch=torch.__version__, losses=losses)))


if __name__ == '__main__':
    main()
