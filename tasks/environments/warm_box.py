"""One bubblewrap box that stays open for thousands of demonstrations, whose commands are our own experts'.

It trades a fresh box a task for speed: /work is one folder of the host, emptied and filled from outside. Work of a
model never runs here; that gets a fresh box of `tasks.sandbox` each time.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tasks.bubblewrap import advice
from tasks.errors import MachineError

DRIVER = (
    r"""umask 022; while IFS= read -r -d '' command; do eval "$command" < /dev/null 2>&1; printf '\0%d\n' "$?"; done"""
)


class WarmBoxError(MachineError):
    """The box could not be opened or has ended."""


class WarmBox:
    """A shell without network in /work; `reset` gives it the next start state."""

    def __init__(self) -> None:
        """Raises WarmBoxError when bubblewrap is not installed or refuses."""
        program = shutil.which("bwrap")
        if program is None:
            raise WarmBoxError(
                "Demonstrations need bubblewrap, and the program bwrap was not found: install the system package "
                "'bubblewrap'."
            )
        self._folder = Path(tempfile.mkdtemp(prefix="longhaul-demonstrate-"))
        self._folder.chmod(0o700)
        try:
            self._process = subprocess.Popen(
                [program, *_arguments(self._folder), "bash", "--norc", "--noprofile", "-c", DRIVER, "bash"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise WarmBoxError(f"The program {program} could not be started: {error.strerror}.") from error
        said, code = self.run("echo ready")
        if (said, code) != ("ready\n", 0):
            self.close()
            words = " ".join(said.split()).rstrip(".") or "nothing"
            raise WarmBoxError(
                f"Demonstrations need bubblewrap, and it could not open a box; it said: {words}{advice(words)}."
            )

    def reset(self, files: Mapping[str, str]) -> None:
        """Empties /work and writes the files, whose permissions are the same under every mask."""
        for path in self._folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, text in files.items():
            target = self._folder / name
            if target.parent != self._folder and not target.parent.exists():
                target.parent.mkdir()
                target.parent.chmod(0o755)
            target.write_text(text, encoding="utf-8")
            target.chmod(0o644)

    def run(self, command: str) -> tuple[str, int]:
        """(what the command printed, its exit code)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: what it said last is read below
            self._process.stdin.write(command.encode() + b"\0")
            self._process.stdin.flush()
        printed = bytearray()
        while not printed.endswith(b"\n") or b"\0" not in printed:
            piece = self._process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not piece:
                return printed.decode("utf-8", "replace"), 255
            printed += piece
        output, _, code = printed.rpartition(b"\0")
        return output.decode("utf-8", "replace"), int(code)

    def state(self) -> dict[str, str]:
        """The files under /work."""
        paths = [path for path in sorted(self._folder.rglob("*")) if path.is_file()]
        return {path.relative_to(self._folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    def close(self) -> None:
        """Ends the shell and removes the folder."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> WarmBox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _arguments(folder: Path) -> list[str]:
    links = [part for name in ("bin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    return [
        "--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL",
        "--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev",
        "--tmpfs", "/tmp", "--bind", str(folder), "/work", "--chdir", "/work", "--setenv", "PATH", "/usr/bin:/bin",
        "--setenv", "HOME", "/work", "--setenv", "LC_ALL", "C.UTF-8", "--setenv", "TZ", "UTC",
    ]  # fmt: skip
