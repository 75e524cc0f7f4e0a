"""Measures the preparation of data against datasets.map, and prints a Markdown table: medians (least..most).

Usage: data.py QLORA_TRAIN MODEL ROWS.jsonl WORK [--rounds N]

Every round runs every contender once, on the same two cores. Times are those of the whole process; of datasets also
that of `map` alone. CPU time, of all processes and the system's included, is what other work on the machine changes
least. Memory is the largest sum over the processes of a contender, of what is resident and, of that, of what is no file.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
RECIPE = "[data]\noverlength = \"truncate-right\"\nwaive = [\"bad-rows\", \"special-text\"]\n"


def tree(root):
    """Numbers of a process and all below it."""
    children = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def resident(process):
    """MB resident, and MB of these that are no file."""
    try:
        fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines())
        return [int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")]
    except (OSError, KeyError):
        return [0, 0]


def run(command, work, environment):
    """Standard output and error, seconds, seconds of CPU time, the two peaks of memory."""
    peaks = [0, 0]
    with open(f"{work}/stdout", "w+") as out, open(f"{work}/stderr", "w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, env={**os.environ, **environment})
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            now = [resident(number) for number in tree(process.pid)]
            peaks = [max(peak, sum(column)) for peak, column in zip(peaks, zip(*now))]
            time.sleep(0.1)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        cpu = ended[2].ru_utime + ended[2].ru_stime
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{command}: {err.read()[-2000:]}")
        return out.read(), err.read(), [wall, cpu], peaks


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.work = pathlib.Path(arguments.work)
        self.megabytes = os.path.getsize(arguments.rows) / 1e6
        self.figures = {}
        (self.work / "recipe.toml").write_text(RECIPE)

    def ours(self, *more, fresh):
        cache = self.work / "cache"
        if fresh:
            shutil.rmtree(cache, ignore_errors=True)
        command = [self.arguments.binary, "data", "check", self.work / "recipe.toml", "--json", *more]
        command += ["--model", self.arguments.model, "--data", self.arguments.rows]
        out, err, times, peaks = run(command, self.work, {"XDG_CACHE_HOME": str(cache)})
        if not fresh and "tokens of an earlier start" not in err:
            sys.exit("the second start did not find the tokens of the first")
        train = json.loads(out)["train"]
        return train["rows"], train["tokens"], times, peaks

    def theirs(self, *, fresh):
        cache = self.work / "datasets"
        if fresh:
            shutil.rmtree(cache, ignore_errors=True)
        command = [sys.executable, HERE / "map_rows.py", self.arguments.model, self.arguments.rows, cache]
        out, _, times, peaks = run(command, self.work, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache)})
        line = json.loads(out.strip().splitlines()[-1])
        return line["rows"], line["tokens"], times, peaks, line["map_s"]

    def round(self):
        off = ("--set", "data.cache=false")
        for name, contender in {
            "qlora-train data check": lambda: self.ours(fresh=True),
            "datasets: load and map": lambda: self.theirs(fresh=True),
            "qlora-train, second start": lambda: self.ours(fresh=False),
            "datasets, second start": lambda: self.theirs(fresh=False),
            "qlora-train, data.cache = false": lambda: self.ours(*off, fresh=True),
        }.items():
            rows, tokens, times, peaks, *map_s = contender()
            print(f"{name}: {rows} rows, {tokens} tokens, {times[0]:.1f} s, {times[1]:.1f} s of CPU time", file=sys.stderr)
            self.add(name, rows, tokens, times, peaks)
            if map_s and "second" not in name:
                self.add("datasets: map alone", rows, tokens, map_s, [])

    def add(self, name, rows, tokens, times, peaks):
        columns = self.figures.setdefault(name, {})
        found = {
            "s": times[0],
            "rows/s": rows / times[0],
            "MB/s": self.megabytes / times[0],
            "million tokens": tokens / 1e6,
            **dict(zip(["CPU s"], times[1:])),
            **dict(zip(["MB resident", "of that no file"], peaks)),
        }
        for column, value in found.items():
            columns.setdefault(column, []).append(value)

    def table(self):
        names = list(next(iter(self.figures.values())))
        lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for name, columns in self.figures.items():
            cells = [shown(columns[column]) if column in columns else "" for column in names]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def shown(values):
    middle, least, most = (f"{value:,.{0 if value >= 100 else 1}f}" for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}..{most})"


def main():
    parser = argparse.ArgumentParser()
    for name in ("binary", "model", "rows", "work"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=3)
    bench = Bench(parser.parse_args())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    for _ in range(bench.arguments.rounds):
        bench.round()
    print(f"{bench.megabytes:.0f} MB of JSON lines, {bench.arguments.rounds} rounds\n")
    print(bench.table())


if __name__ == "__main__":
    main()
