#!/usr/bin/env python3
"""Writes a random OPT checkpoint of a true shape (125m, 350m, 1.3b), so that benches need no hub.

A loadable Hugging Face folder: config.json, model.safetensors (tied head left out), and a
tokenizer that has the real number of ids: the tiny OPT's byte-level BPE, the other ids filled
with strings that no text can reach. Seeded; written piece by piece, so memory stays small.
Needs numpy only.
"""

import argparse
import json
import os
import shutil

import numpy as np

VOCAB, TOKENIZER_IDS, POSITIONS = 50272, 50265, 2048
# layers, hidden, heads, feed-forward, embedding width, norm before
SHAPES = {
    '125m': (12, 768, 12, 3072, 768, True),
    '350m': (24, 1024, 16, 4096, 512, False),
    '1.3b': (24, 2048, 32, 8192, 2048, True),
}
PIECE = 1 << 22  # elements drawn at a time
TINY_OPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                        'test', 'fixtures', 'tiny-opt')


def config_of(size, layers, dtype):
    """config.json as the hub has it for this size."""
    count, hidden, heads, ffn, embed, norm_before = SHAPES[size]
    return dict(
        _remove_final_layer_norm=False, activation_dropout=0.0, activation_function='relu',
        architectures=['OPTForCausalLM'], attention_dropout=0.0, bos_token_id=2,
        do_layer_norm_before=norm_before, dropout=0.1, eos_token_id=2, ffn_dim=ffn,
        hidden_size=hidden, init_std=0.02, layerdrop=0.0, max_position_embeddings=POSITIONS,
        model_type='opt', num_attention_heads=heads, num_hidden_layers=layers or count,
        pad_token_id=1, prefix='</s>', torch_dtype=dtype, use_cache=True, vocab_size=VOCAB,
        word_embed_proj_dim=embed)


def tensors_of(config):
    """Name and shape of every tensor, in file order."""
    hidden, ffn = config['hidden_size'], config['ffn_dim']
    embed = config['word_embed_proj_dim']
    out = [('embed_tokens.weight', (VOCAB, embed)),
           ('embed_positions.weight', (POSITIONS + 2, hidden))]
    if embed != hidden:
        out += [('project_in.weight', (hidden, embed)), ('project_out.weight', (embed, hidden))]
    for n in range(config['num_hidden_layers']):
        linear = [(f'self_attn.{p}_proj', hidden, hidden) for p in 'qkv'] + [
            ('self_attn.out_proj', hidden, hidden), ('fc1', ffn, hidden), ('fc2', hidden, ffn)]
        for name, rows, columns in linear:
            out += [(f'layers.{n}.{name}.weight', (rows, columns)),
                    (f'layers.{n}.{name}.bias', (rows,))]
        for norm in ('self_attn_layer_norm', 'final_layer_norm'):
            out += [(f'layers.{n}.{norm}.{part}', (hidden,)) for part in ('weight', 'bias')]
    if config['do_layer_norm_before']:
        out += [('final_layer_norm.weight', (hidden,)), ('final_layer_norm.bias', (hidden,))]
    return [(f'model.decoder.{name}', shape) for name, shape in out]


def values(name, count, rng):
    """f32 values of one piece, as OPT initialises them: N(0, 0.02), norms 1, biases 0."""
    if name.endswith('bias'):
        return np.zeros(count, np.float32)
    if 'layer_norm' in name:
        return np.ones(count, np.float32)
    return rng.standard_normal(count, dtype=np.float32) * np.float32(0.02)


def write_safetensors(path, tensors, dtype, seed):
    """Header first (u64 length, JSON, spaces to a multiple of 8), then the tensors in order."""
    kind = np.dtype(dtype).newbyteorder('<')
    header, at = {'__metadata__': {'format': 'pt'}}, 0
    for name, shape in tensors:
        end = at + int(np.prod(shape)) * kind.itemsize
        header[name] = dict(dtype=f'F{kind.itemsize * 8}', shape=shape, data_offsets=[at, end])
        at = end
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path + '.tmp', 'wb') as f:
        f.write(len(text).to_bytes(8, 'little') + text)
        for number, (name, shape) in enumerate(tensors):
            rng, left = np.random.default_rng([seed, number]), int(np.prod(shape))
            while left > 0:
                count = min(left, PIECE)
                f.write(values(name, count, rng).astype(kind).tobytes())
                left -= count
    os.replace(path + '.tmp', path)
    return at


def write_tokenizer(folder):
    """The tiny OPT's tokenizer with its vocabulary filled up to OPT's number of ids."""
    for name in ('merges.txt', 'tokenizer_config.json', 'special_tokens_map.json'):
        shutil.copyfile(os.path.join(TINY_OPT, name), os.path.join(folder, name))
    with open(os.path.join(TINY_OPT, 'vocab.json')) as f:
        vocab = json.load(f)
    vocab.update({f'madeupword{i:05d}': i for i in range(len(vocab), TOKENIZER_IDS)})
    with open(os.path.join(folder, 'vocab.json'), 'w') as f:
        json.dump(vocab, f, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('size', choices=SHAPES)
    parser.add_argument('out', help='folder to write')
    parser.add_argument('--layers', type=int, default=0, help='fewer or more blocks than the size')
    parser.add_argument('--dtype', choices=['float16', 'float32'], default='float16')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    config = config_of(args.size, args.layers, args.dtype)
    with open(os.path.join(args.out, 'config.json'), 'w') as f:
        f.write(json.dumps(config, indent=2) + '\n')
    write_tokenizer(args.out)
    size = write_safetensors(os.path.join(args.out, 'model.safetensors'), tensors_of(config),
                             args.dtype, args.seed)
    print(f'{args.out}: OPT-{args.size} shape, {config["num_hidden_layers"]} layers, '
          f'{size / 1e6:.1f} MB of {args.dtype}')


if __name__ == '__main__':
    main()
