#!/usr/bin/env bash
# Builds the emulated CUDA driver and lays it out as libcuda.so.1, and as the cuBLASLt that it stands in for, in a
# folder of its own, so that no other program run by cargo finds it before a real driver. Prints that folder:
#   LD_LIBRARY_PATH=$(scripts/emulated-driver.sh) any-cuda-program
# With arguments, runs them as a command on the emulated driver instead. CUDA_EMULATOR_LIBRARY names
# a libcuda_emulator.so to lay out instead of building one.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

target=$(cd "$project" && realpath -m "${CARGO_TARGET_DIR:-target}")
library=${CUDA_EMULATOR_LIBRARY:-}
if [ -z "$library" ]; then
    (cd "$project" && cargo build --quiet --release -p cuda-emulator) >&2
    library=$target/release/libcuda_emulator.so
fi
folder=$target/cuda-emulator
mkdir -p "$folder"
# Copied and renamed: a program may have the old one mapped.
cp "$library" "$folder/.libcuda.so.$$"
mv "$folder/.libcuda.so.$$" "$folder/libcuda.so.1"
# One file, so that a process has one emulator under all names.
for name in libcuda.so libcublasLt.so; do
    ln -sfn libcuda.so.1 "$folder/$name"
done

if [ $# = 0 ]; then
    echo "$folder"
else
    export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    exec "$@"
fi
