"""A corpus is built by one run at a time, and killed runs leave nothing that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.curation.draft import BusyError, building


def test_a_second_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "data" / "corpus"
    with building(corpus) as draft:
        (draft / "half").touch()
        with pytest.raises(BusyError, match=r"Another run of the stage 'curate' is writing .*corpus"), building(corpus):
            pass
        assert (draft / "half").exists()
    assert list(corpus.parent.iterdir()) == []


def test_the_draft_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".corpus.building-abc"
    leftover.mkdir()
    with building(tmp_path / "corpus") as draft:
        assert not leftover.exists()
        assert draft.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_draft_goes_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), building(tmp_path / "corpus"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
