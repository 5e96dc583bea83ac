"""A program of a run that cannot go on: status 2 and one sentence where a person can mend it."""

from pathlib import Path

import pytest

from tasks import reinforce
from tasks.rl import __main__ as part

PARAMS = Path(__file__).parents[3] / "params.yaml"


def test_a_missing_checkpoint_is_one_sentence_for_the_stage_and_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    monkeypatch.chdir(tmp_path)
    for program in (lambda: reinforce.main([]), lambda: part.main(["prepare"])):
        assert program() == 2
        assert capsys.readouterr().err.count("run midtrain first.\n") == 1
