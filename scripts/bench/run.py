"""Measures the CPU against what else there is, and prints Markdown tables: medians over the rounds (least..most).

Usage: run.py BINARIES NF4_DIR GGUF WORK [--rounds N] [--steps N] [--quick] [--only a|b|c|d] [--match PATTERN]
       [--level avx512|avx2]

BINARIES holds qlora-train and examples/. Every round runs every contender once, so that whatever else the machine
does meets all of them. Contenders that fail are named at the end.
"""
import argparse
import collections
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
# Keeps glibc from giving large buffers back to the system: what a user who knows of it sets.
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}
# Holds all contenders to the same instruction set. llama.cpp has it compiled in and is not held.
LEVELS = {
    None: {},
    "avx512": {"QLORA_CPU": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx2": {"QLORA_CPU": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
WEIGHTS = [(4096, 4096), (576, 576), (1536, 576), (576, 1536), (14336, 4096), (4096, 14336), (1024, 4096)]
SHAPES = [f"{m},{n},{k}" for n, k in WEIGHTS for m in (1, 16, 256, 1024, 2048)]
RECIPE = """
[model]
adapter = "{work}/start"
[data]
shuffle = false
[train]
batch_size = 4
learning_rate = 2e-4
lr_scheduler = "constant"
weight_decay = 0.01
max_grad_norm = 0.0
"""


class Failed(Exception):
    pass


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.binaries = pathlib.Path(arguments.binaries)
        self.nf4, self.gguf, self.work = arguments.nf4, arguments.gguf, arguments.work
        self.steps, self.seconds = (2, 0.0) if arguments.quick else (arguments.steps, 0.3)
        # The first allocate and warm up.
        self.dropped = 3 if self.steps > 10 else 1
        self.shapes = SHAPES[::6] if arguments.quick else SHAPES
        self.figures = collections.defaultdict(list)  # (table, row, column) -> values
        (pathlib.Path(self.work) / "recipe.toml").write_text(RECIPE.format(work=self.work))

    def add(self, table, row, column, value):
        self.figures[table, row, column].append(value)
        # A run of an hour that fails at its end has not been for nothing.
        with open(f"{self.work}/figures.jsonl", "a") as log:
            print(json.dumps([table, row, column, value]), file=log)

    def run(self, command, environment={}):
        """Lines of JSON on standard output; wall time in s; peak resident memory in MB."""
        with open(f"{self.work}/stdout", "w+") as out, open(f"{self.work}/stderr", "w+") as err:
            start = time.perf_counter()
            process = subprocess.Popen(
                list(map(str, command)), stdout=out, stderr=err, env={**os.environ, **LEVELS[self.arguments.level], **environment}
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise Failed(err.read().strip().rpartition("\n")[2] or f"exit code {process.returncode}")
            # Libraries print dictionaries of their own, which are no JSON.
            lines = [json.loads(line) for line in out if line.startswith('{"')]
        return lines, wall, usage.ru_maxrss * 1024 / 1e6

    def python(self, script, *arguments, tuned=True):
        return self.run([sys.executable, HERE / script, *arguments], TUNED if tuned else {})

    def ours(self, steps, *settings):
        """As a rival's line; wall time; memory."""
        out = pathlib.Path(self.work) / "run"
        shutil.rmtree(out, ignore_errors=True)
        command = [self.binaries / "qlora-train", "train", f"{self.work}/recipe.toml", "--device", "cpu"]
        command += ["--model", self.nf4, "--data", f"{self.work}/rows.jsonl", "--output", out]
        for setting in (f"train.max_steps={steps}", *settings):
            command += ["--set", setting]
        _, wall, memory = self.run(command)
        rows = [row for row in map(json.loads, (out / "metrics.jsonl").open()) if "loss" in row]
        times = [row["tokens"] / row["tokens_per_second"] for row in rows]
        kept = sorted(times[self.dropped :] or times)
        speed = rows[0]["tokens"] / kept[len(kept) // 2]
        return {"tokens_per_s": speed, "first_step_s": times[0], "losses": [row["loss"] for row in rows]}, wall, memory

    def peft(self, kind, steps, *options):
        [line], wall, memory = self.python(
            "train_peft.py", kind, self.nf4, self.work, steps, min(self.dropped, steps - 1), *options, tuned=kind != "classic"
        )
        return line, wall, memory

    def trl(self):
        [line], wall, memory = self.python("train_trl.py", self.nf4, self.work, self.steps, self.dropped, tuned=False)
        return line, wall, memory

    def training(self):
        bf16, f32, recompute = "train.precision=bf16", "train.precision=f32", "train.gradient_checkpointing=true"
        contenders = {
            "qlora-train, bf16": lambda: self.ours(self.steps, bf16),
            "qlora-train, f32": lambda: self.ours(self.steps, f32),
            "PEFT, fastest: bf16 adapter, autocast, eager, malloc tuned": lambda: self.peft("fastest", self.steps),
            "PEFT, classic: prepare_model_for_kbit_training": lambda: self.peft("classic", self.steps),
            "PEFT, f32: classic with products in f32, malloc tuned": lambda: self.peft("f32", self.steps),
            "qlora-train, bf16, recompute": lambda: self.ours(self.steps, bf16, recompute),
            "PEFT, fastest, recompute": lambda: self.peft("fastest", self.steps, "--checkpointing"),
            "TRL as shipped (recompute)": self.trl,
        }
        for name, run in contenders.items():
            yield name, lambda name=name, run=run: self.add_training(name, *run())

    def add_training(self, name, line, _, memory):
        table = "Training: SmolLM2-135M, NF4 double quant, r = 16 on all linears, 4 x 256 tokens a step"
        self.add(table, name, "tokens/s", line["tokens_per_s"])
        self.add(table, name, "peak memory, MB", memory)
        self.add(table, name, "loss of step 1", line["losses"][0])
        self.add(table, name, f"of step {len(line['losses'])}", line["losses"][-1])

    def products(self):
        table = "Products of bf16 activations with an NF4 weight, M x N x K, ms"

        def add(lines):
            for line in lines:
                name = line.get("contender", "qlora-train") + (", r = 16" if line["adapter"] else "")
                for product, field in [("forward", "forward_ms"), ("dX", "dx_ms")]:
                    m, n, k = (line[size] for size in "mnk")
                    row, ms = f"{product} {m} x {n} x {k}", line[field]
                    self.add(table, row, name, ms)
                    if "flops_per_s_from_l1" in line and not line["adapter"]:
                        share = 100 * 2 * m * n * k / (1e-3 * ms) / line["flops_per_s_from_l1"]
                        self.add(table, row, "its rate, % of that from the L1 cache", share)

        example = self.binaries / "examples/cpu_linear"
        yield "products, ours", lambda: add(self.run([example, "--json", self.seconds, *self.shapes])[0])
        yield "products, torch", lambda: add(self.python("matmul_torch.py", self.seconds, *self.shapes)[0])

    def generation(self):
        def add(name, lines):
            for column, field in [("prompt of 512", "prompt_tokens_per_s"), ("decode", "decode_tokens_per_s")]:
                self.add("Generation: SmolLM2-135M, tokens/s", name, column, lines[0][field])

        example, new = self.binaries / "examples/generate_time", 16 if self.arguments.quick else 128
        for precision in ["bf16", "f32"]:
            name = f"qlora-train, NF4, {precision}"
            yield name, lambda name=name, precision=precision: add(name, self.run([example, self.nf4, precision, 512, new])[0])
        yield "llama.cpp", lambda: add(*self.llama(new))

    def llama(self, new):
        command = ["generate_llama.py", self.gguf, 512, new]
        try:
            return "llama.cpp, Q4_1", self.python(*command, tuned=False)[0]
        except Failed:
            return "llama.cpp, Q4_1, without its AMX layout, which crashed", self.python(*command, "--plain", tuned=False)[0]

    def quantization(self):
        def add(name, lines):
            for line in lines:
                row = f"{line['operation']} {line['dtype']}"
                self.add("Quantisation of 4096 x 4096 with nested absmax, ms", row, name, line["ms"])

        def start(name, line, wall, _):
            self.add("Start to first step from a quantised directory, s", "start-up", name, wall - line["first_step_s"])

        example = self.binaries / "examples/quantize_time"
        yield "quantisation, ours", lambda: add("qlora-train", self.run([example, self.seconds])[0])
        yield "quantisation, bitsandbytes", lambda: add("bitsandbytes", self.python("quantize_bnb.py", self.seconds)[0])
        yield "start-up, ours", lambda: start("qlora-train, bf16", *self.ours(1, "train.precision=bf16"))
        yield "start-up, PEFT", lambda: start("PEFT, fastest", *self.peft("fastest", 1))

    def contenders(self):
        sections = {"a": self.training, "b": self.products, "c": self.generation, "d": self.quantization}
        for letter, section in sections.items():
            if self.arguments.only in (None, letter):
                yield from ((name, run) for name, run in section() if re.search(self.arguments.match, name))

    def all_rounds(self):
        failed = {}
        rounds = 1 if self.arguments.quick else self.arguments.rounds
        for number in range(1, rounds + 1):
            for name, measure in self.contenders():
                print(f"round {number}/{rounds}: {name}", file=sys.stderr, flush=True)
                try:
                    measure()
                except Failed as error:
                    failed[name] = str(error)
        return failed

    def print(self):
        for table in dict.fromkeys(key[0] for key in self.figures):
            keys = [key[1:] for key in self.figures if key[0] == table]
            rows, columns = (list(dict.fromkeys(key[i] for key in keys)) for i in (0, 1))
            print(f"\n**{table}**\n\n| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
            for row in rows:
                print(f"| {row} | {' | '.join(cell(self.figures.get((table, row, c))) for c in columns)} |")


def cell(values):
    if not values:
        return ""
    values = sorted(values)
    middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    spread = f" ({number(values[0])}..{number(values[-1])})" if values[0] != values[-1] else ""
    return number(middle) + spread


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:#.4g}"


def machine():
    text = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    model = re.search(r"Model name: *(.*)", text)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    packages = ["torch", "transformers", "peft", "bitsandbytes", "trl", "llama_cpp_python"]
    versions = [f"{name} {version(name)}" for name in packages]
    print(f"{model.group(1) if model else 'unknown processor'}, {os.cpu_count()} threads, {' '.join(flags)}.")
    print(f"{', '.join(versions)}. {datetime.date.today()}.")


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["binaries", "nf4", "gguf", "work"]:
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices="abcd")
    parser.add_argument("--match", default="")
    parser.add_argument("--level", choices=[level for level in LEVELS if level])
    bench = Bench(parser.parse_args())
    failed = bench.all_rounds()
    machine()
    bench.print()
    for name, error in failed.items():
        print(f"\nfailed: {name}: {error}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
