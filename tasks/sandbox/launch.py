"""The command line of a box: what bubblewrap mounts, which user it is, and the shell loop that serves commands."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox.limits import Limits, SandboxUnavailable

BOX_USER = 1000
REPORT_DESCRIPTOR = 9
DESCRIPTORS = {"reply": 8, "report": REPORT_DESCRIPTOR}  # in the box
HOST_USERS = 1_900_000_000  # first of the user ids of boxes on the host, far above what distributions hand out
USERS_PER_PROCESS = 64
SYSTEM_FOLDERS = ("lib", "lib32", "lib64", "bin", "sbin")
DEVICES = ("null", "zero", "random", "urandom")
ETC_PREFIX = "longhaul-etc-"
ETC_FILES = ("ld.so.cache", "alternatives")

# Commands come on stdin, each as a nonce and a text that end with NUL; the answer (nonce, exit code) leaves on a
# descriptor of its own, which is closed while the command runs. The limits set here can only be lowered later.
SERVE = """\
exec {moves}
ulimit -c 0 -f {file_blocks} -n 256 -t {cpu_seconds} -u {processes}{address_space} || exit 125
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


def find_interpreter() -> Interpreter:
    """The system's Python 3.8 or later, or else the one that runs this process, without its virtual environment."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(candidate).exists() and _is_recent(candidate):
            return Interpreter(candidate, None)
    prefix = Path(sys.base_prefix).resolve()
    path = prefix / "bin" / f"python3.{sys.version_info.minor}"
    if os.geteuid() == 0 and not _others_can_reach(prefix):
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


def make_etc() -> Path:
    """A folder for the boxes' /etc: a user, a group, the library cache and the distribution's program links."""
    for left in Path(tempfile.gettempdir()).glob(f"{ETC_PREFIX}*-*"):
        owner = left.name.removeprefix(ETC_PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():  # its program was killed
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{ETC_PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)
    (folder / "passwd").write_text(f"agent:x:{BOX_USER}:{BOX_USER}:agent:/work:/bin/bash\n")
    (folder / "group").write_text(f"agent:x:{BOX_USER}:\n")
    (folder / "hostname").write_text("longhaul\n")
    for name in ETC_FILES:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def host_user(number: int) -> int | None:
    """The user id on the host of a factory's box `number`; None when this process is not root and so has no choice.

    Without root a box has its caller's own id on the host, and uid 1000 inside its user namespace.
    """
    if os.geteuid() != 0:
        return None
    return HOST_USERS + os.getpid() % 3_000_000 * USERS_PER_PROCESS + number % USERS_PER_PROCESS


def user_switch(user: int | None) -> list[str]:
    """The start of a command line that gives up root for `user`: coreutils' chroot to where one is already."""
    return [] if user is None else [_chroot(), f"--userspec=+{user}:+{user}", "--groups=", "/"]


def _chroot() -> str:
    return next(path for path in ("/usr/sbin/chroot", "/usr/bin/chroot") if Path(path).exists())


def bubblewrap_arguments(etc: Path, interpreter: Interpreter, limits: Limits) -> list[str]:
    """The part of the bwrap command line that all boxes of a factory share."""
    size = str(limits.disk_mb << 20)
    path = ":".join(dict.fromkeys(["/usr/bin", "/bin", os.path.dirname(interpreter.path)]))
    arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    arguments += ["--uid", str(BOX_USER), "--gid", str(BOX_USER), "--hostname", "longhaul", "--clearenv"]
    variables = {"PATH": path, "HOME": "/work", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    for name, value in {**variables, "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}.items():
        arguments += ["--setenv", name, value]
    arguments += ["--ro-bind", "/usr", "/usr", "--ro-bind", str(etc), "/etc", "--proc", "/proc"]
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
    arguments += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp"]
    return arguments + ["--perms", "0755", "--size", size, "--tmpfs", "/work", "--chdir", "/work"]


def serve_script(limits: Limits, inherited: Mapping[str, int], bound_memory: bool) -> str:
    """The text of the shell loop; `bound_memory` bounds each process where no control group bounds the box.

    The `inherited` descriptors "reply" and "report" are moved to small numbers first: the bound on open files also
    bounds the numbers that the shell can give back to a descriptor it has set aside.
    """
    ends = [(number, inherited[name]) for name, number in DESCRIPTORS.items() if name in inherited]
    return SERVE.format(
        moves=" ".join(f"{number}>&{end} {end}>&-" for number, end in ends),
        file_blocks=limits.disk_mb << 10,
        cpu_seconds=limits.cpu_seconds,
        processes=limits.processes,
        address_space=f" -v {limits.memory_mb << 10}" if bound_memory else "",
    )
