"""`python -m tasks.benchmarks.score CHECKPOINT OUT`: held-out scores of one checkpoint, at temperature 1 and greedy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import CheckpointError
from tasks.benchmarks.agentic import BenchmarkError, Outcome, by_family
from tasks.benchmarks.suite import Subject, run_agentic
from tasks.config import ConfigError, load_config
from tasks.config.sections import EvaluateConfig
from tasks.sandbox import Limits, SandboxUnavailable, open_sandbox
from tasks.statistics import StatisticsError

KNOWN = (ConfigError, BenchmarkError, StatisticsError, SandboxUnavailable, CheckpointError)


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
    draft = out.with_suffix(".tmp")
    try:
        draft.write_text(json.dumps(scores) + "\n", encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one sentence when the checkpoint, a parameter or the place of the scores is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tasks.benchmarks.score")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    try:
        settings = load_config(overrides=arguments.overrides).evaluate
        write(arguments.out, score(arguments.checkpoint, settings))
    except KNOWN as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The scores of {arguments.checkpoint} were not written to {arguments.out}: {error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
