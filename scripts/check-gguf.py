#!/usr/bin/env python3
"""Checks what zo2 makes of a llama GGUF against the `gguf` package and `transformers`.

  scripts/check-gguf.py "$(scripts/fetch-smollm2.sh)"

1. `zo2 convert` writes a safetensors folder; every tensor equals what the `gguf` package dequantises, with the
   rows of q and k put back by the inverse of llama.cpp's permutation.
2. The tokenizer of that folder gives, in `transformers`, known ids.
3. Logits of five prompts differ from those of `transformers` (f32, eager) by less than 1e-3, and the greedy
   continuations of both are the same, token by token.
4. `zo2 convert` writes the folder as GGUF again: the `gguf` package reads the metadata of the first file from it, and
   in f32 the numbers of the first file, in q8_0 the blocks that it makes of these.

Needs: torch, transformers, safetensors, gguf; npm packages of this repository.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from gguf import quants
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROMPTS = ['Hello world', 'In 1984, 2 + 22 = 24.', 'The capital of France is', 'Once upon a time, there was',
           '<|im_start|>user\nWhat is 12*12?<|im_end|>\n<|im_start|>assistant\n']
KNOWN = {  # ids by the Rust tokenizer, of SmolLM2
    'Hello world': [19556, 905],
    'In 1984, 2 + 22 = 24.': [788, 216, 33, 41, 40, 36, 28, 216, 34, 1232, 216, 34, 34, 446, 216, 34, 36, 30],
    'na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \u00bd': [
        3546, 46494, 37366, 1841, 17097, 241, 115, 40993, 179, 120, 248, 216, 16738],
}
NAMES = {'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head'}
BLOCK = {'attn_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm', 'attn_output': 'self_attn.o_proj',
         **{f'attn_{x}': f'self_attn.{x}_proj' for x in 'qkv'}, **{f'ffn_{x}': f'mlp.{x}_proj' for x in ('gate', 'up', 'down')}}


def own_name(name):
    parts = name.split('.')
    if parts[0] != 'blk':
        return f'{NAMES[parts[0]]}.{parts[1]}'
    return f'model.layers.{parts[1]}.{BLOCK[parts[2]]}.{parts[3]}'


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def check_tensors(path, folder):
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[key].contents()  # noqa: E731
    heads = dict(q=value('llama.attention.head_count'), k=value('llama.attention.head_count_kv'))
    ours = load_file(os.path.join(folder, 'model.safetensors'))
    for tensor in reader.tensors:
        wide = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if '.attn_q.' in tensor.name or '.attn_k.' in tensor.name:
            wide = unpermute(wide, heads[tensor.name.split('.')[2][-1]])
        got = ours.pop(own_name(tensor.name))
        if got.dtype != np.float32 or got.tobytes() != wide.tobytes():
            sys.exit(f'{tensor.name}: other bytes')
    assert not ours, list(ours)
    print(f'{len(reader.tensors)} tensors are equal, bit by bit')


# Said of the first file by whoever made it.
OTHERS = ('GGUF.', 'general.')


def check_written(path, written, kind):
    first, second = gguf.GGUFReader(path), gguf.GGUFReader(written)
    for key, field in first.fields.items():
        if key.startswith(OTHERS) or key == 'tokenizer.ggml.add_space_prefix':
            continue
        if second.fields[key].types != field.types or second.fields[key].contents() != field.contents():
            sys.exit(f'{key}: {second.fields[key].contents()}')
    ours = {tensor.name: tensor for tensor in second.tensors}
    for tensor in first.tensors:
        wide = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        want = quants.quantize(wide, kind) if len(tensor.shape) > 1 else wide
        got = ours.pop(tensor.name)
        if got.data.tobytes() != want.tobytes() or got.shape.tolist() != tensor.shape.tolist():
            sys.exit(f'{tensor.name}: other bytes in {written}')
    assert not ours, list(ours)
    print(f'{os.path.basename(written)} is what the gguf package makes of it')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('gguf')
    parser.add_argument('--tokens', type=int, default=32)
    args = parser.parse_args()
    path = os.path.abspath(args.gguf)
    with tempfile.TemporaryDirectory() as work:
        folder = os.path.join(work, 'model')
        run = lambda *words: subprocess.run(['npx', 'tsx', *words], cwd=ROOT, check=True)  # noqa: E731
        run('src/cli/bin.ts', 'convert', path, folder, '--quiet')
        check_tensors(path, folder)
        for name, kind in [('f32', gguf.GGMLQuantizationType.F32), ('q8_0', gguf.GGMLQuantizationType.Q8_0)]:
            written = os.path.join(work, f'{name}.gguf')
            run('src/cli/bin.ts', 'convert', folder, written, '--to', name, '--quiet')
            check_written(path, written, kind)
            os.remove(written)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text, ids in KNOWN.items():
            if tokenizer(text).input_ids != ids:
                sys.exit(f'{text!r}: {tokenizer(text).input_ids}')
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in PROMPTS]
        with open(os.path.join(work, 'prompts.json'), 'w') as f:
            json.dump(ids, f)
        run('scripts/gguf-logits.ts', path, os.path.join(work, 'prompts.json'), str(args.tokens), os.path.join(work, 'out.json'))
        with open(os.path.join(work, 'out.json')) as f:
            ours = json.load(f)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval()
        model.generation_config.eos_token_id = None  # go on behind the end
        for text, prompt, logits, tokens in zip(PROMPTS, ids, ours['logits'], ours['texts'], strict=True):
            with torch.inference_mode():
                want = model(torch.tensor([prompt])).logits[0, -1]
                made = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=args.tokens, pad_token_id=0)[0, len(prompt):].tolist()
            gap = (want - torch.tensor(logits)).abs().max().item()
            same = next((i for i, (a, b) in enumerate(zip(made, tokens)) if a != b), len(made))
            print(f'{text!r}: logits differ by {gap:.2e} (of {want.abs().max().item():.1f}), '
                  f'{same} of {len(made)} greedy tokens equal: {tokenizer.decode(tokens)!r}')
            if gap > 1e-3 or same < len(made):
                sys.exit('not the same model')


if __name__ == '__main__':
    main()
