#!/usr/bin/env python3
"""Loads what qlora-train wrote in transformers + bitsandbytes + PEFT and compares logits.

Usage: check_interop.py QUANTIZED_DIR ADAPTER_DIR IDS BASE_LOGITS ADAPTER_LOGITS
IDS is comma-separated; the logits are raw f32 [tokens, vocab], written by the `logits` example.
"""
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer

import f32

TOLERANCE = 1e-4  # of the largest logit; both sides compute in f32


def compare(what, model, ids, path):
    ours = torch.from_numpy(np.fromfile(path, dtype="<f4")).reshape(len(ids), -1)
    theirs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach()
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"{what}: largest difference {error:.2e} of the largest logit, same argmax at {same:.0%} of {len(ids)} positions")
    if not error <= TOLERANCE:
        sys.exit(f"{what}: differs by more than {TOLERANCE}")


def main():
    quantized, adapter, ids, base_logits, adapter_logits = sys.argv[1:]
    ids = [int(i) for i in ids.split(",")]
    model, report = f32.load(quantized)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(key):
            sys.exit(f"{quantized}: {key}: {report[key]}")
    linears = sum(isinstance(module, Linear4bit) for module in model.modules())
    print(f"transformers loads {quantized}: {linears} 4-bit linears, no missing or unexpected key")
    tokenizer = AutoTokenizer.from_pretrained(quantized)
    print(f"its tokenizer: {type(tokenizer).__name__}, {tokenizer.decode(ids)!r}")
    compare("quantized base", model, ids, base_logits)

    model = get_peft_model(model, PeftConfig.from_pretrained(adapter))
    result = set_peft_model_state_dict(model, load_file(f"{adapter}/adapter_model.safetensors"))
    missing = [k for k in result.missing_keys if "lora_" in k]
    if missing or result.unexpected_keys:
        sys.exit(f"{adapter}: missing {missing}, unexpected {result.unexpected_keys}")
    print(f"PEFT loads {adapter}: no missing or unexpected key")
    compare("with adapter", model, ids, adapter_logits)


main()
