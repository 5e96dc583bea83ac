"""The command line of a box: what bubblewrap mounts, which user it is, and the shell loop that serves commands."""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox.limits import Limits, SandboxUnavailable

BOX_USER = 1000
REPORT_DESCRIPTOR = 9
DESCRIPTORS = {"reply": 8, "report": REPORT_DESCRIPTOR}  # in the box
OPEN_FILES = 256  # of each process in a box
OLDEST = (0, 5, 0)  # of bubblewrap: the first with --perms and --clearenv
SIZED = (0, 7, 0)  # the first with --size
DISKS = {"/tmp": "1777", "/work": "0755"}
SYSTEM_FOLDERS = ("lib", "lib32", "lib64", "bin", "sbin")
DEVICES = ("null", "zero", "random", "urandom")
ETC_FILES = ("ld.so.cache", "alternatives")  # of the host: the library cache and the distribution's program links
ETC = {
    "/etc/passwd": f"agent:x:{BOX_USER}:{BOX_USER}:agent:/work:/bin/bash\n",
    "/etc/group": f"agent:x:{BOX_USER}:\n",
    "/etc/hostname": "longhaul\n",
}

# Commands come on stdin, each as a nonce and a text that end with NUL; the answer (nonce, exit code) leaves on a
# descriptor of its own, which is closed while the command runs. The limits set here can only be lowered later, and
# what commands make has the permissions that it has everywhere, whatever mask this process was started under.
SERVE = """\
exec {moves}
umask 022
ulimit {bounds} || exit 125
builtin printf 'ready\\n' >&8
while IFS= builtin read -r -d '' __nonce && IFS= builtin read -r -d '' __command; do
  builtin eval "$__command" </dev/null 8>&-
  builtin printf '%s %d\\n' "$__nonce" "$?" >&8
done"""


@dataclass(frozen=True)
class Interpreter:
    """The Python of the boxes: its path, and the folder to bind (None when it lies under /usr)."""

    path: str
    prefix: str | None


def find_programs() -> tuple[str, str]:
    """The paths of bwrap and bash, or SandboxUnavailable."""
    bwrap, bash = shutil.which("bwrap"), shutil.which("bash", path="/usr/bin:/bin")
    if bwrap is None:
        raise SandboxUnavailable("The program bwrap is not installed: install the system package 'bubblewrap'.")
    if bash is None:
        raise SandboxUnavailable("The program bash is missing from /usr/bin, and the sandbox's shell is bash.")
    return bwrap, bash


def find_interpreter(own_user: bool) -> Interpreter:
    """The system's Python 3.8 or later, or else the one that runs this process, without its virtual environment.

    own_user: boxes have another user than this process, who must be able to read it.
    """
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(candidate).exists() and _is_recent(candidate):
            return Interpreter(candidate, None)
    prefix = Path(sys.base_prefix).resolve()
    path = prefix / "bin" / f"python3.{sys.version_info.minor}"
    if own_user and not _others_can_reach(prefix):
        raise SandboxUnavailable(
            f"The sandbox needs a Python that its own user can read, but {prefix} is closed to other users and "
            "there is no /usr/bin/python3: install the system package 'python3-minimal'."
        )
    return Interpreter(str(path), str(prefix))


def _is_recent(python: str) -> bool:
    test = "import sys; sys.exit(sys.version_info < (3, 8))"
    return subprocess.run([python, "-I", "-S", "-c", test], check=False, capture_output=True).returncode == 0


def _others_can_reach(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in [folder, *folder.parents])


