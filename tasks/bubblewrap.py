"""What to type where a machine keeps bubblewrap from opening a box."""

from __future__ import annotations

from pathlib import Path

KERNEL = Path("/proc/sys")
OURS = ("bwrap:", "unshare:", "mount:")  # what other programs are refused, in a box that opened, is another matter
REFUSALS = ("no permissions", "operation not permitted", "permission denied", "namespace failed", "_namespaces")
# A kernel's switch for user namespaces of ordinary users: (file, the value that forbids them, what to type)
SWITCHES = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
)


def advice(said: str, kernel: Path = KERNEL) -> str:
    """A clause that names what forbids boxes and what to type against it; empty where `said` does not tell.

    Example: ``; user namespaces are switched off, `sysctl -w user.max_user_namespaces=10000` as root allows them``.
    """
    words = said.lower()
    if "resource temporarily unavailable" in words:
        return "; this user runs as many processes as are allowed, `ulimit -u` shows how many"
    if "too many open files" in words:
        return "; `ulimit -n` shows how many are allowed, and a run needs a few hundred"
    if not words.startswith(OURS) or not any(refusal in words for refusal in REFUSALS):
        return ""
    command = next((command for file, value, command in SWITCHES if _reads(kernel / file) == value), None)
    if command is not None:
        return f"; user namespaces are switched off, `{command}` as root allows them"
    return (
        "; in a container user namespaces must be allowed, with Docker or Podman by "
        "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    )


def _reads(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # another kernel: it has no such switch
        return ""
