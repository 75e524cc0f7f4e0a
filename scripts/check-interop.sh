#!/usr/bin/env bash
# Checks that transformers, bitsandbytes and PEFT load what qlora-train writes and compute the same
# logits, that a quantized checkpoint is what bitsandbytes makes of the same model, and that 20 training
# steps have the losses of PEFT's. Installs the pinned packages (about 3 GB) into a virtual environment in
# the user's cache; PYTHON=... uses an existing one.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/qlora-train/interop-venv
    PYTHON=$venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$venv"
    "$PYTHON" -m pip install --quiet --requirement scripts/interop/requirements.txt
fi

cargo build --release --quiet --bin qlora-train
cargo build --release --quiet --package models --example logits
release=${CARGO_TARGET_DIR:-target}/release
qlora=$release/qlora-train
logits=$release/examples/logits
model=$(scripts/fetch-model.sh)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for arch in llama mistral qwen2 qwen3; do
    echo "== tiny $arch against bitsandbytes' own quantization"
    "$qlora" quantize --model "tests/fixtures/models/$arch" --output "$work/$arch"
    "$PYTHON" scripts/interop/check_quantized.py "$work/$arch" "tests/fixtures/models/$arch"
done

echo "== SmolLM2-135M-Instruct and an adapter trained on it"
"$qlora" quantize --model "$model" --output "$work/nf4"
"$qlora" demo-data --rows 80 --held-out 0 --seed 3 "$work/data"
"$qlora" train recipes/quickstart.toml --model "$work/nf4" --data "$work/data/train.jsonl" \
    --output "$work/run" --set train.max_steps=3 --set data.eval_fraction=0.0
ids=1,4093,198,504,3575,282,4649,314,7042,30,33,34,260,3575,282,2,198
"$logits" "$work/nf4" - "$ids" "$work/base.f32"
"$logits" "$work/nf4" "$work/run/adapter" "$ids" "$work/adapter.f32"
"$PYTHON" scripts/interop/check_interop.py "$work/nf4" "$work/run/adapter" "$ids" "$work/base.f32" "$work/adapter.f32"

echo "== training against PEFT"
"$PYTHON" scripts/interop/check_training.py "$qlora" "$work/nf4" "$work/data/train.jsonl" "$work/training"
