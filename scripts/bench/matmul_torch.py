"""Products of bf16 activations with an NF4 weight in bitsandbytes and with a bf16 one in torch; prints lines of JSON.

Usage: matmul_torch.py SECONDS M,N,K...

`adapter` adds what PEFT computes for r = 16 in the same types; its backward then includes the adapter's gradients.
"""
import json
import sys

import rival
import bitsandbytes
import torch
from bitsandbytes.functional import quantize_4bit

R = 16


def products(m, n, k):
    """Name, whether with adapter, and a function of x."""
    weight = (0.02 * torch.randn(n, k)).bfloat16()
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    a, b = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in [(R, k), (n, R)])
    four_bit = lambda x: bitsandbytes.matmul_4bit(x, packed, quant_state=state)
    yield "bitsandbytes", False, four_bit
    yield "bitsandbytes", True, lambda x: four_bit(x) + (x @ a.T) @ b.T * 2
    yield "torch dense bf16", False, lambda x: torch.nn.functional.linear(x, weight)


def main():
    seconds = float(sys.argv[1])
    for shape in sys.argv[2:]:
        m, n, k = map(int, shape.split(","))
        x, dy = torch.randn(m, k, dtype=torch.bfloat16), torch.randn(m, n, dtype=torch.bfloat16)
        for contender, adapter, product in products(m, n, k):
            with torch.no_grad():
                forward = rival.median_ms(lambda: product(x), seconds)
            prepare = lambda: (product(x.detach().requires_grad_(True)),)
            backward = rival.median_ms(lambda y: y.backward(dy), seconds, prepare)
            sizes = {"m": m, "n": n, "k": k, "adapter": adapter}
            print(json.dumps({"contender": contender, **sizes, "forward_ms": forward, "dx_ms": backward}))


if __name__ == "__main__":
    main()
