#!/usr/bin/env bash
# Measures training, products, generation and quantisation on the CPU against PEFT, bitsandbytes, TRL, torch
# and llama.cpp, and prints Markdown tables. Installs the rivals' pinned packages (about 4 GB) into the virtual
# environment of check-interop.sh; PYTHON=... uses an existing one. Wants a machine with nothing else to do.
#
#   scripts/bench-cpu.sh [--rounds N] [--steps N] [--quick] [--only a|b|c|d] [--match PATTERN] [--rows FILE] [--level avx512|avx2]
#
# --rounds: runs of every contender, 5 by default; figures are their medians. --steps: of a training run, 20 by
# default. --quick: one run of 2 steps, to see that all works. --only: a training, b products, c generation, d
# quantisation and start-up. --match: only contenders in whose name this regular expression is found. --rows: chats
# in JSON lines or a safetensors file with train_ids [20, 4, 256] instead of the demonstration set. --level: no more
# than these instruction sets for all contenders.
set -euo pipefail

rows=
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --rows)
            [ $# -ge 2 ] || { echo "--rows needs a file" >&2; exit 2; }
            rows=$(realpath -- "$2"); shift 2 ;;
        --rounds | --steps | --only | --match | --level)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
            options+=("$1" "$2"); shift 2 ;;
        --quick) options+=("$1"); shift ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit ;;
        *) echo "unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/qlora-train/interop-venv
    PYTHON=$venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$venv"
    "$PYTHON" -m pip install --quiet --requirement scripts/bench/requirements.txt
    # Built from source, for this processor; without a C++ compiler the rest is measured all the same.
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF" "$PYTHON" -m pip install --quiet --requirement scripts/bench/requirements-llama.txt ||
        echo "llama-cpp-python cannot be installed: measuring without it" >&2
fi

cargo build --release --quiet --bin qlora-train
cargo build --release --quiet --package kernels --package nf4 --package models \
    --example cpu_linear --example quantize_time --example generate_time
release=${CARGO_TARGET_DIR:-target}/release
gguf=$(scripts/fetch-model.sh)

work=$PWD/runs/bench-cpu
rm -rf "$work"
mkdir -p "$work"
"$release/qlora-train" quantize --model "$gguf" --output "$work/nf4" >&2
if [ -z "$rows" ]; then
    "$release/qlora-train" demo-data --rows 600 --held-out 0 --seed 1 "$work/data" >&2
    rows=$work/data/train.jsonl
fi
"$PYTHON" scripts/bench/prepare.py "$work/nf4" "$rows" "$work"
"$PYTHON" scripts/bench/run.py "$release" "$work/nf4" "$gguf" "$work" ${options[@]+"${options[@]}"} | tee "$work/table.md"
