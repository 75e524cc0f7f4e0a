#!/usr/bin/env bash
# Makes sure that `python3 -m pip` works, which is what fetches prebuilt files from PyPI.
set -euo pipefail

python3 -m pip --version >/dev/null 2>&1 && exit
echo "installing python3-pip" >&2
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq >&2 &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-pip >&2 ||
    { echo "python3 with pip is needed: install python3-pip (Debian, Ubuntu) or python3 with ensurepip" >&2; exit 1; }
