"""Stage `promote`: the gate, the registry, the model card and the report.

The gate compares pass@1 at temperature 1 on the same held-out tasks and sampling seeds, averaged over families with
equal weight, by the one-sided 95 % bootstrap interval of the paired difference (whole tasks drawn, within families):
- no champion yet: the lower end of (candidate - checkpoint before RL) must exceed 0;
- against a champion: the lower end of (candidate - champion) must exceed -`promote.margin` (not worse), and that of
  (candidate - the best champion so far) too.
The best one stays what it is until a candidate is better for certain: the lower end of the difference exceeds 0. So
the margin is granted once: champions that are each a little worse than the one before cannot walk downhill.
The candidate is registered either way; the alias `champion` moves only if the gate passes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.benchmarks.comparison import Graded, pair
from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.errors import InputError
from tasks.files import read_lines
from tasks.statistics import Gate
from tasks.tracking import Tracker, registry, run
from tasks.tracking.card import model_card
from tasks.tracking.experiment import commit_of
from tasks.tracking.metrics import process_seconds, write_metrics
from tasks.tracking.provenance import sha256
from tasks.tracking.registry import Version
from tasks.tracking.report import write_report
from tasks.tracking.store import STATE

CANDIDATE = Path("checkpoints/reinforce")
SAMPLES = Path("results/evaluate/samples.jsonl")
EVALUATION = Path("metrics/evaluate.json")
METRICS = Path("metrics/promote.json")
REPORT = Path("report")
OUTCOMES = "evaluation.jsonl"  # travels with a registered model, so that the next one can be paired with it


class PromotionError(InputError):
    """The evaluation and the checkpoint do not belong together, or a results file cannot be read."""


@dataclass(frozen=True)
class Episode:
    """What the gate needs of a graded episode."""

    task_id: str
    task_hash: str
    family: str
    sample: int
    temperature: float
    passed: bool

    @property
    def key(self) -> tuple[str, int, float]:
        """Equal for the same task and sampling seed under two models."""
        return self.task_hash, self.sample, self.temperature


def promote(config: Config, tracker: Tracker) -> dict[str, Any]:
    """Decides, registers, moves the alias, writes card, report and metrics; returns the metrics."""
    name = config.promote.name
    evaluation = _read_record(EVALUATION)
    digest = sha256(CANDIDATE / "model.safetensors")
    if evaluation["model_sha256"] != digest:
        raise PromotionError(f"{EVALUATION} was measured on other weights than those in {CANDIDATE}.")
    champion = registry.champion(tracker.client, name)
    decision = decide(config, champion, digest, tracker)
    _say(1, decision["statement"])
    lineage = _read_record(CANDIDATE / "longhaul.json")
    lineage |= {"git_commit": commit_of(tracker.client, lineage)}
    unchanged = champion if decision["unchanged"] else None
    made = unchanged or _register(config, tracker, evaluation, decision, lineage)
    if decision["passed"] and not unchanged:
        registry.move_champion(tracker.client, name, made.number, decision["statement"], decision["best_champion"])
    metrics = decision | {"version": f"{name}/{made.number}", **_champions(tracker, name)}
    _say(2, f"{metrics['version']} registered; champion is {metrics['champion']}")
    page = write_report(REPORT, metrics, lineage, SAMPLES)
    tracker.artifact(page)
    metrics["seconds"] = process_seconds()
    write_metrics(METRICS, metrics)
    tracker.summary(metrics)
    _say(3, f"report: {page}")
    return metrics


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise PromotionError(f"The file {path} is not JSON: {error}.") from error


def decide(config: Config, champion: Version | None, digest: str, tracker: Tracker) -> dict[str, Any]:
    """The gate's outcome as the metrics file holds it, with a sentence that states it.

    `best_champion` is the version that stays the best so far; None where a promoted candidate takes its place.
    """
    if champion is not None and champion.model_sha256 == digest:
        statement = f"The champion, version {champion.number}, already has these weights."
        return {"passed": True, "unchanged": True, "statement": statement}
    if champion is None:
        before = pair(read_episodes(SAMPLES, "baseline"), read_episodes(SAMPLES, "candidate"))
        return _decision("the checkpoint before RL", before.gate(0.0, config.promote.confidence), None)
    best = registry.best_champion(tracker.client, config.promote.name) or champion
    outcomes = {title: _against(config, other, tracker) for title, other in _opponents(champion, best).items()}
    opponent, closest = min(outcomes.items(), key=lambda entry: entry[1].lower)
    *_, against_best = outcomes.values()
    return _decision(opponent, closest, None if against_best.lower > 0 else best.number)


def _opponents(champion: Version, best: Version) -> dict[str, Version]:
    """Whom the candidate must not fall behind, the best champion so far last."""
    if best.number == champion.number:
        return {f"champion version {champion.number}": champion}
    return {f"champion version {champion.number}": champion, f"version {best.number} (the best champion so far)": best}


def _against(config: Config, other: Version, tracker: Tracker) -> Gate:
    candidate = read_episodes(SAMPLES, "candidate")
    paired = pair(champion_episodes(config, other, candidate, tracker), candidate)
    return paired.gate(config.promote.margin, config.promote.confidence)


def _decision(opponent: str, outcome: Gate, best: str | None) -> dict[str, Any]:
    return {
        "passed": outcome.passed,
        "unchanged": False,
        "opponent": opponent,
        "difference": outcome.difference,
        "lower": outcome.lower,
        "margin": outcome.margin,
        "confidence": outcome.confidence,
        "tasks": outcome.clusters,
        "best_champion": best,
        "statement": _statement(outcome, opponent),
    }


def read_episodes(path: Path, model: str | None = None) -> list[Episode]:
    """The episodes at temperature 1 of one model. Raises PromotionError naming the file and line that is broken."""
    records = read_lines(path, dict[str, Any], PromotionError, "a graded episode")
    episodes = read_lines(path, Episode, PromotionError, "a graded episode")
    return [
        episode
        for (_, record), (_, episode) in zip(records, episodes, strict=True)
        if episode.temperature == 1.0 and (model is None or record.get("model") == model)
    ]


def champion_episodes(
    config: Config, best: Version, candidate: Sequence[Episode], tracker: Tracker
) -> Sequence[Graded]:
    """The champion's episodes on the candidate's tasks and seeds: those stored with it, or run anew if they differ."""
    with tempfile.TemporaryDirectory(dir=STATE) as scratch:
        folder = registry.download(tracker.client, config.promote.name, best.number, Path(scratch) / "model")
        stored = read_episodes(folder / OUTCOMES) if (folder / OUTCOMES).is_file() else []
        if {episode.key for episode in candidate} <= {episode.key for episode in stored}:
            return stored
        _say(0, f"champion version {best.number} was measured on other tasks; it runs on these")
        return _evaluate_again(config, folder)


def _evaluate_again(config: Config, folder: Path) -> Sequence[Graded]:
    from model import CheckpointError  # imports torch, which a plain promotion does not need
    from tasks.benchmarks.suite import Subject, run_agentic
    from tasks.sandbox import Limits, open_sandbox

    try:
        subject = Subject.load(folder, config.evaluate)
        with open_sandbox("bubblewrap", Limits()) as factory:
            outcomes = run_agentic(subject, config.evaluate, factory)
    except (InputError, CheckpointError) as error:
        raise PromotionError(f"The champion could not be run on these tasks: {error}") from error
    return [outcome for outcome in outcomes if outcome.temperature == 1.0]


def _register(
    config: Config,
    tracker: Tracker,
    evaluation: Mapping[str, Any],
    decision: Mapping[str, Any],
    lineage: Mapping[str, str],
) -> Version:
    """Registers a copy of the checkpoint with its card and its episodes beside the weights."""
    with tempfile.TemporaryDirectory(dir=STATE) as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(CANDIDATE, folder)
        card = model_card(config.promote.name, evaluation, decision, lineage)
        (folder / "README.md").write_text(card, encoding="utf-8")
        lines = (json.dumps(vars(episode)) for episode in read_episodes(SAMPLES, "candidate"))
        (folder / OUTCOMES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        tags = dict(lineage) | {"gate": decision["statement"]}
        return registry.register(tracker, folder, config.promote.name, tags)


def _statement(outcome: Gate, opponent: str) -> str:
    verdict = "promoted" if outcome.passed else "not promoted"
    return (
        f"Mean pass@1 over families differs from {opponent} by {outcome.difference:+.3f}; the lower end of the "
        f"one-sided {outcome.confidence:.0%} interval over {outcome.clusters} tasks is {outcome.lower:+.3f} and "
        f"must exceed {0.0 - outcome.margin:+.3f}: {verdict}."
    )


def _champions(tracker: Tracker, name: str) -> dict[str, str | None]:
    found = {
        "champion": registry.champion(tracker.client, name),
        "best_champion": registry.best_champion(tracker.client, name),
    }
    return {key: one.number if one else None for key, one in found.items()}


def _say(step: int, message: str) -> None:
    print(f"[promote] step {step}/3 {message}", flush=True)


@program("promote")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.promote [--set key=value ...]`."""
    config = parse_arguments("promote", argv)
    with run("promote", config, [CANDIDATE, EVALUATION, SAMPLES]) as tracker:
        promote(config, tracker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
