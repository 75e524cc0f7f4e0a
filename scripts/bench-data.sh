#!/usr/bin/env bash
# Measures the preparation of a large file of chats with SmolLM2's tokenizer against Hugging Face datasets.map with
# two processes, and prints a Markdown table. Installs datasets and transformers (0.5 GB) into a virtual environment in
# the user's cache; PYTHON=... uses an existing one. Needs 8 GB of disk for a million rows, and wants a machine with
# nothing else to do.
#
#   scripts/bench-data.sh [--rows N] [--rounds N]
#
# --rows: 1,000,000 by default. --rounds: runs of every contender, 3 by default; figures are their medians.
set -euo pipefail

rows=1000000
rounds=3
while [ $# -gt 0 ]; do
    case $1 in
        --rows | --rounds)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
            declare "${1#--}=$2"; shift 2 ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit ;;
        *) echo "unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/qlora-train/data-venv
    PYTHON=$venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$venv"
    "$PYTHON" -m pip install --quiet --requirement scripts/bench/requirements-data.txt
fi

cargo build --release --quiet --bin qlora-train
qlora=${CARGO_TARGET_DIR:-target}/release/qlora-train
gguf=$(scripts/fetch-model.sh)

work=$PWD/runs/bench-data
rm -rf "$work"
mkdir -p "$work"
"$qlora" quantize --model "$gguf" --output "$work/nf4" >&2
"$PYTHON" scripts/bench/make_rows.py "$rows" 1 "$work/rows.jsonl"
"$PYTHON" scripts/bench/data.py "$qlora" "$work/nf4" "$work/rows.jsonl" "$work" --rounds "$rounds" | tee "$work/table.md"
