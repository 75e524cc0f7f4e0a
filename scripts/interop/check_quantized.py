#!/usr/bin/env python3
"""Checks that a directory written by `qlora-train quantize` is what bitsandbytes itself makes of the same model.

Usage: check_quantized.py QUANTIZED_DIR ORIGINAL_DIR

Loads both in transformers, ORIGINAL_DIR quantized by bitsandbytes while loading, and compares the packed codes and
the restored scales of every linear, every other parameter, and the logits.
"""
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import bitsandbytes.functional as F
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

TOKENS = 32
ROWS = 2
# Of the largest logit: the weights are equal, so only the order of sums may differ.
LOGIT_TOLERANCE = 1e-6


def load(path, **options):
    model, report = AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", device_map={"": "cpu"}, output_loading_info=True, **options
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(key):
            sys.exit(f"{path}: {key}: {report[key]}")
    # In training mode bitsandbytes dequantizes; in evaluation it may repack the weights for a bf16 kernel.
    return model.train()


def linears(model):
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def scales(weight):
    state = weight.quant_state
    if not state.nested:
        return state.absmax
    return F.dequantize_blockwise(state.absmax, state.state2) + state.offset


def compare_weights(ours, theirs):
    if ours.keys() != theirs.keys():
        sys.exit(f"quantized linears differ: {sorted(ours.keys() ^ theirs.keys())}")
    for name, weight in ours.items():
        other = theirs[name]
        if weight.quant_state.dtype != other.quant_state.dtype or weight.quant_state.shape != other.quant_state.shape:
            sys.exit(f"{name}: dtype or shape differs")
        if not torch.equal(weight.data.reshape(-1), other.data.reshape(-1)):
            sys.exit(f"{name}: packed codes differ")
        if not torch.equal(scales(weight), scales(other)):
            sys.exit(f"{name}: scales differ")
    print(f"{len(ours)} linears: all packed codes and scales equal")


def compare_rest(ours, theirs):
    quantized = {f"{name}.weight" for name in linears(ours)}
    others = dict(theirs.named_parameters())
    count = 0
    for name, parameter in ours.named_parameters():
        if name in quantized:
            continue
        count += 1
        if parameter.dtype != others[name].dtype or not torch.equal(parameter, others[name]):
            sys.exit(f"{name}: differs from the original")
    print(f"{count} other parameters: equal")


def compare_logits(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, ours.config.vocab_size, (ROWS, TOKENS), generator=generator)
    with torch.no_grad():
        a, b = (model(input_ids=ids, use_cache=False).logits.float() for model in (ours, theirs))
    error = ((a - b).abs().max() / b.abs().max()).item()
    same = (a.argmax(-1) == b.argmax(-1)).float().mean().item()
    print(f"logits: largest difference {error:.1e} of the largest logit, same argmax at {same:.1%} of {ids.numel()} positions")
    if not error <= LOGIT_TOLERANCE:
        sys.exit(f"logits differ by more than {LOGIT_TOLERANCE}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    quantized, original = sys.argv[1:]
    settings = AutoConfig.from_pretrained(quantized).quantization_config
    options = {key: value for key, value in settings.items() if key == "load_in_4bit" or key.startswith("bnb_4bit_")}
    ours = load(quantized)
    theirs = load(original, quantization_config=BitsAndBytesConfig(**options), dtype="auto")
    print(f"transformers loads {quantized}: no missing or unexpected key; {options}")
    compare_weights(linears(ours), linears(theirs))
    compare_rest(ours, theirs)
    compare_logits(ours, theirs)


if __name__ == "__main__":
    main()
