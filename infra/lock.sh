#!/usr/bin/env bash
# Resolves constraints.txt anew for every supported Python on Linux, keeping what it holds where that still fits; what is to
# move is deleted from it (or edited) first. The wheels of an ordinary index decide, so that the lock holds for the ordinary
# build of torch, whose Linux wheels name CUDA's libraries and one triton; a CPU build asks for less.
set -euo pipefail
cd "$(dirname "$0")/.."
eval "$(.venv/bin/python infra/pip_settings.py)"
unset UV_FIND_LINKS UV_INDEX # places beside the index may hold wheels for one Python alone
pinned="$(mktemp)"
trap 'rm -f "$pinned"' EXIT
sed -E '/^#/d; s/ ;.*//' constraints.txt > "$pinned"
lock="$(.venv/bin/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header --extra dev -c "$pinned" pyproject.toml)"
lock="${lock//"python_full_version < '3.14' and "/}" # [tool.uv] environments, true wherever the lock is read
lock="${lock//" and sys_platform == 'linux'"/}"
printf '# Made by infra/lock.sh: every version for every supported Python, with the ordinary build of torch or a CPU build.\n%s\n' \
    "${lock//" ; sys_platform == 'linux'"/}" > constraints.txt
