"""Opens boxes: checks once what the machine can give, then starts a fresh bubblewrap for each box."""

import itertools
import os
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from tasks.sandbox.box import Box
from tasks.sandbox.cgroup import ControlGroups
from tasks.sandbox.launch import (
    ETC,
    bubblewrap_arguments,
    bubblewrap_version,
    disks,
    find_interpreter,
    find_programs,
    serve_script,
)
from tasks.sandbox.limits import Limits, SandboxError, SandboxUnavailable
from tasks.sandbox.seccomp import MACHINES, seccomp_program
from tasks.sandbox.start import Ends, open_ends, place, start_process
from tasks.sandbox.users import box_user, host_users, user_switch

LEVELS = ("strict", "namespaces")
LEVEL = "LONGHAUL_SANDBOX"
# Run in the first box: every line names a wall and succeeds only where it stands.
SELF_TEST = {
    "own user": '[ "$(id -u)" = 1000 ]',
    "PID namespace": "[ $$ = 1 ]",
    "read-only system": "! ( : >/usr/longhaul ) 2>/dev/null && ! ( : >/longhaul ) 2>/dev/null",
    "no network": '[ "$(wc -l </proc/net/dev)" -le 3 ]',
    "no capabilities": "grep -q '^CapEff:.*0000000000000000' /proc/self/status",
    "seccomp filter": "grep -q '^Seccomp:.*2' /proc/self/status && ! unshare --user true 2>/dev/null",
    "Python": '"$PYTHON" -I -S -c pass',
}
# Run as well where no control group bounds the number of processes: the kernel's own bound is none for root's boxes.
BOUND_TEST = """\
import os, sys
read, write = os.pipe()
try:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
except OSError:
    sys.exit(0)
sys.exit("more processes than the limit could be started")
"""


class SandboxFactory:
    """Gives boxes with the same limits and level; safe to use from many threads. Close it, or use `with`.

    `isolation` describes the walls in words and is to be recorded with every result.
    """

    def __init__(self, limits: Limits, level: str) -> None:
        self.limits, self.level = limits, level
        self._bwrap, self._bash = find_programs()
        self._users = host_users()
        self._interpreter = find_interpreter(own_user=bool(self._users))
        self._first, made = disks(limits, bubblewrap_version(self._bwrap))
        self._arguments = bubblewrap_arguments(self._interpreter, made)
        self._filter = _filter_for_this_machine()
        self._groups = ControlGroups(limits) if level == "strict" else None
        self._numbers = itertools.count()
        # bubblewrap dies with the thread that started it, so one that lives as long as the factory starts all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-start")
        self.isolation = self._describe()

    def __enter__(self) -> "SandboxFactory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def python(self) -> str:
        """Path of the Python interpreter inside a box."""
        return self._interpreter.path

    def box(
        self,
        files: Mapping[str, str | bytes],
        tests: Mapping[str, str | bytes] | None = None,
        report: bool = False,
    ) -> Box:
        """A fresh box with `files` under /work and, for a judge, `tests` read-only under /tests.

        With `report`, commands inherit descriptor 9, and what they write there is CommandResult.report.
        Raises SandboxError when a path leaves its folder or the box does not start.
        """
        number = next(self._numbers)
        user = box_user(self._users, number)
        contents = {**ETC, **place("/work", files), **place("/tests", tests or {})}
        ends = open_ends(self._filter, contents, report, user)
        group = self._groups.create(f"box-{number}") if self._groups is not None else None
        try:
            process, shell = start_process(self._starter, self._argv(user, ends), ends, group)
        except BaseException:
            ends.ours.close()
            if group is not None:
                group.remove()
            raise
        box = Box(process, shell, ends.ours, self.limits, group, self.isolation)
        try:
            box.start()
        except BaseException:
            box.close()
            raise
        return box

    def close(self) -> None:
        """Give back what the factory holds. Close its boxes first: those left open are killed."""
        self._starter.shutdown()
        if self._groups is not None:
            self._groups.close()

    def check(self) -> None:
        """Open a box and try its walls; SandboxUnavailable names the first that does not stand."""
        try:
            with self.box({}) as box:
                box.run(f"PYTHON={self.python}")
                for wall, command in self._walls().items():
                    result = box.run(command)
                    if result.exit_code != 0:
                        raise SandboxUnavailable(
                            f"The sandbox level '{self.level}' needs {wall}, which this machine did not give "
                            f"(exit code {result.exit_code}; {result.output.strip() or 'no output'})."
                        )
        except SandboxError as error:
            raise SandboxUnavailable(f"The sandbox level '{self.level}' is not available: {error}") from error

    def _walls(self) -> dict[str, str]:
        if self._groups is not None:
            return SELF_TEST
        bound = f"\"$PYTHON\" -I -S -c '{BOUND_TEST}' {self.limits.processes}"
        return SELF_TEST | {"a bound on processes": bound}

    def _argv(self, user: int | None, ends: Ends) -> list[str]:
        theirs = ends.theirs
        argv = [*user_switch(user), *self._first, self._bwrap, *self._arguments]
        argv += ["--info-fd", str(theirs["info"]), "--seccomp", str(theirs["filter"])]
        for path, descriptor in ends.files.items():
            argv += ["--perms", "0644", "--file", str(descriptor), path]
        script = serve_script(self.limits, theirs, bound_memory=self._groups is None)
        return [*argv, "--remount-ro", "/", "--", self._bash, "--norc", "--noprofile", "-c", script, "bash"]

    def _describe(self) -> str:
        groups = f", cgroup v{self._groups.version}" if self._groups is not None else ", no cgroup"
        user = "own uid" if self._users else "caller's uid mapped"
        return f"bubblewrap {self.level}: namespaces, {user}, no capabilities, seccomp{groups}"


def open_sandbox(kind: str = "bubblewrap", limits: Limits | None = None, level: str | None = None) -> SandboxFactory:
    """A factory of boxes, tried out once.

    Level "strict" is namespaces, seccomp and control groups; "namespaces" is the same without control groups, and
    must be asked for by name: `level`, or else LONGHAUL_SANDBOX of the environment, as a machine without control
    groups is one for every program of a run. Raises SandboxUnavailable if the machine cannot give the level: there is
    no fallback.
    """
    level = level or os.environ.get(LEVEL) or "strict"
    if kind != "bubblewrap":
        raise SandboxUnavailable(f"The sandbox kind {kind!r} is not known; the one that is there is 'bubblewrap'.")
    if level not in LEVELS:
        known = " and ".join(LEVELS)
        raise SandboxUnavailable(f"The sandbox level {level!r} is not known; there are {known} ({LEVEL} names one).")
    factory = SandboxFactory(limits or Limits(), level)
    try:
        factory.check()
    except BaseException:
        factory.close()
        raise
    return factory


def _filter_for_this_machine() -> bytes:
    if platform.machine() not in MACHINES:
        raise SandboxUnavailable(
            f"The sandbox has no system-call filter for {platform.machine()}; it has them for {', '.join(MACHINES)}."
        )
    return seccomp_program()
