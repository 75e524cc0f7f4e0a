#!/usr/bin/env bash
# The kernels of processors that this machine may not be, on an emulator: tiles, AVX-512 with VNNI, and AVX-VNNI; the
# checks that take it the longest are left out. Some four minutes on two cores, the first time six.
set -euo pipefail
cd "$(dirname "$0")/.."

# As the whole suite is built.
CUDA_HOME=$(scripts/setup-cuda.sh)
export CUDA_HOME
arguments=(test --quiet --workspace --features "real-model-tests,cuda" --test ops)
cargo "${arguments[@]}" --no-run

on() {
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/scripts/emulated-cpu.sh $1" QLORA_CPU=$2 \
        cargo "${arguments[@]}" -- --test-threads 1 "${@:3}"
}
linears=(cpu_bf16::check_linear cpu_bf16::check_ragged --skip linears --skip gated)
on sapphire_rapids amx "${linears[@]}" &
first=$!
on sapphire_rapids amx cpu_bf16::check_attention amx::few_rows --skip of_nan
on sapphire_rapids avx512 "${linears[@]}"
on arrow_lake avx2 "${linears[@]}"
wait "$first"
