#!/usr/bin/env python3
"""Writes test/fixtures/beams.json: what `transformers` generates by beam search, and greedily.

Needs python3-torch (Debian 12) and `transformers` 4.45.2; test/fixtures/README.md has the recipe.
Prompts are padded on the left; texts are given without prompt, end token and padding, all beams of a
prompt, best first, in f32. The end tokens are picked among those that a search without any makes.
"""
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import torch
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "test/fixtures"
LAYOUTS = ["layouts/pre-norm-tied", "layouts/post-norm-proj", "gpt/gpt2-hub", "tiny-opt"]
PROMPTS = [[5, 17, 29], [40, 3, 8, 60, 2, 31], [9]]
PAD = 1


def search(model, beams, length_penalty, eos, max_new_tokens):
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS])
    model.generation_config.eos_token_id = eos
    made = model.generate(
        input_ids=ids, attention_mask=mask, pad_token_id=PAD, eos_token_id=eos, do_sample=False,
        num_beams=beams, num_return_sequences=beams, length_penalty=length_penalty,
        early_stopping=False, max_new_tokens=max_new_tokens, min_new_tokens=None)
    texts = [row[longest:].tolist() for row in made]
    return [text[:text.index(eos)] if eos in text else text for text in texts]


def main():
    cases = []
    for layout in LAYOUTS:
        model = AutoModelForCausalLM.from_pretrained(FIXTURES / layout, torch_dtype=torch.float32)
        model.eval()
        free = search(model, 3, 1.0, None, 9)
        ends = [free[0][2], free[4][4]]
        settings = [(1, 1.0, None, 9), (3, 1.0, None, 9)]
        settings += [(3, 1.0, ends[0], 9), (4, 0.0, ends[1], 9), (2, 2.5, ends[0], 10),
                     (5, -1.0, ends[1], 7), (8, 1.0, ends[1], 1)]
        for beams, penalty, eos, most in settings:
            texts = search(model, beams, penalty, eos, most)
            cases.append({"layout": layout, "beams": beams, "length_penalty": penalty,
                          "eos": -1 if eos is None else eos, "max_new_tokens": most,
                          "texts": texts})
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    (FIXTURES / "beams.json").write_text("[\n" + lines + "\n]\n")


main()
