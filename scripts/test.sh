#!/usr/bin/env bash
# The whole test suite, the real model and the CUDA compiler included (fetched once, about 90 MB and
# 420 MB on disk). No GPU is needed: kernels run on the emulated driver.
set -euo pipefail
cd "$(dirname "$0")/.."

CUDA_HOME=$(scripts/setup-cuda.sh)
QLORA_SMOLLM2=$(scripts/fetch-model.sh)
export CUDA_HOME QLORA_SMOLLM2
# What runs on the device runs on the emulated driver, where any finding of its checks is a failure, with
# an allocation for each buffer, so that the checks know its bounds; the driver's own tests set that up
# for themselves.
features=real-model-tests,cuda
on_emulator() {
    local driver
    driver=$(CUDA_EMULATOR_LIBRARY=${CARGO_TARGET_DIR:-target}/debug/deps/libcuda_emulator.so scripts/emulated-driver.sh)
    CUDA_EMULATOR_EXIT_CODE=97 QLORA_CUDA_ALLOCATIONS=separate LD_LIBRARY_PATH=$driver "$@"
}
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features $features --no-fail-fast -E 'package(cuda-emulator)'
    on_emulator cargo nextest run --workspace --features $features --no-fail-fast -E 'not package(cuda-emulator)'
    cargo test --quiet --workspace --features $features --doc
else
    cargo test --workspace --features $features --no-run
    cargo test --no-fail-fast -p cuda-emulator
    on_emulator cargo test --workspace --features $features --no-fail-fast --exclude cuda-emulator
fi

# Some kills and some faults; both scripts alone take many more.
export QLORA_TRAIN=${CARGO_TARGET_DIR:-target}/debug/qlora-train
scripts/kill-storm.sh 20
if command -v strace >/dev/null; then
    scripts/fault-sweep.sh 25
fi

# The other architecture that vectors are written for, where its standard library is there.
if rustup target list --installed 2>/dev/null | grep -qx aarch64-unknown-linux-gnu; then
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-D warnings" \
        cargo check --quiet -p kernels --target aarch64-unknown-linux-gnu
fi
