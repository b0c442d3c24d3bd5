#!/usr/bin/env python3
"""Makes test/fixtures/gpt: tiny random GPT-2 and nanoGPT checkpoints with expected logits and losses.

GPT-2's values come from Hugging Face `transformers` (GPT2LMHeadModel, eager attention), nanoGPT's
from the network below, written from its description (pre-norm blocks, fused c_attn, exact GELU, head
tied to wte) with nanoGPT's own names. Computed in f32 from the stored weights.

Needs what scripts/make-fixtures.py needs; test/fixtures/README.md has the recipe.
"""

import json
import os
import shutil
import sys
from collections import OrderedDict

sys.dont_write_bytecode = True  # leave no __pycache__ in the checkout
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from fixtures.layouts import digits, make_batches, write_json

OUT = os.path.join(ROOT, 'test', 'fixtures', 'gpt')

GPT2 = {
    # like openai-community/gpt2: the bare GPT2Model, with its causal masks as tensors
    'gpt2-hub': dict(prefix='', masks=True),
    # as transformers saves it: other feed-forward width, eps and activation, f16, own head
    'gpt2-untied': dict(prefix='transformer.', dtype=torch.float16, config=dict(
        n_inner=40, layer_norm_epsilon=1e-3, activation_function='gelu',
        tie_word_embeddings=False)),
}
NANOGPT = {
    'nanogpt': dict(bias=True, vocab_size=65),
    'nanogpt-no-bias': dict(bias=False, vocab_size=64),
}


class Norm(nn.Module):
    def __init__(self, size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_attn = nn.Linear(c['n_embd'], 3 * c['n_embd'], bias=c['bias'])
        self.c_proj = nn.Linear(c['n_embd'], c['n_embd'], bias=c['bias'])
        self.heads = c['n_head']

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
                   for part in self.c_attn(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / (C // self.heads) ** 0.5
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float('-inf')).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_fc = nn.Linear(c['n_embd'], 4 * c['n_embd'], bias=c['bias'])
        self.c_proj = nn.Linear(4 * c['n_embd'], c['n_embd'], bias=c['bias'])

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn = Norm(c['n_embd'], c['bias']), Attention(c)
        self.ln_2, self.mlp = Norm(c['n_embd'], c['bias']), Mlp(c)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(c['vocab_size'], c['n_embd']),
            wpe=nn.Embedding(c['block_size'], c['n_embd']),
            h=nn.ModuleList([Block(c) for _ in range(c['n_layer'])]),
            ln_f=Norm(c['n_embd'], c['bias'])))
        self.lm_head = nn.Linear(c['n_embd'], c['vocab_size'], bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids):
        t = self.transformer
        x = t.wte(ids) + t.wpe(torch.arange(ids.shape[1]))
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))


def randomise(model, generator):
    """Fills every parameter so that logits spread by several units and no bias is zero."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if '.ln_' in name:
            p.data = noise * 0.2 + (1.0 if name.endswith('weight') else 0.0)
        elif name.endswith('bias'):
            p.data = noise * 0.2
        elif 'wpe' in name:
            p.data = noise * 0.3
        elif 'wte' in name or 'lm_head' in name:
            p.data = noise * 0.5
        else:
            p.data = noise * 1.2 / p.shape[0] ** 0.5


def fill(batches, logits_of):
    """Adds logits (real positions) and the mean loss over labels, shifted as transformers does."""
    for b in batches:
        mask, labels = torch.tensor(b['attention_mask']), torch.tensor(b['labels'])
        with torch.inference_mode():
            logits = logits_of(torch.tensor(b['input_ids']), mask)
        wanted = labels[:, 1:] != -100
        b['loss'] = None
        if wanted.any():
            picked = logits[:, :-1].double().log_softmax(-1)
            picked = picked.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
            b['loss'] = digits(-picked[wanted].mean().item())
        b['logits'] = [
            [[float(f'{v:.7g}') for v in logits[i, t].tolist()] if mask[i, t] else None
             for t in range(mask.shape[1])] for i in range(mask.shape[0])]
    return batches


def batches_of(vocab, generator, left):
    """The OPT fixtures' batches; those padded on the left only for models that know masks."""
    kept = [b for b in make_batches(vocab, generator) if left or 'left' not in b['name']]
    return [b for b in kept if b['name'] != 'one-token-right' or not left]


