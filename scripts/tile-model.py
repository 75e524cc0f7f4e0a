#!/usr/bin/env python3
"""A model, not a measurement: how much of the tensor cores' time the fused 4-bit products use on GeForce cards.

    CUDA_HOME=$(scripts/setup-cuda.sh) scripts/tile-model.py [--rows M...]

First the main loop: its machine code is replayed on a model of one multiprocessor, and the share of the time in
which the tensor cores work is taken. Then whole launches: tiles are dealt to the multiprocessors in waves, the last
of which may be partly empty. Forward products that read one input are one launch; what each would be alone is shown
in brackets.

What the model takes as given, and from where:

 1. A multiprocessor has four sub-cores; each issues one instruction a cycle of the warps w with w % 4 = its number
    (NVIDIA, GA102 and AD102 whitepapers; Jia et al. 2018, "Dissecting the NVIDIA Volta GPU architecture").
 2. mma.m16n8k16 of bf16 with f32 sums keeps a sub-core's tensor core busy for 32 cycles: 2,048 multiply-adds at 64 a
    cycle, the rate that gives the whitepapers' 71 TFLOP/s (82 multiprocessors, 1.695 GHz) and 165 (128, 2.52 GHz).
 3. Integer, logic and conversion instructions take their pipe for two cycles (16 lanes), f32 for one.
 4. Stall counts, and the scoreboards that an instruction sets and waits for, are read from the machine code (bit
    positions after Jia et al. 2018, which still hold: the model runs into no contradiction).
 5. One unit serves shared memory for all sub-cores, 128 bytes a cycle, without bank conflicts (the tests of
    crates/kernels hold the kernels to that), 40 cycles of work queued at most; shuffles take it for one cycle.
 6. Latencies after that: ldmatrix 33 cycles, loads and shuffles 25, stores 20 (Sun et al. 2022, "Dissecting tensor
    cores via microbenchmarks"; Abdelkhalik et al. 2022, "Demystifying the NVIDIA Ampere architecture"); a barrier
    22. Global memory always answers in time: 500 cycles, and the kernels ask a step ahead.
 7. Which of several ready warps issues is not known: three rules are tried and the worst result is used.
 8. A tile costs, besides its loop, two accesses to global memory that nothing hides, the adapter's product of
    3 x 16 columns, and the way of its results through shared to global memory.
 9. The tiles of a launch are dealt one wave after the other; a last wave that leaves half of the multiprocessors idle
    is done in halves of tiles, as crates/kernels/src/cuda/tile_matmul.rs has it.
10. Clocks are the whitepapers', L2 and memory keep up, nothing else runs.

Small changes of instruction order move the first figure by about three in a hundred; nothing here was calibrated on
a card.
"""

import argparse
import functools
import math
import os
import re
import subprocess
import tempfile
from pathlib import Path

SUBCORES, WARPS = 4, 8
MMA_CYCLES, MMA_PRODUCTS = 32, 16 * 8 * 16
DEPTH = 64  # of a step of the main loop
COLUMNS = 128
GLOBAL_LATENCY, BARRIER, QUEUE = 500, 22, 40
LATENCY = {"LDSM": 33, "LDS": 25, "SHFL": 25, "STS": 20, "LDG": GLOBAL_LATENCY, "LDGSTS": 40}
TWO_CYCLES = {"LOP3", "SHF", "PRMT", "F2FP", "IADD3", "LEA", "ISETP", "SEL", "IMNMX", "PLOP3"}
# Cycles for which an instruction takes a pipe; None: none that is ever short.
PIPES = {"tensor": MMA_CYCLES, "integer": 2, "multiply": 2, "shared": 2, None: 0}
RULES = {
    "oldest": lambda warp, last, done: (warp != last, warp),
    "in turn": lambda warp, last, done: (warp - last - 1) % WARPS,
    "hindmost": lambda warp, last, done: done[warp],
}
CARDS = [("RTX 3090", "86", 82), ("RTX 4090", "89", 128)]
ADAPTER_COLUMNS = 48
# Linears of a layer of Llama 3 8B: out features, in features.
LINEARS = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096), "gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336)}
# Products of a layer, by launch: those that read one input go together.
LAUNCHES = [("forward", group) for group in (["q", "k", "v"], ["o"], ["gate", "up"], ["down"])] + [("backward", [linear]) for linear in LINEARS]


