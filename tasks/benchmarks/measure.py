"""Held-out success of a policy: `python -m tasks.benchmarks.measure --run-dir RUN --when before|after --family FAMILY`.

`before` is the checkpoint that the run started from, `after` its last policy; tasks and sampling seeds are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model import Transformer
from model.engine import Engine
from tasks.benchmarks.agentic import FamilyResult, evaluate_family
from tasks.environments.chat import Chat
from tasks.rl.agent import AgentLimits
from tasks.rl.policy import PolicyStore
from tasks.rl.spec import RunSpec, measurement_path, policies_path, read_spec
from tasks.sandbox import Limits, open_sandbox

MODE = "sparse"
WHEN = ("before", "after")


def measure_family(run_dir: Path, when: str, family: str) -> None:
    """Evaluates at temperature 1 and writes the result in one step; nothing if it is there."""
    target = measurement_path(run_dir, when, family)
    if target.exists():
        return
    spec = read_spec(run_dir)
    result = evaluate(_policy(run_dir, spec, when), spec, family)
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps(_record(result)), encoding="utf-8")
    os.replace(draft, target)
    estimate = result.pass_at_1
    print(f"[reinforce] {when}: {family} pass@1 {estimate.value:.3f} of {estimate.n}", flush=True)


def evaluate(model: Transformer, spec: RunSpec, family: str) -> FamilyResult:
    """One sample on each held-out task of the family."""
    settings = spec.reinforce
    torch.set_num_threads(settings.threads)
    engine = Engine(model, settings.concurrency, settings.max_context, mode=MODE)
    limits = AgentLimits(settings.max_action_tokens, settings.max_context)
    chat = Chat.load(spec.tokenizer)
    with open_sandbox("bubblewrap", Limits()) as factory:
        return evaluate_family(
            engine, chat, factory, family, settings.evaluation[family], 1,
            temperature=1.0, first_seed=0, concurrency=settings.concurrency, limits=limits,
        )  # fmt: skip


def _policy(run_dir: Path, spec: RunSpec, when: str) -> Transformer:
    if when == "before":
        return Transformer.from_pretrained(spec.checkpoint)
    policies = PolicyStore(policies_path(run_dir), spec.reinforce.keep_policies)
    return policies.load(policies.latest())


def _record(result: FamilyResult) -> dict[str, Any]:
    return {
        "pass_at_1": result.pass_at_1.to_json(),
        "environment_errors": result.environment_errors,
        "outcomes": {outcome.task_id: outcome.passed for outcome in result.outcomes},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """2 and one sentence on stderr if the run or a policy is unusable."""
    parser = argparse.ArgumentParser(prog="python -m tasks.benchmarks.measure")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--when", choices=WHEN, required=True)
    parser.add_argument("--family", required=True)
    arguments = parser.parse_args(argv)
    try:
        measure_family(arguments.run_dir, arguments.when, arguments.family)
    except (ValueError, RuntimeError, OSError, sqlite3.Error) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