def save(name, config, tensors, batches):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(folder, 'config.json'), 'w') as f:
        f.write(json.dumps(config, indent=2, sort_keys=True) + '\n')
    save_file(tensors, os.path.join(folder, 'model.safetensors'), {'format': 'pt'})
    write_json(os.path.join(folder, 'expected.json'), dict(
        layout=name, transformers=transformers.__version__, torch=torch.__version__,
        batches=batches))
    for file in os.listdir(folder):  # safetensors makes its files private
        os.chmod(os.path.join(folder, file), 0o644)
    return folder


def make_gpt2(name, prefix, masks=False, dtype=torch.float32, config={}):
    generator = torch.Generator().manual_seed(2000 + len(name))
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=16, n_layer=2, n_head=2, **config)
    model = GPT2LMHeadModel._from_config(config, attn_implementation='eager')
    randomise(model, generator)
    model.tie_weights()
    model.eval()
    stored = {k: v.to(dtype) for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.float() for k, v in stored.items()})
    if config.tie_word_embeddings:
        del stored['lm_head.weight']
    stored = {(prefix + k[len('transformer.'):] if k.startswith('transformer.') else k): v.contiguous()
              for k, v in stored.items()}
    if masks:
        mask = torch.ones(16, 16).tril()[None, None]
        for i, kind in enumerate([torch.float32, torch.uint8]):  # both are found in the wild
            stored[f'{prefix}h.{i}.attn.bias'] = mask.to(kind)
            stored[f'{prefix}h.{i}.attn.masked_bias'] = torch.tensor(-1e4)

    def logits(ids, mask):
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
        return model(input_ids=ids, attention_mask=mask, position_ids=position_ids).logits

    keys = ('vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head', 'n_inner',
            'layer_norm_epsilon', 'activation_function', 'tie_word_embeddings', 'model_type')
    written = {k: v for k, v in config.to_dict().items() if k in keys}
    written['architectures'] = ['GPT2LMHeadModel']
    save(name, written, stored, fill(batches_of(61, generator, True), logits))


def make_nanogpt(name, bias, vocab_size):
    generator = torch.Generator().manual_seed(3000 + len(name))
    args = dict(n_layer=2, n_head=2, n_embd=16, block_size=16, bias=bias, vocab_size=vocab_size,
                dropout=0.0)
    model = NanoGpt(args)
    randomise(model, generator)
    state = model.state_dict()
    once = {k: v for k, v in state.items() if k != 'lm_head.weight'}
    folder = save(name, dict(model_type='nanogpt', **args), once,
                  fill(batches_of(vocab_size, generator, False), lambda ids, mask: model(ids)))
    if bias:
        return
    # ckpt.pt as nanoGPT's train.py saves it: a compiled model, AdamW's state after a step
    os.remove(os.path.join(folder, 'model.safetensors'))
    os.remove(os.path.join(folder, 'config.json'))
    moved = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    moved.step()
    torch.save(dict(
        model=OrderedDict((f'_orig_mod.{k}', v) for k, v in model.state_dict().items()),
        optimizer=moved.state_dict(), model_args=args, iter_num=250,
        best_val_loss=torch.tensor(1.5), config=dict(dataset='shakespeare_char', dropout=0.2,
                                                     learning_rate=1e-3, compile=True)),
        os.path.join(folder, 'ckpt.pt'))


def main():
    for name, options in GPT2.items():
        make_gpt2(name, **options)
    for name, options in NANOGPT.items():
        make_nanogpt(name, **options)


if __name__ == '__main__':
    main()
