"""Loads an adapter with peft on its base and compares logits: of LoRA with the exported model of the
same run, of a prefix with those that scripts/prefix-logits.ts wrote.

Needs torch, transformers and peft (measured with 1.13, 4.45.2 and 0.10.0).
    python scripts/check-adapter.py test/fixtures/tiny-opt out/lora-run/adapter out/lora-run/model
    python scripts/check-adapter.py test/fixtures/tiny-opt out/prefix out/prefix.json
"""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, exported = sys.argv[1:4]
ids = torch.arange(5, 37).reshape(2, 16)
load = lambda path: AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32).eval()
with torch.no_grad():
    plain = load(base)
    start = plain(ids).logits
    with_adapter = PeftModel.from_pretrained(plain, adapter).eval()(ids).logits
    if exported.endswith(".json"):
        expected = torch.tensor(json.load(open(exported))["logits"]).reshape(start.shape)
    else:
        expected = load(exported)(ids).logits
print(f"adapter against what zo2 computes: {(with_adapter - expected).abs().max():.2e}")
print(f"adapter against base:              {(with_adapter - start).abs().max():.2e}")