def bubblewrap_version(bwrap: str) -> tuple[int, ...]:
    """The version of the program, e.g. (0, 8, 0). Raises SandboxUnavailable for one that does not run or is too old."""
    try:
        said = subprocess.run([bwrap, "--version"], capture_output=True, check=False).stdout.decode(errors="replace")
    except OSError as error:
        raise SandboxUnavailable(f"The program {bwrap} does not run: {error.strerror}.") from error
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    version = tuple(int(part) for part in found.groups()) if found else ()
    if version < OLDEST:
        raise SandboxUnavailable(
            f"The program {bwrap} is {said.strip() or 'no bubblewrap'}, and the sandbox needs bubblewrap "
            f"{_dotted(OLDEST)} or later: install a newer system package 'bubblewrap'."
        )
    return version


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def disks(limits: Limits, version: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """What goes before bubblewrap's command line and into it, so that /work and /tmp are disks of the bounded size.

    Before version 0.7.0 bubblewrap cannot bound a disk. There the two are mounted first, over /sys, which no box sees,
    in a user and mount namespace around bubblewrap's own.
    """
    size = str(limits.disk_mb << 20)
    if version >= SIZED:
        made = [["--perms", mode, "--size", size, "--tmpfs", place] for place, mode in DISKS.items()]
        return [], [word for words in made for word in words]
    mounts = [f"mount -t tmpfs -o size={size},mode={mode} tmpfs /sys{place}" for place, mode in DISKS.items()]
    script = " && ".join(["mount -t tmpfs tmpfs /sys", "mkdir /sys/work /sys/tmp", *mounts, 'exec "$@"'])
    first = ["/usr/bin/unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, "sh"]
    return first, [word for place in DISKS for word in ("--bind", f"/sys{place}", place)]


def bubblewrap_arguments(interpreter: Interpreter, disks: Sequence[str]) -> list[str]:
    """The part of the bwrap command line that all boxes of a factory share."""
    path = ":".join(dict.fromkeys(["/usr/bin", "/bin", os.path.dirname(interpreter.path)]))
    arguments = [
        "--unshare-user",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        "--cap-drop",
        "ALL",
    ]
    arguments += ["--uid", str(BOX_USER), "--gid", str(BOX_USER), "--hostname", "longhaul", "--clearenv"]
    variables = {"PATH": path, "HOME": "/work", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    for name, value in {**variables, "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}.items():
        arguments += ["--setenv", name, value]
    arguments += ["--ro-bind", "/usr", "/usr", "--proc", "/proc"]
    for name in ETC_FILES:
        if Path("/etc", name).exists():
            arguments += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    for name in SYSTEM_FOLDERS:
        source = Path("/", name)
        if source.is_symlink():
            arguments += ["--symlink", os.readlink(source), f"/{name}"]
        elif source.exists():
            arguments += ["--ro-bind", str(source), f"/{name}"]
    if interpreter.prefix is not None:
        arguments += ["--ro-bind", interpreter.prefix, interpreter.prefix]
    arguments += ["--perms", "0755", "--dir", "/dev"]
    for name in DEVICES:
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/proc/self/fd/0", "/dev/stdin"]
    arguments += ["--symlink", "/proc/self/fd/1", "/dev/stdout", "--symlink", "/proc/self/fd/2", "/dev/stderr"]
    return [*arguments, *disks, "--chdir", "/work"]


def serve_script(limits: Limits, inherited: Mapping[str, int], bound_memory: bool) -> str:
    """The text of the shell loop; `bound_memory` bounds each process where no control group bounds the box.

    The `inherited` descriptors "reply" and "report" are moved to small numbers first: the bound on open files also
    bounds the numbers that the shell can give back to a descriptor it has set aside.
    """
    ends = [(number, inherited[name]) for name, number in DESCRIPTORS.items() if name in inherited]
    return SERVE.format(
        moves=" ".join(f"{number}>&{end} {end}>&-" for number, end in ends), bounds=_bounds(limits, bound_memory)
    )


def _bounds(limits: Limits, bound_memory: bool) -> str:
    """The options of `ulimit`. A bound that this process itself is under already cannot be raised, and stays."""
    wanted = {
        "-c": (resource.RLIMIT_CORE, 0, 1024),
        "-f": (resource.RLIMIT_FSIZE, limits.disk_mb << 10, 1024),
        "-n": (resource.RLIMIT_NOFILE, OPEN_FILES, 1),
        "-t": (resource.RLIMIT_CPU, limits.cpu_seconds, 1),
        "-u": (resource.RLIMIT_NPROC, limits.processes, 1),
    }
    if bound_memory:
        wanted["-v"] = (resource.RLIMIT_AS, limits.memory_mb << 10, 1024)
    return " ".join(f"{option} {min(bound, _held(kind) // unit)}" for option, (kind, bound, unit) in wanted.items())


def _held(kind: int) -> int:
    """The bound that this process cannot raise for its children."""
    hard = resource.getrlimit(kind)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard
