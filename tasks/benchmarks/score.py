"""`python -m tasks.benchmarks.score CHECKPOINT OUT`: held-out scores of one checkpoint, at temperature 1 and greedy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.benchmarks.agentic import Outcome, by_family
from tasks.benchmarks.suite import Subject, run_agentic
from tasks.cli import Parser, program
from tasks.config import load_config
from tasks.config.sections import EvaluateConfig
from tasks.sandbox import Limits, open_sandbox


def score(checkpoint: Path, settings: EvaluateConfig) -> dict[str, Any]:
    """{family: {"pass_at_1", "greedy", "solved", "solved_greedy"}}; `solved`: a 0 or 1 an episode, in task order."""
    torch.set_num_threads(settings.threads)
    subject = Subject.load(checkpoint, settings)
    with open_sandbox("bubblewrap", Limits()) as factory:
        outcomes = run_agentic(subject, settings, factory)
    return {family: _family(outcomes, family) for family in settings.tasks}


def _family(outcomes: Sequence[Outcome], family: str) -> dict[str, Any]:
    of_family = [outcome for outcome in outcomes if outcome.family == family]
    sampled = [outcome for outcome in of_family if outcome.temperature > 0]
    greedy = [outcome for outcome in of_family if outcome.temperature == 0]
    return {
        "pass_at_1": by_family(sampled)[family].pass_at_1.to_json(),
        "greedy": by_family(greedy)[family].pass_at_1.to_json(),
        "solved": [int(outcome.passed) for outcome in sampled],
        "solved_greedy": [int(outcome.passed) for outcome in greedy],
    }


def write(out: Path, scores: Mapping[str, Any]) -> None:
    """The file is whole or not there."""
    draft = out.with_name(f".{out.name}.draft")
    try:
        draft.write_text(json.dumps(scores) + "\n", encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


@program("tasks.benchmarks.score")
def main(argv: Sequence[str] | None = None) -> int:
    """Scores the checkpoint and writes the file."""
    parser = Parser(prog="python -m tasks.benchmarks.score")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    settings = load_config(overrides=arguments.overrides).evaluate
    write(arguments.out, score(arguments.checkpoint, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
