#!/usr/bin/env bash
# Renders 60 conversations through the chat templates of public models that TRL and Axolotl ship (some ninety), with
# transformers and with this program, and compares texts and trained parts. Templates are not part of this repository:
# the packages that hold them are fetched from PyPI, pinned. Fails on any difference but the one known kind: null
# contents, over which transformers refuses to loop. PYTHON=... uses an environment with transformers and jinja2.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
export TZ=UTC # templates tell the date

if [ -z "${PYTHON:-}" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/qlora-train/interop-venv
    PYTHON=$venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$venv"
    "$PYTHON" -m pip install --quiet --requirement scripts/interop/requirements.txt
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip download --quiet --no-deps --dest "$work" trl==1.10.0 axolotl==0.12.2
"$PYTHON" scripts/interop/public_templates.py "$work"/trl-* "$work"/axolotl-* >"$work/rendered.json"
QLORA_PUBLIC_TEMPLATES=$work/rendered.json \
    cargo test --quiet -p data --test it -- --ignored --nocapture public_templates
