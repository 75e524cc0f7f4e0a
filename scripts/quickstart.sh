#!/usr/bin/env bash
# From a fresh clone to a fine-tuned model: builds, fetches SmolLM2-135M-Instruct, trains it to turn
# messages into JSON, and shows its answers before and after.
#
#   scripts/quickstart.sh                  the demonstration set (made here, 600 rows)
#   scripts/quickstart.sh --data FILE      your own rows (JSONL: messages, or prompt and completion)
set -euo pipefail

data=
while [ $# -gt 0 ]; do
    case $1 in
        --data)
            [ $# -ge 2 ] || { echo "--data needs a file" >&2; exit 2; }
            [ -f "$2" ] || { echo "$2: no such file" >&2; exit 1; }
            data=$(realpath -- "$2"); shift 2 ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit ;;
        *) echo "unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

command -v cargo >/dev/null || { echo "Rust is not installed: see https://rustup.rs" >&2; exit 1; }
command -v cc >/dev/null || { echo "a C linker is missing: apt-get install build-essential" >&2; exit 1; }
echo "== build (release)"
cargo build --release --quiet --bin qlora-train
qlora=${CARGO_TARGET_DIR:-target}/release/qlora-train
echo "== model"
model=$(scripts/fetch-model.sh)
echo "$model"

start=$SECONDS
if [ -z "$data" ]; then
    out=runs/quickstart
    rm -rf "$out"
    mkdir -p "$out"
    "$qlora" demo-data --rows 600 --held-out 50 --seed 1 "$out/data"
    train=$out/data/train.jsonl
    held_out=$out/data/held-out.jsonl
    check=(--exact-match --show 3)
    echo "== before"
    "$qlora" eval --model "$model" --data "$held_out" "${check[@]}"
else
    # A second run on the same file stops with what to do about the first one's adapter.
    out=runs/data-$(basename -- "${data%.*}")
    train=$data
fi
echo "== fine-tune"
"$qlora" train recipes/quickstart.toml --model "$model" --data "$train" --output "$out/run"
if [ -z "$data" ]; then
    echo "== after"
    "$qlora" eval --model "$model" --adapter "$out/run/adapter" --data "$held_out" "${check[@]}"
fi
echo "== done in $((SECONDS - start)) s after the build; the adapter is in $out/run/adapter"
