#!/usr/bin/env python3
"""Checks that PyTorch and nanoGPT can use a ckpt.pt of ours.

  check-nanogpt-checkpoint.py CKPT [EXPECTED]

Loads it with weights_only=True (nothing executed), as train.py and sample.py do: the state dict into
the network strictly, the optimizer's state into AdamW with nanoGPT's groups, one step of it. With
EXPECTED (an expected.json of test/fixtures/gpt) its logits must be those, to 1e-5.
Needs what scripts/make-gpt-fixtures.py needs, but PyTorch 2 (as nanoGPT does): 1.13's weights_only
knows no floating-point numbers, not even those of its own optimizers.
"""

import importlib.util
import json
import os
import sys

import torch

sys.dont_write_bytecode = True  # leave no __pycache__ in the checkout
HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location(
    'fixtures_of_gpt', os.path.join(HERE, 'make-gpt-fixtures.py'))
gpt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpt)


def main():
    checkpoint = torch.load(sys.argv[1], map_location='cpu', weights_only=True)
    args = checkpoint['model_args']
    model = gpt.NanoGpt(args)
    model.load_state_dict(checkpoint['model'])
    parameters = list(model.parameters())
    print(f"{sys.argv[1]}: {sum(p.numel() for p in parameters)} parameters, {args}, "
          f"iter_num {checkpoint['iter_num']}, best_val_loss {checkpoint['best_val_loss']}")

    if len(sys.argv) > 2:
        worst = 0.0
        with open(sys.argv[2]) as f:
            batches = json.load(f)['batches']
        for b in batches:
            with torch.inference_mode():
                logits = model(torch.tensor(b['input_ids']))
            for i, row in enumerate(b['logits']):
                for t, expected in enumerate(row):
                    if expected is not None:
                        worst = max(worst, (logits[i, t] - torch.tensor(expected)).abs().max().item())
        assert worst < 1e-5, worst
        print(f'logits: largest difference {worst:.1e}')

    groups = [dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=0.1),
              dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95))
    optimizer.load_state_dict(checkpoint['optimizer'])
    logits = model(torch.tensor([[1, 2, 3]]))
    torch.nn.functional.cross_entropy(logits[0], torch.tensor([2, 3, 4])).backward()
    optimizer.step()
    print('optimizer: loaded, one step taken')


if __name__ == '__main__':
    main()
