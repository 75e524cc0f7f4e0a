#!/usr/bin/env python3
"""Bounds from counts, not measurements: how fast Llama 3 8B can at most be trained on GeForce cards.

    scripts/layer-counts.py [--check]

Runs the kernels of one of its decoder layers (r = 16 on all seven linears) and of a part of its head on the
emulated device, at a few small numbers of tokens, and takes the counts to TOKENS tokens in sequences of LENGTH: in
proportion where a kernel goes over tokens, as a square within a sequence for attention. --check runs one more size
of each and says how far off that is. Takes minutes. No card ran any of it; no kernel can be faster than its bound,
which is the largest of

- matrix operations over the peak of the tensor cores, f32 instructions over that of the f32 lanes, all
  instructions over the issue slots;
- bytes over the bandwidth of the memory: of 4-bit products, attention and the head's products each operand once, as
  a perfect cache would have it; of other kernels as their threads ask for them.

Launches, waits, and steps of the optimizer are left out.
"""

import json
import os
import subprocess
import sys
import tempfile

TOKENS, LENGTH = 4096, 2048
LAYERS, HIDDEN, KV, HEADS, VOCABULARY = 32, 4096, 1024, 32, 128256
HEAD_SHARE = VOCABULARY / 4096  # of the vocabulary that the example has
# In features, out features.
LINEARS = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)]
WEIGHTS = sum(k * n for k, n in LINEARS)
PACKED = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: codes, scales, scales of scales
DEQUANTIZED = PACKED + 2  # read packed, written in bf16
SIZES = {"forward": [128, 256], "recompute": [128, 256], "backward": [128, 256], "attention": [256, 512, 768], "head": [128, 256]}
CHECKED = {"forward": 384, "recompute": 384, "backward": 384, "attention": 1024, "head": 384}
# Whitepapers of GA102 and AD102: dense bf16 with f32 sums, f32, bytes a second, warp instructions a second.
CARDS = {
    "RTX 3090": dict(matrix=71e12, f32=35.6e12, memory=936e9, issue=82 * 4 * 1.695e9),
    "RTX 4090": dict(matrix=165.2e12, f32=82.6e12, memory=1008e9, issue=128 * 4 * 2.52e9),
}


def run(part, tokens, program, environment):
    """Counts by kernel: matrix and f32 operations, warp instructions, bytes."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        environment = {**environment, "CUDA_EMULATOR_REPORT": report, "CUDA_EMULATOR_CHECKS": "none"}
        subprocess.run([program, part, str(tokens)], check=True, env=environment, stderr=subprocess.DEVNULL)
        with open(report) as file:
            kernels = json.load(file)["kernels"]
    counts = {}
    for name, kernel in kernels.items():
        f32 = 64 * kernel["instructions"].get("float32", 0)
        bytes_ = kernel["global_load_bytes"] + kernel["global_store_bytes"]
        found = [kernel["mma_flops"], f32, kernel["warp_instructions"], bytes_]
        total = counts.setdefault(family(part, name), [0] * 4)
        counts[family(part, name)] = [a + b for a, b in zip(total, found)]
    return counts


def family(part, kernel):
    """Kernels that differ in their tiles alone are one."""
    if kernel.startswith("nf4_matmul"):
        return "4-bit products"
    if kernel.startswith("dense_matmul"):
        return "bf16 products"
    if kernel.startswith("flash_attention"):
        return "attention, " + ("backward" if "backward" in kernel or "delta" in kernel else "forward")
    return kernel


def extrapolate(sizes, values, size):
    """The polynomial through the values, at `size`."""
    total = 0
    for i, (x, y) in enumerate(zip(sizes, values)):
        term = y
        for j, other in enumerate(sizes):
            if j != i:
                term *= (size - other) / (x - other)
        total += term
    return total


def counts_at(measured, size):
    kernels = sorted(set().union(*measured.values()))
    sizes = sorted(measured)
    at = lambda kernel, i: extrapolate(sizes, [measured[s].get(kernel, [0] * 4)[i] for s in sizes], size)
    return {kernel: [at(kernel, i) for i in range(4)] for kernel in kernels}


def operand_bytes(part, kernel):
    """Bytes of TOKENS tokens if each operand moves once; None where threads' requests are as good."""
    if kernel == "4-bit products":
        linears = LINEARS[:-1] if part == "recompute" else LINEARS
        return sum(2 * TOKENS * (k + n) + PACKED * k * n for k, n in linears)
    if kernel == "attention, forward":
        return 2 * TOKENS * (2 * HIDDEN + 2 * KV)
    if kernel == "attention, backward":
        return 2 * TOKENS * (4 * HIDDEN + 4 * KV)
    if part == "head" and kernel in ("matmul", "bf16 products"):
        return 2 * (2 * VOCABULARY * HIDDEN) + 2 * TOKENS * (4 * VOCABULARY + 2 * HIDDEN)
    return None


