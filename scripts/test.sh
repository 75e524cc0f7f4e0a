#!/usr/bin/env bash
# The whole test suite, the real model included (fetched once, about 90 MB).
set -euo pipefail
cd "$(dirname "$0")/.."

QLORA_SMOLLM2=$(scripts/fetch-model.sh)
export QLORA_SMOLLM2
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features real-model-tests --no-fail-fast
    cargo test --quiet --workspace --doc
else
    cargo test --workspace --features real-model-tests --no-fail-fast
fi
