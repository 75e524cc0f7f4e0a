#!/usr/bin/env bash
# The whole test suite, the real model and the CUDA compiler included (fetched once, about 90 MB and
# 420 MB on disk). No GPU is needed: kernels run on the emulated driver.
set -euo pipefail
cd "$(dirname "$0")/.."

CUDA_HOME=$(scripts/setup-cuda.sh)
QLORA_SMOLLM2=$(scripts/fetch-model.sh)
export CUDA_HOME QLORA_SMOLLM2
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features real-model-tests --no-fail-fast
    cargo test --quiet --workspace --doc
else
    cargo test --workspace --features real-model-tests --no-fail-fast
fi
