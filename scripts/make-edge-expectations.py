#!/usr/bin/env python3
"""Writes test/fixtures/edges.json: what `transformers` makes of other activations.

Needs torch and `transformers` 4.45.2 (`pip install torch transformers==4.45.2` in a venv of its own).
Each model that has an `activation_function` runs with every one that models/config.ts knows, the
weights as they are.
"""
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from fixtures.layouts import digits

FIXTURES = Path(__file__).resolve().parent.parent / "test/fixtures"
ACTIVATIONS = ["relu", "gelu", "gelu_new", "gelu_pytorch_tanh"]
MODELS = ["layouts/pre-norm-tied", "gpt/gpt2-hub"]
IDS = [[5, 17, 29, 40], [8, 60, 2, 31]]


def load(name, activation):
    config = AutoConfig.from_pretrained(FIXTURES / name)
    config.activation_function = activation
    model = AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, config=config, torch_dtype=torch.float32)
    return model.eval()


def run(model):
    """One batch in the form of expected.json, with the logits of every row."""
    ids = torch.tensor(IDS)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        out = model(input_ids=ids, attention_mask=mask, labels=ids)
    logits = [[[float(f"{v:.7g}") for v in row] for row in rows] for rows in out.logits.tolist()]
    return {"input_ids": IDS, "attention_mask": mask.tolist(), "labels": IDS,
            "loss": digits(out.loss.item()), "logits": logits}


def main():
    batches = []
    for name in MODELS:
        for activation in ACTIVATIONS:
            batches.append({"name": f"{activation} in {name}", "model": name,
                            "activation_function": activation, **run(load(name, activation))})
    lines = ",\n".join(
        "  {\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}"
                             for k, v in batch.items()) + "\n  }" for batch in batches)
    head = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    (FIXTURES / "edges.json").write_text(f'{head[:-1]}, "batches": [\n{lines}\n]}}\n')


main()
