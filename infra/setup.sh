#!/usr/bin/env bash
# Sets up everything that `make run` and `make test` need: system packages, the virtual environment, compiled parts.
# Idempotent: a stamp named after the lock skips what is there. Says plainly what is missing where it cannot install.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=(3.11 3.12 3.13) # of Python that every dependency supports; those of [project] requires-python
venv=.venv
here="$(pwd -P)" # programs in a virtual environment name its place: one that was moved with the clone is made anew
stamp="$venv/.longhaul-$({ echo "$here"; cat constraints.txt pyproject.toml infra/setup.sh infra/*.py; } | sha256sum | cut -c1-16)"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

supported() { # whether a program is a Python of a version that is wanted
    "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] not in sys.argv[1:])" "${versions[@]}" 2>/dev/null
}

find_python() { # PYTHON where it is set, else the python3 on PATH, else a named version
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || fail "PYTHON is $PYTHON, which is none of Python ${versions[*]}."
        command -v "$PYTHON"; return
    fi
    for candidate in python3 "${versions[@]/#/python}"; do
        if command -v "$candidate" >/dev/null && supported "$candidate"; then command -v "$candidate"; return; fi
    done
}

install_python() { # prints one; only apt is asked, and only for a Python that it has
    local version
    for version in "" "${versions[@]}"; do
        apt_has "python3${version#3}" || continue
        apt_install "python3${version#3}" "python3${version#3}-venv" "python3${version#3}-dev" >&2
        find_python | grep . && return
    done
    fail "Python is needed in one of the versions ${versions[*]}, and apt offers none; install one and name it: PYTHON=/path/to/python3 make setup."
}

missing_programs() { # the Debian packages whose programs are not here; $1: the Python
    local suffix=""
    [ "$(readlink -f "$1")" = "$(readlink -f /usr/bin/python3)" ] || suffix="$("$1" -c 'import sys; print(".%d" % sys.version_info[1])')"
    command -v bwrap >/dev/null || echo bubblewrap
    command -v g++ >/dev/null || echo g++
    command -v git >/dev/null || echo git
    # As root a box has a user of its own, who cannot read a Python below /root.
    [ "$(id -u)" -ne 0 ] || [ -x /usr/bin/python3 ] || [ -x /usr/local/bin/python3 ] || echo python3-minimal
    "$1" -c "import ensurepip, venv" 2>/dev/null || echo "python3$suffix-venv"
    "$1" -c "import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').exists())" || echo "python3$suffix-dev"
}

may_install() { # root with apt, or somebody who may become root without a question
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then root=(env); else root=(sudo -n env); fi
    "${root[@]}" true 2>/dev/null
}

apt_has() { apt-cache show "$1" >/dev/null 2>&1; }

apt_update() { # once
    [ -n "${updated:-}" ] && return
    "${root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 update -qq || fail "apt could not refresh its package lists."
    updated=yes
}

apt_install() {
    say "installing system packages: $*"
    "${root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "$@" >/dev/null 2>"$apt_log" \
        || { tail -5 "$apt_log" >&2; fail "apt could not install $*."; }
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_programs "$1")
    [ "${#missing[@]}" -eq 0 ] && return
    may_install || fail "These system packages are missing, by their Debian names, and only root can install them: ${missing[*]} (with sudo: sudo apt-get install ${missing[*]})."
    apt_update
    apt_install "${missing[@]}"
}

make_environment() { # a virtual environment of this place and of a supported Python
    supported "$venv/bin/python" && grep -qsF "$here/$venv" "$venv/bin/activate" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "making the virtual environment $venv with $("$1" --version)"
    "$1" -m venv --clear "$venv" || fail "$1 could not make the virtual environment $venv."
}

enough_disk() { # $1: bytes that will be downloaded; unpacked they are about three times as large
    local free
    free=$(($(df -Pk "$venv" | awk 'NR == 2 { print $4 }') * 1024))
    [ "$free" -gt $(($1 * 3)) ] || fail "The Python packages need about $(($1 * 3 / 1000000)) MB below $here/$venv, and the disk has $((free / 1000000)) MB free."
}

install_python_packages() { # by uv, told what pip is told; by pip where uv cannot be had or cannot be told it
    local settings
    if settings="$("$venv/bin/python" infra/pip_settings.py)" && "$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt uv; then
        (eval "$settings"; install_with_uv)
    else
        say "uv cannot stand in for pip here (${settings:-the reason stands above}); pip installs, which takes a few minutes"
        "$venv/bin/python" -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]" \
            || fail "pip could not install the locked packages; the reason stands above."
    fi
}

install_with_uv() {
    local uv="$venv/bin/uv" lock="$venv/pylock.toml"
    # A folder for the cache where the home has none.
    mkdir -p "${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/uv}" 2>/dev/null || export UV_CACHE_DIR="$here/$venv/.cache"
    say "finding the locked packages"
    "$uv" pip compile -q --python "$venv/bin/python" --format pylock.toml -c constraints.txt --extra dev -o "$lock" pyproject.toml \
        || fail "The locked packages cannot all be found; the reason stands above."
    say "downloading and installing $("$venv/bin/python" infra/downloads.py "$lock")"
    unset UV_CONSTRAINT # kept in the lock already
    enough_disk "$("$venv/bin/python" infra/downloads.py --bytes "$lock")"
    "$uv" pip install --preview-features pylock --python "$venv/bin/python" -r "$lock" || fail "The locked packages could not be installed; the reason stands above."
    "$uv" pip install -q --python "$venv/bin/python" --no-deps --no-build-isolation -e . || fail "The project itself could not be installed; the reason stands above."
    rm -f "$lock" # addresses of the user's indexes stand in it
}

compile_parts() {
    say "building the CPU kernels and trying the training engine"
    PATH="$PWD/$venv/bin:$PATH" DS_ACCELERATOR=cpu "$venv/bin/python" -m tasks.training.warm >"$venv/warm.log" 2>&1 \
        || { tail -5 "$venv/warm.log" >&2; fail "The training engine does not work here; the whole log is $venv/warm.log."; }
}

[ -e "$stamp" ] && command -v bwrap >/dev/null && exit 0
[ -L "$venv" ] && fail "$venv is a link to $(readlink -f "$venv"): another folder's environment is not touched. Remove the link first."
[ -w . ] || fail "The folder $here cannot be written to."
started=$SECONDS
apt_log="$(mktemp)"
trap 'rm -f "$apt_log"' EXIT
python="$(find_python)"
if [ -z "$python" ]; then
    may_install || fail "Python is needed in one of the versions ${versions[*]}; install one (on Debian and Ubuntu the packages python3, python3-venv and python3-dev) or name it: PYTHON=/path/to/python3 make setup."
    apt_update
    python="$(install_python)"
fi
install_packages "$python"
make_environment "$python"
install_python_packages
compile_parts
"$venv/bin/python" -m flows.repository # so that a dvc typed by hand works in a folder without git too
rm -f "$venv"/.longhaul-*
touch "$stamp"
say "done in $((SECONDS - started)) s"
