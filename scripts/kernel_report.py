"""Reads what ptxas and cuobjdump say of every kernel. Called by kernel-report.sh."""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ARCHITECTURES = ["80", "86", "89", "90"]
# The architectures whose loops are shown: GeForce 30 and 40.
SHOWN_LOOPS = ["86", "89"]
BIN = Path(os.environ["CUDA_HOME"]) / "bin"
REPORT = Path("kernels/report.txt")
# Instruction classes of a loop, by the start of the SASS mnemonic.
CLASSES = [
    ("HMMA", ("HMMA",)),
    ("LDSM", ("LDSM",)),
    ("LDGSTS", ("LDGSTS",)),
    ("LDS/STS", ("LDS", "STS")),
    ("LDG/STG", ("LDG", "STG", "LD.", "ST.")),
    ("convert", ("F2F", "I2F", "F2I", "HADD2.BF16", "PRMT")),
    ("float", ("FFMA", "FMUL", "FADD", "MUFU", "FSETP", "FMNMX")),
    ("shuffle", ("SHFL",)),
]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True)


def compile_one(source, arch, folder):
    cubin = Path(folder) / f"{source.stem}.{arch}.cubin"
    verbose = run(str(BIN / "nvcc"), "-cubin", f"-arch=sm_{arch}", "-std=c++17", "-O3", "-Xptxas", "-v", "-o", str(cubin), str(source)).stderr
    kernels = {}
    name = None
    for line in verbose.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
            kernels[name] = {"registers": 0, "spills": 0, "shared": 0}
        elif name and (found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            kernels[name]["spills"] = int(found[1]) + int(found[2])
        elif name and (found := re.search(r"Used (\d+) registers", line)):
            kernels[name]["registers"] = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name]["shared"] = int(shared[1]) if shared else 0
    sass = run(str(BIN / "cuobjdump"), "-sass", str(cubin)).stdout
    for name, loop in main_loops(sass).items():
        kernels[name]["loop"] = loop
    return source.stem, arch, kernels


def main_loops(sass):
    """For each kernel the instructions of its innermost loop with most HMMA, if it has one."""
    loops = {}
    for part in sass.split("Function : ")[1:]:
        name, _, text = part.partition("\n")
        code = [(int(at, 16), op) for at, op in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", text)]
        targets = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?BRA[\w.]*\s.*?(0x[0-9a-f]+)", text)
        best = None
        for at, target in targets:
            first, last = int(target, 16), int(at, 16)
            body = [op for where, op in code if first <= where <= last]
            hmma = sum(op.startswith("HMMA") for op in body)
            # Of loops with as many, the inner one.
            if first < last and hmma and (best is None or (hmma, -len(body)) > (best[0], -len(best[1]))):
                best = (hmma, body)
        if best:
            loops[name.strip()] = best[1]
    return loops


def loop_line(body):
    counts = [(name, sum(op.startswith(starts) for op in body)) for name, starts in CLASSES]
    other = len(body) - sum(count for _, count in counts)
    hmma = counts[0][1]
    shares = ", ".join(f"{name} {count}" for name, count in [*counts, ("other", other)] if count)
    return f"{len(body) / hmma:.2f} instructions an HMMA: {shares}"


def main():
    sources = sorted(Path("kernels").glob("*.cu"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, source, arch, folder) for source in sources for arch in ARCHITECTURES]
        results = [job.result() for job in jobs]
    rows = {}
    loops = []
    for stem, arch, kernels in results:
        for name, kernel in kernels.items():
            rows.setdefault((stem, name), {})[arch] = kernel
            if "loop" in kernel and arch in SHOWN_LOOPS:
                loops.append(f"{name}, sm_{arch}: {loop_line(kernel['loop'])}")
    lines = ["Written by scripts/kernel-report.sh --update. Registers by architecture, most bytes of spills, bytes of static shared memory.", ""]
    lines.append(f"{'kernel':<56}" + "".join(f"{'sm_' + arch:>7}" for arch in ARCHITECTURES) + f"{'spills':>8}{'shared':>8}")
    for (stem, name), by_arch in sorted(rows.items()):
        registers = "".join(f"{by_arch[arch]['registers']:>7}" for arch in ARCHITECTURES)
        spills = max(kernel["spills"] for kernel in by_arch.values())
        lines.append(f"{stem + '.cu ' + name:<56}{registers}{spills:>8}{by_arch['86']['shared']:>8}")
    if loops:
        lines += ["", "Main loops:", *sorted(loops)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if "--update" in sys.argv[1:]:
        REPORT.write_text(text)
        return
    old = REPORT.read_text()
    if old != text:
        difference = difflib.unified_diff(old.splitlines(), text.splitlines(), str(REPORT), "now", lineterm="")
        sys.exit("\n".join(difference) + "\nthe kernels compile to something else: look at it, then run scripts/kernel-report.sh --update")


main()
