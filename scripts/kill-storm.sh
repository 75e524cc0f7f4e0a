#!/usr/bin/env bash
# Kills training runs with SIGKILL at random moments, also inside a save, goes on with --resume, and compares what
# comes of it with an uninterrupted run, byte for byte. Runs are repeated until there were enough kills.
#
#   scripts/kill-storm.sh [KILLS] [MODEL ROWS STEPS]     by default 200, over the tiny model of the tests
#
# STORM_DELAY is the longest life of a process in milliseconds (600).
set -euo pipefail
cd "$(dirname "$0")/.."

kills=${1:-200}
delay=${STORM_DELAY:-600}
source scripts/tiny-run.sh

if [ $# -gt 1 ]; then
    model=$2 rows=$3 steps=$4
else
    model=$work/model rows=$work/rows.jsonl steps=60
    tiny_model 24
fi
cat >"$work/recipe.toml" <<TOML
[lora]
r = 4
lora_dropout = 0.1
[data]
eval_rows = 4
[train]
max_steps = $steps
batch_size = 2
gradient_accumulation_steps = 2
learning_rate = 1e-2
eval_steps = $((steps / 3))
[output]
checkpoint_steps = 1
TOML

train=("$binary" train "$work/recipe.toml" --model "$model" --data "$rows" --device cpu --output)

# What a run is for, without what depends on the clock.
digest() {
    adapters "$1"
    sed -E 's/"(tokens_per_second|elapsed_s|peak_rss_bytes)":[^,}]*//g' "$1/metrics.jsonl" | sha256sum
}

"${train[@]}" "$work/whole" >"$work/whole.log" 2>&1 || { cat "$work/whole.log"; exit 1; }
expected=$(digest "$work/whole")

killed=0 runs=0 saves=0
while [ "$killed" -lt "$kills" ]; do
    runs=$((runs + 1))
    out=$work/run
    rm -rf "$out"
    while :; do
        "${train[@]}" "$out" --resume >"$work/log" 2>&1 &
        process=$!
        sleep "$(awk -v most="$delay" -v seed="$RANDOM$RANDOM" 'BEGIN { srand(seed); print rand() * most / 1000 }')"
        if kill -KILL "$process" 2>/dev/null; then
            # A temporary directory tells of a save that was cut off.
            if half_written "$out"; then
                saves=$((saves + 1))
            fi
        fi
        code=0
        wait "$process" 2>/dev/null || code=$?
        case $code in
        0) break ;;
        137) killed=$((killed + 1)) ;;
        *)
            echo "run $runs, after $killed kills: exit code $code"
            cat "$work/log"
            exit 1
            ;;
        esac
        # Enough is enough: the last run comes to its end in peace.
        [ "$killed" -lt "$kills" ] || delay=600000
        if [ "$delay" = 600000 ]; then
            "${train[@]}" "$out" --resume >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
            break
        fi
    done
    if [ "$(digest "$out")" != "$expected" ]; then
        echo "run $runs, after $killed kills: other results than the uninterrupted run"
        diff <(echo "$expected") <(digest "$out") || true
        exit 1
    fi
    if half_written "$out"; then
        echo "run $runs: something half written is left"
        ls -A "$out" "$out/checkpoints"
        exit 1
    fi
    if grep -q "damaged" "$work/log"; then
        echo "run $runs: a damaged checkpoint"
        exit 1
    fi
done
echo "$killed kills in $runs runs of $steps steps, $saves of them inside a save: adapters and metrics as without any"
