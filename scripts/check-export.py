#!/usr/bin/env python3
"""Checks that a folder written by `zo2 export` loads in Hugging Face `transformers`.

With --expect, also that the logits are the ones zo2 computed: the file holds
{"batches": [{"input_ids": [[..]], "attention_mask": [[..]], "logits": [[[..] or null, ..]]}]}
with null at padded positions. Computed in f32 with eager attention. Exit code 1 if a tensor is
missing or left over, or if any logit differs by more than 1e-4.
"""

import argparse
import json
import math
import os
import sys

import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def difference(model, batch):
    """Largest |logit - expected| over the positions that have expected values, and their count."""
    ids, mask = torch.tensor(batch['input_ids']), torch.tensor(batch['attention_mask'])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    worst, count = 0.0, 0
    for got_row, want_row, mask_row in zip(logits, batch['logits'], mask.tolist(), strict=True):
        for got, want, real in zip(got_row, want_row, mask_row, strict=True):
            if want is None and real:
                sys.exit('a real position has null instead of logits; write every one')
            if want is None or not real:
                continue
            gap = (got - torch.tensor(want)).abs().max().item()
            if math.isnan(gap):
                return math.inf, count + 1
            worst, count = max(worst, gap), count + 1
    return worst, count


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='the exported Hugging Face folder')
    parser.add_argument('--expect', help='JSON file with the logits that zo2 computed')
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.folder, 'config.json')):
        sys.exit(f'{args.folder}: expected an exported folder, found no config.json in it')
    model, info = AutoModelForCausalLM.from_pretrained(
        args.folder, torch_dtype=torch.float32, attn_implementation='eager',
        output_loading_info=True)
    for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
        if info[kind]:
            sys.exit(f'{args.folder}: {kind} {sorted(info[kind])[:5]}, expected none')
    model.eval()
    if args.expect is None:
        print(f'{args.folder}: loads, {model.num_parameters():,} parameters')
        return
    with open(args.expect) as f:
        batches = json.load(f)['batches']
    results = [difference(model, b) for b in batches]
    positions = sum(n for _, n in results)
    if positions == 0:
        sys.exit(f'{args.expect}: holds no logits to compare')
    worst = max(d for d, _ in results)
    ok = worst <= TOLERANCE
    print(f'{args.folder}: max abs difference {worst:.3g} over {positions} positions '
          f'({"ok" if ok else f"above {TOLERANCE:g}"})')
    sys.exit(0 if ok else 1)


if __name__ == '__main__':
    main()
