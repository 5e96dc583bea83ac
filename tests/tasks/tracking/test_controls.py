import json
from pathlib import Path

import pytest

from tasks.tracking import report
from tasks.tracking.controls import EVIDENCE, SERIES, control_pictures


def test_the_control_is_drawn_from_what_make_evidence_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = {"pass_at_1": {"value": 0.25, "ci95": [0.2, 0.3], "n": 400}}
    place = tmp_path / EVIDENCE
    place.parent.mkdir()
    place.write_text(json.dumps({"11": {model: {"shell": score} for model in (*SERIES, "scratch")}}))
    monkeypatch.chdir(tmp_path)
    ((picture, caption),) = control_pictures()
    assert all(title in picture for title in ("shell", "seed 11", "random rewards (control)"))
    assert "make evidence" in caption
    assert [shown for _, shown in report._agent_pictures()] == [caption]


def test_the_evidence_of_the_repository_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert len(control_pictures()) == 1


def test_without_evidence_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert control_pictures() == []
