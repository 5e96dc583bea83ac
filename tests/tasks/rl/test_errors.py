"""A program of a run that cannot go on: one sentence, and the status says whose the fault is."""

import sqlite3
from pathlib import Path

import pytest

from tasks import reinforce
from tasks.rl import __main__ as part
from tasks.rl.errors import exit_status
from tasks.rl.spec import SpecError

PARAMS = Path(__file__).parents[3] / "params.yaml"


def test_a_missing_checkpoint_is_one_sentence_for_the_stage_and_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    monkeypatch.chdir(tmp_path)
    for program in (lambda: reinforce.main([]), lambda: part.main(["prepare"])):
        assert program() == 2
        assert capsys.readouterr().err.count("run midtrain first.\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SpecError("The folder x is no run."), 2),
        (sqlite3.OperationalError("database is locked"), 1),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("a library fell over"), 1),
        (ZeroDivisionError("a fault of ours"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_only_bad_input_is_status_2(error: BaseException, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    assert exit_status(work) == status
    assert capsys.readouterr().err.count("\n") == 1
