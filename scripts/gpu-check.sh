#!/usr/bin/env bash
# For a machine with a real card: runs the kernels' tests and the binary's on it, then measures training,
# and writes gpu-check.json and a table. Takes at most 10 minutes.
#
#   scripts/gpu-check.sh [--binaries DIR] [--model PATH] [--small]
#
# --binaries: built elsewhere (scripts/gpu-check.sh --build DIR makes them), for machines without Rust.
# --model: what to train; by default SmolLM2-135M-Instruct, fetched. --small: few tokens, for the emulated
# card.
set -euo pipefail
cd "$(dirname "$0")/.."

binaries= model= small= build=
while [ $# -gt 0 ]; do
    case $1 in
        --binaries) binaries=$(realpath -- "$2"); shift 2 ;;
        --build) build=$(realpath -m -- "$2"); shift 2 ;;
        --model) model=$(realpath -- "$2"); shift 2 ;;
        --small) small=yes; shift ;;
        *) sed -n '2,9s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit 2 ;;
    esac
done

# The release build of the binary and of the kernels' tests, in folder $1.
make_binaries() {
    mkdir -p "$1"
    CUDA_HOME=$(scripts/setup-cuda.sh)
    export CUDA_HOME
    # At once: apart, each would have the kernels built for its own set of features.
    cargo build --release --features cuda -p qlora-train -p trainer -p kernels --bin qlora-train --example step \
        --test ops --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' |
        while read -r built; do
            cp "$built" "$1/$(basename "$built" | sed 's/-[0-9a-f]\{16\}$//')"
        done
}

if [ -n "$build" ]; then
    make_binaries "$build"
    exit
fi
if [ -z "$binaries" ]; then
    binaries=$PWD/target/gpu-check
    make_binaries "$binaries"
fi
[ -n "$model" ] || model=$(scripts/fetch-model.sh)
qlora=$binaries/qlora-train

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$qlora" device | tee "$work/device"
grep -q '^cuda:0 .*compute capability' "$work/device" || { echo "no card that can be used" >&2; exit 1; }

echo "== kernels"
status=passed
timeout 240 "$binaries/ops" cuda_ >"$work/ops" 2>&1 || status=failed
grep -E '^test .*FAILED|^test result' "$work/ops" || tail -20 "$work/ops"
counts=$(sed -n 's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/"passed": \1, "failed": \2/p' "$work/ops")

echo "== training"
tokens=512 batch=4 steps=20
[ -z "$small" ] || { tokens=16 batch=1 steps=2; }
for _ in $(seq $((batch * steps))); do
    printf '{"input_ids": [%s]}\n' "$(seq -s, 100 $((99 + tokens)))"
done >"$work/rows.jsonl"
cat >"$work/recipe.toml" <<RECIPE
[lora]
r = 16
target_modules = "all-linear"
[train]
max_steps = $steps
batch_size = $batch
learning_rate = 2e-4
precision = "bf16"
RECIPE
trained=
for device in cuda cpu; do
    [ $device = cuda ] || [ -n "$small" ] || { sed -i 's/^max_steps = .*/max_steps = 2/' "$work/recipe.toml"; }
    "$qlora" train "$work/recipe.toml" --model "$model" --data "$work/rows.jsonl" --output "$work/$device" \
        --device $device >"$work/$device.txt" || status=failed
    speed=$(sed -n 's/^ *speed *\([0-9]*\) tokens.*/\1/p' "$work/$device.txt")
    peak=$(sed -n 's/^ *peak tensors *\([0-9.]*\) GB.*/\1/p' "$work/$device.txt")
    losses=$(sed -n 's/.*"loss":\([0-9.]*\).*/\1/p' "$work/$device/metrics.jsonl" | head -2 | paste -sd,)
    printf '%-6s %8s tokens/s %8s GB of tensors, first losses %s\n' $device "$speed" "$peak" "$losses"
    trained+=", \"$device\": {\"tokens_per_second\": ${speed:-null}, \"peak_gb\": ${peak:-null}, \"first_losses\": [$losses]}"
done

echo "== steps of random weights"
shapes="llama-3.2-1b llama-3.1-8b" batch=4x1024 steps=3 products="512 4096"
[ -z "$small" ] || { shapes=tiny batch=1x16 steps=1 products=64; }
costs=
for shape in $shapes; do
    for recompute in "" --recompute; do
        # What a card has no room for is no failure.
        cost=$(timeout 120 "$binaries/step" "$shape" cuda $batch $steps $recompute 2>"$work/step.txt") || {
            grep -q 'out of memory' "$work/step.txt" || { status=failed; cat "$work/step.txt" >&2; }
            cost="{\"shape\": \"$shape\", \"recompute\": $([ -n "$recompute" ] && echo true || echo false), \"tokens_per_second\": null}"
        }
        echo "$cost"
        costs+="${costs:+, }$cost"
    done
done

echo "== products with 4-bit weights, in every way"
timed=
for tokens in $products; do
    some=$(timeout 120 "$binaries/step" "${shapes##* }" cuda --products "$tokens") || { status=failed; some=null; }
    echo "$some"
    timed+="${timed:+, }$some"
done

escaped=$(sed -n 's/^cuda:0 *//p' "$work/device" | sed 's/["\\]/\\&/g')
printf '{"device": "%s", "status": "%s", "kernels": {%s}%s, "steps": [%s], "products": [%s]}\n' \
    "$escaped" "$status" "$counts" "$trained" "$costs" "$timed" >gpu-check.json
echo "== $status; gpu-check.json"
[ $status = passed ]