class Instruction:
    """One line of the loop: its pipe, how long it takes that, and what it waits for and signals."""

    def __init__(self, name, control):
        self.name = name.split(".")[0]
        self.stall = max(control >> 41 & 15, 1)
        self.sets = [control >> 46 & 7, control >> 49 & 7]  # scoreboards of its result, of its operands; 7 is none
        self.waits = control >> 52 & 63
        self.wavefronts = 0
        if self.name in LATENCY:
            self.wavefronts = 4 if ".128" in name or self.name == "LDSM" else 2 if ".64" in name else 1
            self.pipe = "shared"
        else:
            self.pipe = {"HMMA": "tensor", "IMAD": "multiply"}.get(self.name, "integer" if self.name in TWO_CYCLES else None)
        self.takes = PIPES[self.pipe]


def disassemble(source, arch):
    """For each kernel of a file its main loops, by their number of mma: of those with as many, the innermost."""
    tools = Path(os.environ.get("CUDA_HOME", ".cuda/toolkit/nvidia/cu13")) / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        subprocess.run([tools / "nvcc", "-cubin", f"-arch=sm_{arch}", "-std=c++17", "-O3", "-o", cubin.name, source], check=True)
        text = subprocess.run([tools / "cuobjdump", "-sass", cubin.name], check=True, capture_output=True, text=True).stdout
    line = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);\s*/\* 0x[0-9a-f]+ \*/\s*/\* 0x([0-9a-f]+) \*/")
    loops = {}
    for part in text.split("Function : ")[1:]:
        code = [(int(at, 16), name, rest, int(control, 16)) for at, name, rest, control in line.findall(part)]
        by_count = loops[part.split()[0]] = {}
        for at, name, rest, _ in code:
            target = re.search(r"0x([0-9a-f]+)", rest) if name.startswith("BRA") else None
            if target and int(target[1], 16) < at:
                body = tuple((n, c) for where, n, _, c in code if int(target[1], 16) <= where <= at)
                count = sum(n.startswith("HMMA") for n, _ in body)
                if len(body) < len(by_count.get(count, body + body)):
                    by_count[count] = body
    return loops


@functools.cache
def tensor_use(loop, rule, steps=10):
    """Share of the time in which the tensor cores work, while one block goes through the loop."""
    body = [Instruction(name, control) for name, control in loop]
    at, done = [0] * WARPS, [(0, 0)] * WARPS  # next instruction; steps and instructions done
    ready = [7 * warp for warp in range(WARPS)]
    boards = [[0] * 8 for _ in range(WARPS)]
    waiting = set()
    free = [dict.fromkeys(PIPES, 0) for _ in range(SUBCORES)]
    last, shared, cycle, products = [0] * SUBCORES, 0, 0, 0
    marks = []

    def can_issue(warp):
        this = body[at[warp]]
        blocked = any(this.waits >> board & 1 and boards[warp][board] > cycle for board in range(6))
        return not blocked and free[warp % SUBCORES][this.pipe] <= cycle

    while len(marks) < 2:
        for core in range(SUBCORES):
            choice = [w for w in range(core, WARPS, SUBCORES) if w not in waiting and ready[w] <= cycle and can_issue(w)]
            if not choice:
                continue
            warp = min(choice, key=lambda w: RULES[rule](w, last[core], done))
            this = body[at[warp]]
            last[core], ready[warp] = warp, cycle + this.stall
            free[core][this.pipe] = cycle + this.takes
            result, operands = cycle + 20, cycle + 12
            if this.pipe == "tensor":
                products += 1
            elif this.pipe == "shared":
                start = max(shared, cycle)
                shared = start + this.wavefronts
                free[core]["shared"] = max(cycle + 2, start - QUEUE)
                result, operands = shared + LATENCY[this.name], shared + 8
            for board, time in zip(this.sets, (result, operands)):
                boards[warp][board] = max(boards[warp][board], time)
            if this.name == "BAR":
                waiting.add(warp)
                if len(waiting) == WARPS:
                    ready = [cycle + BARRIER] * WARPS
                    waiting.clear()
            at[warp] = (at[warp] + 1) % len(body)
            done[warp] = (done[warp][0] + (at[warp] == 0), at[warp])
            # From the third step of the first warp to its last, when all are in the swing of it.
            if at[warp] == 0 and warp == 0 and done[0][0] in (3, steps):
                marks.append((cycle, products))
        cycle += 1
    (begin, before), (end, after) = marks
    return (after - before) / SUBCORES * MMA_CYCLES / (end - begin)


