#!/usr/bin/env bash
# Profiles a command with NVIDIA Nsight Systems and prints what the time went to, by kernel, by copy, by
# call and by step, phase, layer and operation:
#   scripts/profile-nsys.sh target/release/qlora-train train RECIPE.toml --device cuda --set train.max_steps=20
# The whole profile is in profile.nsys-rep (open it with nsys-ui). Phases need libnvToolsExt, which is
# fetched from PyPI into .cuda/ (0.1 MB) where the system has none.
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}"; exit 2; }
command -v nsys >/dev/null || { echo "nsys is not on PATH: install NVIDIA Nsight Systems" >&2; exit 1; }

project=$(cd "$(dirname "$0")/.." && pwd)
nvtx=$project/.cuda/nvtx
if ! ldconfig -p 2>/dev/null | grep -q libnvToolsExt; then
    [ -e "$nvtx/nvidia/nvtx/lib/libnvToolsExt.so.1" ] ||
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --target "$nvtx" nvidia-nvtx-cu12==12.8.90 >&2
    export LD_LIBRARY_PATH=$nvtx/nvidia/nvtx/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
export QLORA_NVTX=1
nsys profile --trace=cuda,nvtx,osrt --cuda-memory-usage=true --force-overwrite=true --output=profile "$@"
nsys stats --force-export=true --report cuda_gpu_kern_sum,cuda_gpu_mem_time_sum,cuda_api_sum,nvtx_sum profile.nsys-rep
