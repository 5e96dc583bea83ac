from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


class PlainBox:
    """A folder and a subprocess: enough to run trusted test programs where no sandbox is needed."""

    isolation = "none"

    def __init__(self, files: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        for name, text in files.items():
            (Path(self._folder.name) / name).write_text(text)

    def __enter__(self) -> PlainBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str, timeout: float = 60.0) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["bash", "-c", command], cwd=self._folder.name, timeout=timeout, check=False)

    def collect(self, globs: Sequence[str]) -> dict[str, bytes]:
        folder = Path(self._folder.name)
        return {path.name: path.read_bytes() for glob in globs for path in folder.glob(glob)}

    def close(self) -> None:
        self._folder.cleanup()


class PlainFactory:
    def box(self, files: Mapping[str, str]) -> PlainBox:
        return PlainBox(files)


@pytest.fixture
def plain_factory() -> PlainFactory:
    return PlainFactory()