def tile_cycles(rows, depth, use):
    """Cycles of a tile: its loop, and what else it costs."""
    cycles = lambda columns_deep: rows * COLUMNS * columns_deep / MMA_PRODUCTS / SUBCORES * MMA_CYCLES
    stored = 3 * rows * COLUMNS * 2 / 128 + GLOBAL_LATENCY
    return cycles(math.ceil(depth / DEPTH) * DEPTH) / use + 2 * GLOBAL_LATENCY + cycles(ADAPTER_COLUMNS) + stored


def tiles_of(m, widths):
    """Tiles of a launch of products with so many columns each."""
    return math.ceil(m / 128) * sum(math.ceil(columns / COLUMNS) for columns in widths)


def share_of_peak(m, widths, depth, multiprocessors, use, small_tail):
    """Useful products at the peak rate over the modelled time, for products of `depth` with `widths` columns."""
    tiles = tiles_of(m, widths)
    whole, rest = divmod(tiles, multiprocessors)
    large, small = tile_cycles(128, depth, use[128]), tile_cycles(64, depth, use[64])
    tail = large if rest else 0
    if small_tail and 0 < 2 * rest <= multiprocessors:
        tail = small
    ideal = m * sum(widths) * depth / MMA_PRODUCTS / SUBCORES * MMA_CYCLES / multiprocessors
    return ideal / (whole * large + tail)


def main():
    parser = argparse.ArgumentParser(description="A model, not a measurement; its assumptions stand in the file.")
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 4096], help="rows M of the activations")
    parser.add_argument("--source", default="kernels/nf4_matmul.cu")
    options = parser.parse_args()
    print("A model, not a measurement.\n\nShare of the time that the tensor cores work in the main loop (used: the worst rule)")
    uses = {}
    for name, arch, _ in CARDS:
        loops = disassemble(options.source, arch)
        for direction, kernel in (("forward", "nf4_matmul_128"), ("backward", "nf4_matmul_backward_128")):
            for rows in (128, 64):
                # Halves of tiles are done by the same kernel.
                loop = loops[kernel][rows * COLUMNS * DEPTH // MMA_PRODUCTS // WARPS]
                by_rule = {rule: tensor_use(loop, rule) for rule in RULES}
                uses[name, direction, rows] = min(by_rule.values())
                shares = ", ".join(f"{rule} {100 * use:.1f}" for rule, use in by_rule.items())
                print(f"  {name}  {kernel}, tile of {rows:>3} rows: {shares} %")
    for m in options.rows:
        for name, _, multiprocessors in CARDS:
            print(f"\nShare of peak at M = {m}, {name}: whole tiles; half tiles in a last wave that is at most half full")
            table(m, name, multiprocessors, uses)


def table(m, card, multiprocessors, uses):
    work, times = 0, [0, 0]

    def row(what, direction, linears):
        sizes = [LINEARS[linear] for linear in linears]
        widths, depths = zip(*sizes) if direction == "forward" else zip(*(size[::-1] for size in sizes))
        use = {rows: uses[card, direction, rows] for rows in (128, 64)}
        shares = [share_of_peak(m, widths, depths[0], multiprocessors, use, small) for small in (False, True)]
        tiles = tiles_of(m, widths)
        print(f"  {what:<21} N={sum(widths):<6} K={depths[0]:<6} {tiles:5} tiles, {tiles / multiprocessors:6.2f} waves {100 * shares[0]:7.1f} %{100 * shares[1]:7.1f} %")
        return sum(n * k for n, k in sizes), shares

    for direction, linears in LAUNCHES:
        products, shares = row(f"{', '.join(linears)} {direction}", direction, linears)
        work += products
        times = [time + products / share for time, share in zip(times, shares)]
        if len(linears) > 1:
            for linear in linears:
                row(f"  ({linear} {direction})", direction, [linear])
    print(f"  {'all, by FLOPs':<60}{100 * work / times[0]:7.1f} %{100 * work / times[1]:7.1f} %")


main()
