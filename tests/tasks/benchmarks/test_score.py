"""The programs that score a checkpoint: they close what they open and fail in one sentence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import evaluate, promote
from tasks.benchmarks import measure, score, suite
from tasks.benchmarks.agentic import Outcome
from tasks.rl import judging, rollout, worker
from tasks.statistics import StatisticsError
from tests.tasks.benchmarks.test_agentic import OUTCOME

FAMILIES = ("shell", "chain", "repair")


class Outcomes(list[Outcome]):
    """Graded episodes; it can stand for a rollout too."""

    def run(self) -> None:
        pass


SCORED = Outcomes(replace(OUTCOME, family=family, temperature=t) for family in FAMILIES for t in (1.0, 0.0))


class Sandbox:
    """Stands for a factory of boxes; knows whether it was closed."""

    open = False

    def __enter__(self) -> Sandbox:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    opened = Sandbox()
    for module in (score, measure, evaluate, worker):
        monkeypatch.setattr(module, "open_sandbox", lambda *_: opened)
    monkeypatch.setattr("tasks.sandbox.open_sandbox", lambda *_: opened)
    monkeypatch.setattr(suite.Subject, "load", lambda *_: None)
    return opened


@pytest.mark.parametrize("module", [score, measure, evaluate, promote, judging, rollout])
@pytest.mark.parametrize("broken", [False, True], ids=["well", "badly"])
def test_the_sandbox_is_closed_however_it_ends(
    module: Any, broken: bool, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, call = use(module)

    def working(*arguments: Any, **_: Any) -> Any:
        assert sandbox.open
        if broken:
            raise StatisticsError("No outcome.")
        return SCORED

    target = suite if module is promote else module
    monkeypatch.setattr(target, work, working)
    if broken:
        error = promote.PromotionError if module is promote else StatisticsError  # a promotion says whom it ran
        with pytest.raises(error, match="No outcome"):
            call()
    else:
        call()
    assert not sandbox.open


def use(module: Any) -> tuple[str, Callable[[], object]]:
    """The name of what a module does in the sandbox, and a call that comes to it."""
    reinforce = SimpleNamespace(threads=1, concurrency=1, max_context=8, max_action_tokens=4, evaluation={"shell": 1})
    spec: Any = SimpleNamespace(reinforce=reinforce, tokenizer="")
    settings: Any = SimpleNamespace(threads=1, tasks={"shell": 1})
    config: Any = SimpleNamespace(evaluate=settings)
    worker: Any = SimpleNamespace(spec=spec)
    nothing: Any = None

    def measured() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "Engine", lambda *_, **__: None)
            patch.setattr(measure.Chat, "load", lambda *_: None)
            measure.evaluate(nothing, spec, "shell")

    uses: dict[Any, tuple[str, Callable[[], object]]] = {
        score: ("run_agentic", lambda: score.score(Path("x"), settings)),
        measure: ("evaluate_family", measured),
        evaluate: ("_evaluate", lambda: evaluate.evaluate(config, nothing)),
        promote: ("run_agentic", lambda: promote._evaluate_again(config, Path("x"))),
        judging: ("judge_until_the_end", lambda: judging.run(worker)),
        rollout: ("Rollout", lambda: rollout.run(worker)),
    }
    return uses[module]


def test_scores_are_written_whole(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "run_agentic", lambda *_: SCORED)
    assert score.main(["checkpoint", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["shell"]["solved"] == scores["shell"]["solved_greedy"] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (StatisticsError("An estimate needs at least one value and none was given."), 2, "needs at least one value"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "The disk is full"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    error: Exception, status: int, sentence: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(score, "run_agentic", fail)
    assert score.main(["checkpoint", str(tmp_path / "scores.json")]) == status
    message = capsys.readouterr().err
    assert sentence in message
    assert message.endswith(".\n")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
