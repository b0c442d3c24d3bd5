#!/usr/bin/env python3
"""Makes everything under test/fixtures that needs PyTorch; the tests themselves need no Python.

  decoders  expected logits of random tiny Llama, Qwen, Mistral, Gemma, SmolLM and Phi models
  gguf      blocks of every GGUF type and tiny GGUF files, with the values that the `gguf` package reads
  tokenizers  small tokenizers of the families, with the ids of hard strings
  layouts   random tiny OPT checkpoints of every layout, with expected logits and losses
  corpus    the public-domain text, from installed Debian packages and one Go module
  pretrain  the tokenizer and the tiny OPT (first-order AdamW), with regular checkpoints
  tiny-opt  the last checkpoint as test/fixtures/tiny-opt, with expected tokens and logits

Needs: python3-torch (Debian 12), and `transformers`, `tokenizers`, `safetensors` from PyPI in a
virtual environment with system site packages. test/fixtures/README.md has the exact recipe.
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True  # leave no __pycache__ in the checkout
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=['decoders', 'gguf', 'tokenizers', 'layouts', 'corpus', 'pretrain',
                                         'tiny-opt'])
    parser.add_argument('--work', default=os.path.join(ROOT, '.cache', 'fixtures'),
                        help='folder for the corpus and training checkpoints')
    parser.add_argument('--out', default=os.path.join(ROOT, 'test', 'fixtures'))
    parser.add_argument('--steps', type=int, default=5000, help='training steps (pretrain)')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    if args.part == 'corpus':
        from fixtures.corpus import make_corpus
        make_corpus(args.work)
        return
    if args.part == 'gguf':  # with the `gguf` package alone
        from fixtures.gguf import make_gguf
        make_gguf(os.path.join(args.out, 'gguf'))
        return
    if args.part == 'tokenizers':
        from fixtures.tokenizers import make_tokenizers
        make_tokenizers(os.path.join(args.out, 'tokenizer-families'))
        return
    import torch
    torch.set_num_threads(args.threads)
    if args.part == 'decoders':  # with the current wheels of torch and transformers
        from fixtures.decoders import make_decoders
        make_decoders(os.path.join(args.out, 'decoders'))
    elif args.part == 'layouts':
        from fixtures.layouts import make_layouts
        make_layouts(os.path.join(args.out, 'layouts'))
    elif args.part == 'pretrain':
        from fixtures.pretrain import pretrain
        pretrain(args.work, args.steps)
    else:
        from fixtures.tiny_opt import make_tiny_opt
        make_tiny_opt(args.work, os.path.join(args.out, 'tiny-opt'),
                      os.path.join(ROOT, 'examples', 'tinyshakespeare', 'val.txt'))


if __name__ == '__main__':
    main()
