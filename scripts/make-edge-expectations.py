#!/usr/bin/env python3
"""Writes test/fixtures/edges.json: what `transformers` makes of other activations, and of rows that see
no key.

Needs torch and `transformers` 4.45.2 (`pip install torch transformers==4.45.2` in a venv of its own).
Each model that has an `activation_function` runs with every one that models/config.ts knows, the
weights as they are. Rows that see no key are those before the first token of a row padded on the left:
all their logits are written, and losses of labels on first tokens, which such rows predict. OPT attends
eagerly, as it does by default in that version, GPT-2 by PyTorch's own attention, likewise. (In
`transformers` 5 only eager attention still gives these values; by PyTorch's own such rows are zeros.)
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
PAD = 1
ACTIVATIONS = ["relu", "gelu", "gelu_new", "gelu_pytorch_tanh"]
MODELS = ["layouts/pre-norm-tied", "layouts/post-norm-proj", "gpt/gpt2-hub"]
PLAIN = [[5, 17, 29, 40], [8, 60, 2, 31]]
PADDED = [[PAD, PAD, 5, 6], [PAD, 9, 23, 7], [12, 30, 4, 11], [PAD, PAD, PAD, 5]]


def load(name, activation=None):
    config = AutoConfig.from_pretrained(FIXTURES / name)
    config.activation_function = activation or config.activation_function
    model = AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, config=config, torch_dtype=torch.float32)
    return model.eval()


def run(model, ids, labels):
    """One batch in the form of expected.json, with the logits of every row."""
    ids, labels = torch.tensor(ids), torch.tensor(labels)
    mask = (ids != PAD).long()
    more = {}
    if model.config.model_type == "gpt2":
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        out = model(input_ids=ids, attention_mask=mask, labels=labels, **more)
    logits = [[[float(f"{v:.7g}") for v in row] for row in rows] for rows in out.logits.tolist()]
    return {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "labels": labels.tolist(),
            "loss": digits(out.loss.item()), "logits": logits}


def main():
    batches = []
    for name in ["layouts/pre-norm-tied", "gpt/gpt2-hub"]:
        for activation in ACTIVATIONS:
            made = run(load(name, activation), PLAIN, PLAIN)
            batches.append({"name": f"{activation} in {name}", "model": name,
                            "activation_function": activation, **made})
    for name in MODELS:
        labels = [[-100 if i == PAD else i for i in row] for row in PADDED]
        batches.append({"name": f"labels on first tokens in {name}", "model": name,
                        **run(load(name), PADDED, labels)})
    lines = ",\n".join(
        "  {\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}"
                             for k, v in batch.items()) + "\n  }" for batch in batches)
    head = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    (FIXTURES / "edges.json").write_text(f'{head[:-1]}, "batches": [\n{lines}\n]}}\n')


main()
