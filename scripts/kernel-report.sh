#!/usr/bin/env bash
# What the compiler made of each kernel on each architecture: registers, spills, shared memory, and what
# the main loops consist of. Compares with kernels/report.txt and fails on any difference; --update writes
# the file.
set -euo pipefail
cd "$(dirname "$0")/.."

CUDA_HOME=$(scripts/setup-cuda.sh)
export CUDA_HOME
exec python3 scripts/kernel_report.py "$@"