def bound(part, kernel, counts, card):
    """Seconds and what they are bound by."""
    matrix, f32, instructions, asked = counts
    once = operand_bytes(part, kernel)
    times = {
        "matrix": matrix / card["matrix"],
        "f32": f32 / card["f32"],
        "issue": instructions / card["issue"],
        "memory": (asked if once is None else once) / card["memory"],
    }
    return max((time, name) for name, time in times.items())


def scaled(measured):
    """By part and kernel, the counts of TOKENS tokens; of one layer or of the head."""
    result = {}
    for part, by_size in measured.items():
        for kernel, counts in counts_at(by_size, LENGTH if part == "attention" else TOKENS).items():
            times = TOKENS / LENGTH if part == "attention" else 1
            if part == "head" and kernel not in ("gather_rows", "scatter_rows"):
                times = HEAD_SHARE
            result[part, kernel] = [times * count for count in counts]
    return result


def passes(part, kernel, recompute):
    """How often a kernel's counts are met in a step of the whole model."""
    if part == "recompute":
        return LAYERS if recompute else 0
    again = kernel == "attention, forward" and recompute
    return 1 if part == "head" else LAYERS * (2 if again else 1)


def report(counts):
    print(f"Bounds from counts, not measurements. {TOKENS} tokens in sequences of {LENGTH}; one layer, and the head.\n")
    print(f"{'part':<10}{'kernel':<22}{'matrix TFLOP':>13}{'f32 TFLOP':>11}{'GB asked':>10}" + "".join(f"{card + ' ms':>14} by     " for card in CARDS))
    for (part, kernel), (matrix, f32, instructions, asked) in counts.items():
        print(f"{part:<10}{kernel:<22}{matrix / 1e12:>13.3f}{f32 / 1e12:>11.3f}{asked / 1e9:>10.3f}", end="")
        for card in CARDS.values():
            time, by = bound(part, kernel, (matrix, f32, instructions, asked), card)
            print(f"{1e3 * time:>14.3f} {by:<7}", end="")
        print()
    print(f"\n{'at most, tokens/s':<30}{'fused':>10}{'dequantized':>14}")
    for name, card in CARDS.items():
        for policy, recompute in (("all activations kept", False), ("layers recomputed", True)):
            seconds = sum(passes(part, kernel, recompute) * bound(part, kernel, c, card)[0] for (part, kernel), c in counts.items())
            # The last weight of a layer is not needed to compute its activations again.
            weights = 2 * WEIGHTS + (WEIGHTS - LINEARS[-1][0] * LINEARS[-1][1] if recompute else 0)
            apart = seconds + LAYERS * weights * DEQUANTIZED / card["memory"]
            print(f"{name + ', ' + policy:<36}{TOKENS / seconds:>8.0f}{TOKENS / apart:>10.0f}")


def check(part, measured, counted):
    """How far the formula is from one more size, in matrix and f32 operations, instructions and bytes."""
    for kernel, values in counts_at(measured, CHECKED[part]).items():
        found = counted.get(kernel, [0] * 4)
        off = ", ".join(f"{100 * (value / count - 1):.2f} %" if count else "-" for value, count in zip(values, found))
        print(f"check: {part}, {kernel} at {CHECKED[part]} tokens: the formula is off by {off}")


def main():
    output = lambda *command: subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    environment = {**os.environ}
    if "CUDA_HOME" not in environment:
        environment["CUDA_HOME"] = output("scripts/setup-cuda.sh")
    environment["LD_LIBRARY_PATH"] = output("scripts/emulated-driver.sh")
    subprocess.run(["cargo", "build", "--quiet", "-p", "kernels", "--features", "cuda", "--example", "layer_counts"], check=True, env=environment)
    program = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "debug/examples/layer_counts")
    measured = {part: {size: run(part, size, program, environment) for size in sizes} for part, sizes in SIZES.items()}
    if "--check" in sys.argv[1:]:
        for part, size in CHECKED.items():
            check(part, measured[part], run(part, size, program, environment))
    report(scaled(measured))


main()
