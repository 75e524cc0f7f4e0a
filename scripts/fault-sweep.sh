#!/usr/bin/env bash
# Makes one system call after the other fail (strace's fault injection) in a short training run of the tiny model: a
# full disk, a broken one, a failing fsync or rename. After each, the run must have ended well or said what is wrong in
# one line, and --resume must come to the adapters of a run that met no fault, byte for byte.
#
#   scripts/fault-sweep.sh [EVERY]     tries every EVERY-th call of a kind, by default all
set -euo pipefail
cd "$(dirname "$0")/.."

every=${1:-1}
command -v strace >/dev/null || { echo "needs strace" >&2; exit 1; }
source scripts/tiny-run.sh
tiny_model 12
cat >"$work/recipe.toml" <<TOML
[lora]
r = 4
[data]
eval_rows = 4
[train]
max_steps = 6
batch_size = 2
learning_rate = 1e-2
eval_steps = 3
[output]
checkpoint_steps = 2
TOML
train=("$binary" train "$work/recipe.toml" --model "$work/model" --data "$work/rows.jsonl" --device cpu --threads 1 --output)

# Calls of a kind in the thread that makes most of them.
count() {
    awk -v call="$1" '$2 ~ "^" call "\\(" { n[$1]++ } END { for (t in n) if (n[t] > most) most = n[t]; print most + 0 }' "$work/calls"
}

strace -f -qq -o "$work/calls" "${train[@]}" "$work/whole" >"$work/log" 2>&1
expected=$(adapters "$work/whole")

tried=0 ended=0 said=0 unstarted=0
for fault in write:ENOSPC write:EIO fsync:EIO fdatasync:EIO rename:EIO rename:ENOSPC renameat2:EIO mkdir:ENOSPC \
    openat:EMFILE ftruncate:EIO unlink:EIO unlinkat:EIO read:EIO getdents64:EIO statx:EIO flock:EIO; do
    call=${fault%:*} error=${fault#*:}
    total=$(count "$call")
    for ((n = 1; n <= total; n += every)); do
        out=$work/run
        rm -rf "$out"
        code=0
        timeout 120 strace -f -qq -o /dev/null -e "trace=$call" -e "inject=$call:error=$error:when=$n" \
            "${train[@]}" "$out" >"$work/log" 2>&1 || code=$?
        tried=$((tried + 1))
        case $code in
        0) ended=$((ended + 1)) ;;
        1)
            said=$((said + 1))
            # The message itself may be what could not be written.
            [ "$(grep -c '^error: ' "$work/log")" = 1 ] || [ "$call" = write ] || { echo "$fault, call $n: no clear error"; cat "$work/log"; exit 1; }
            ;;
        127)
            # The loader could not read the program or its libraries.
            unstarted=$((unstarted + 1))
            [ "$call" = openat ] || [ "$call" = read ] || { echo "$fault, call $n"; cat "$work/log"; exit 1; }
            ;;
        *)
            echo "$fault, call $n: exit code $code"
            cat "$work/log"
            exit 1
            ;;
        esac
        if grep -q panicked "$work/log"; then
            echo "$fault, call $n: panicked"
            cat "$work/log"
            exit 1
        fi
        "${train[@]}" "$out" --resume >"$work/again" 2>&1 || { echo "$fault, call $n: cannot go on"; cat "$work/log" "$work/again"; exit 1; }
        if [ "$(adapters "$out")" != "$expected" ]; then
            echo "$fault, call $n: other adapters"
            cat "$work/log" "$work/again"
            exit 1
        fi
        if half_written "$out"; then
            echo "$fault, call $n: something half written is left"
            ls -A "$out" "$out/checkpoints"
            exit 1
        fi
    done
    echo "$fault: $total calls"
done
echo "$tried faults: $ended runs went on to their end, $said said what was wrong, $unstarted did not start; all came to the same adapters"
