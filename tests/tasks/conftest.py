"""A small disk for the tests of full ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.small_disk import small_disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes as the current folder."""
    with small_disk(tmp_path) as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
