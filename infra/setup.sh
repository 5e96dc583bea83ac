#!/usr/bin/env bash
# Sets up everything that `make run` and `make test` need: system packages, the virtual environment, compiled parts.
# Idempotent: a stamp named after the lock skips what is there. Says plainly what is missing where it cannot install.
set -euo pipefail
cd "$(dirname "$0")/.."

python_version=3.11
packages=(bubblewrap g++ git make python3-minimal python3-venv libpython3-dev)
venv=.venv
here="$(pwd -P)" # programs in a virtual environment name its place: one that was moved with the clone is made anew
stamp="$venv/.longhaul-$({ echo "$here"; cat constraints.txt pyproject.toml infra/setup.sh; } | sha256sum | cut -c1-16)"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "python$python_version" python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" 2>/dev/null; then
            command -v "$candidate"; return
        fi
    done
    fail "Python $python_version is needed and neither python$python_version nor python3 on PATH is that version."
}

missing_programs() {
    command -v bwrap >/dev/null || echo bubblewrap
    command -v g++ >/dev/null || echo g++
    command -v git >/dev/null || echo git
    # As root a box has a user of its own, who cannot read a Python below /root.
    [ "$(id -u)" -ne 0 ] || [ -x /usr/bin/python3 ] || [ -x /usr/local/bin/python3 ] || echo python3-minimal
    "$1" -c "import ensurepip, venv" 2>/dev/null || echo python3-venv
    "$1" -c "import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').exists())" || echo libpython3-dev
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_programs "$1")
    [ "${#missing[@]}" -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "These system packages are missing and can only be installed by root with apt: ${missing[*]} (needed in all: ${packages[*]})."
    fi
    say "installing system packages: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq || fail "apt could not refresh its package lists."
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
        || fail "apt could not install ${missing[*]}."
}

install_python_packages() {
    say "installing Python packages into $venv (about two minutes)"
    if [ ! -x "$venv/bin/python" ] || ! grep -qsF "$here/$venv" "$venv/bin/activate"; then
        "$1" -m venv --clear "$venv"
    fi
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]" 2> "$venv/pip.log" \
        || { tail -5 "$venv/pip.log" >&2; fail "pip could not install the locked packages; the whole log is $venv/pip.log."; }
}

compile_parts() {
    say "building the CPU kernels and trying the training engine"
    PATH="$PWD/$venv/bin:$PATH" DS_ACCELERATOR=cpu "$venv/bin/python" -m tasks.training.warm >"$venv/warm.log" 2>&1 \
        || { tail -5 "$venv/warm.log" >&2; fail "The training engine does not work here; the whole log is $venv/warm.log."; }
}

[ -e "$stamp" ] && command -v bwrap >/dev/null && exit 0
[ -L "$venv" ] && fail "$venv is a link to $(readlink -f "$venv"): another folder's environment is not touched. Remove the link first."
started=$SECONDS
python="$(find_python)"
install_packages "$python"
install_python_packages "$python"
compile_parts
rm -f "$venv"/.longhaul-*
touch "$stamp"
say "done in $((SECONDS - started)) s"
