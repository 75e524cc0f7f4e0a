"""Quantising and restoring a 4096 x 4096 weight with nested absmax in bitsandbytes; prints lines of JSON.

Usage: quantize_bnb.py SECONDS
"""
import json
import sys

import rival
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit


def main():
    seconds = float(sys.argv[1])
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        weight = (0.02 * torch.randn(4096, 4096)).to(dtype)
        quantize = lambda: quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        packed, state = quantize()
        for operation, run in [("quantize", quantize), ("dequantize", lambda: dequantize_4bit(packed, state))]:
            print(json.dumps({"operation": operation, "dtype": name, "ms": rival.median_ms(run, seconds)}))


if __name__ == "__main__":
    main()
