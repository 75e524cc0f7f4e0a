#!/usr/bin/env bash
# Profiles a command with NVIDIA Nsight Systems and prints what the time went to, by kernel, by copy and
# by call:
#   scripts/profile-nsys.sh target/release/qlora-train train RECIPE.toml --device cuda --set train.max_steps=20
# The whole profile is in profile.nsys-rep (open it with nsys-ui).
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit 2; }
command -v nsys >/dev/null || { echo "nsys is not on PATH: install NVIDIA Nsight Systems" >&2; exit 1; }
nsys profile --trace=cuda,nvtx,osrt --cuda-memory-usage=true --force-overwrite=true --output=profile "$@"
nsys stats --force-export=true --report cuda_gpu_kern_sum,cuda_gpu_mem_time_sum,cuda_api_sum profile.nsys-rep
