#!/usr/bin/env bash
# Installs the pinned CUDA compiler and headers from PyPI into .cuda/ (about 420 MB, no GPU or driver
# needed) and prints the toolkit's root, the folder that holds bin/nvcc. Does nothing the second time.
# QLORA_CUDA_HOME names an existing toolkit to use instead.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=(
    nvidia-cuda-nvcc==13.5.37
    nvidia-nvvm==13.5.37
    nvidia-cuda-crt==13.5.37
    nvidia-cuda-runtime==13.5.37
    nvidia-cuda-cuobjdump==13.5.37
    nvidia-cuda-nvdisasm==13.5.37
    nvidia-cuda-cccl==13.3.5.0.6
    libclang==18.1.1
)

# Fails unless the nvcc of toolkit $1 compiles a kernel that includes the headers ours do.
check_toolkit() {
    local work status=0
    work=$(mktemp -d)
    printf '#include <cuda_bf16.h>\nextern "C" __global__ void one(__nv_bfloat16* x) { *x = __float2bfloat16(1); }\n' >"$work/one.cu"
    "$1/bin/nvcc" -ptx -arch=compute_80 -std=c++17 -o "$work/one.ptx" "$work/one.cu" >&2 || status=$?
    rm -rf "$work"
    [ "$status" = 0 ] && return
    echo "$1/bin/nvcc does not compile a kernel; it needs a C++ compiler (package g++) beside it" >&2
    return 1
}

if [ -n "${QLORA_CUDA_HOME:-}" ]; then
    [ -x "$QLORA_CUDA_HOME/bin/nvcc" ] || { echo "QLORA_CUDA_HOME: no $QLORA_CUDA_HOME/bin/nvcc" >&2; exit 1; }
    check_toolkit "$QLORA_CUDA_HOME"
    echo "$QLORA_CUDA_HOME"
    exit
fi

install=$PWD/.cuda/toolkit
root=$install/nvidia/cu13
stamp=$(printf '%s\n' "${pins[@]}" | sha256sum | cut -d' ' -f1)
installed() { [ "$(cat "$install/pins.sha256" 2>/dev/null)" = "$stamp" ]; }

if installed; then
    echo "$root"
    exit
fi

mkdir -p .cuda
exec 9>.cuda/lock
flock 9 # one installs, the others wait for it
if ! installed; then
    scripts/need-pip.sh
    echo "installing the CUDA compiler into $install" >&2
    work=$(mktemp -d "$PWD/.cuda/install.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-compile --no-deps --only-binary :all: \
        --target "$work" "${pins[@]}" >&2
    new=$work/nvidia/cu13
    chmod -R +x "$new/bin" "$new/nvvm/bin" # wheels need not carry the bit
    # Where build scripts look for libraries; the wheels have `lib` and versioned names only.
    [ -e "$new/lib64" ] || ln -s lib "$new/lib64"
    [ -e "$new/lib/libcudart.so" ] || ln -s libcudart.so.13 "$new/lib/libcudart.so"
    [ -e "$new/lib/libclang.so" ] || ln -s ../../../clang/native/libclang.so "$new/lib/libclang.so"
    check_toolkit "$new"
    echo "$stamp" >"$work/pins.sha256"
    chmod 755 "$work"
    rm -rf "$install"
    mv -T "$work" "$install"
fi
echo "$root"
