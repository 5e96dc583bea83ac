"""Stage `evaluate`: the model after RL and the one before it, on the same held-out tasks and sampling seeds.

Writes metrics/evaluate.json (every score with its interval) and results/evaluate/ with samples.jsonl (each episode's
transcript and verdict) and humaneval.jsonl (each completion and why it failed).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tasks.benchmarks.agentic import FamilyResult, Outcome, by_family, to_record
from tasks.benchmarks.comparison import Paired, pair
from tasks.benchmarks.humaneval import Attempt
from tasks.benchmarks.language import LanguageSet, language_set
from tasks.benchmarks.suite import Subject, run_agentic, run_humaneval, run_language
from tasks.cli import Parser, program
from tasks.config import Config, parse_arguments
from tasks.disk import replacing
from tasks.rl.agent import BoxFactory
from tasks.sandbox import Limits, open_sandbox
from tasks.statistics import Estimate
from tasks.tracking import Tracker, run
from tasks.tracking.metrics import process_seconds, write_metrics
from tasks.tracking.provenance import sha256

CANDIDATE = Path("checkpoints/reinforce")
BASELINE = Path("checkpoints/midtrain")
CORPUS = Path("data/corpus")
RESULTS = Path("results/evaluate")
METRICS = Path("metrics/evaluate.json")
STEPS = 6


def evaluate(config: Config, tracker: Tracker, results: Path = RESULTS, scores: Path = METRICS) -> dict[str, Any]:
    """Measures both models, writes the folder `results` and the file `scores`, and returns the metrics."""
    torch.set_num_threads(config.evaluate.threads)
    with open_sandbox("bubblewrap", Limits()) as factory:
        return _evaluate(config, tracker, factory, results, scores)


def _evaluate(config: Config, tracker: Tracker, factory: BoxFactory, results: Path, scores: Path) -> dict[str, Any]:
    settings = config.evaluate
    material = language_set(
        CORPUS, settings.max_context, settings.heldout_windows, settings.retrieval_documents, config.seed
    )
    _say(0, f"{sum(settings.tasks.values())} held-out tasks, {settings.samples} samples and one greedy each")
    candidate, baseline = (Subject.load(folder, settings) for folder in (CANDIDATE, BASELINE))
    after = run_agentic(candidate, settings, factory, _counter(0, "after RL"))
    _say(1, f"after RL: {_scores(after)}")
    before = run_agentic(baseline, settings, factory, _counter(1, "before RL"))
    _say(2, f"before RL: {_scores(before)}")
    metrics = agentic_metrics(before, after, settings.samples)
    with ThreadPoolExecutor(1) as aside:  # HumanEval waits for boxes, language for arithmetic
        graded = aside.submit(run_humaneval, candidate, settings, factory)
        metrics |= _language(candidate, baseline, material)
        humaneval, attempts = graded.result()
    _say(5, f"HumanEval pass@1 {humaneval.value:.3f} of {humaneval.n}")
    metrics["humaneval"] = humaneval_metrics(humaneval, attempts)
    metrics |= {"model_sha256": sha256(CANDIDATE / "model.safetensors"), "isolation": after[0].isolation}
    metrics["baseline_sha256"] = sha256(BASELINE / "model.safetensors")
    metrics["seconds"] = process_seconds()
    decode = candidate.tokenizer.decode
    write_results(results, before, after, attempts, lambda ids: str(decode(list(ids), skip_special_tokens=False)))
    write_metrics(scores, metrics)
    tracker.summary(metrics)
    _say(STEPS, f"done in {metrics['seconds']:.0f} s")
    return metrics


def agentic_metrics(before: Sequence[Outcome], after: Sequence[Outcome], samples: int) -> dict[str, Any]:
    """Scores by family: the candidate's, the baseline's, and the paired gain; `mean` weighs families equally."""
    sampled, greedy = _at(after, 1.0), _at(after, 0.0)
    old_sampled, old_greedy = by_family(_at(before, 1.0)), by_family(_at(before, 0.0))
    gains, greedy_gains = pair(_at(before, 1.0), sampled), pair(_at(before, 0.0), greedy)
    greedy_results = by_family(greedy)
    metrics: dict[str, Any] = {}
    for family, result in by_family(sampled).items():
        metrics[family] = family_metrics(result, greedy_results[family], samples)
        metrics[family]["baseline"] = family_metrics(old_sampled[family], old_greedy[family], samples)
        metrics[family] |= _gains(gains, greedy_gains, family)
    metrics["mean"] = _gains(gains, greedy_gains, None)
    return metrics


def family_metrics(result: FamilyResult, greedy: FamilyResult, samples: int) -> dict[str, Any]:
    """The scores of one family under one model."""
    return {
        "pass_at_1": result.pass_at_1.to_json(),
        f"pass_at_{samples}": result.pass_at(samples).to_json(),
        "greedy": greedy.pass_at_1.to_json(),
        "by_horizon": {str(horizon): share.to_json() for horizon, share in result.by_horizon().items()},
        "recovery_rate": result.recovery_rate.to_json(),
        "mean_turns": result.mean_turns.to_json(),
        "environment_errors": result.environment_errors + greedy.environment_errors,
    }


def humaneval_metrics(score: Estimate, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Greedy pass@1, and what stopped the rest."""
    return {
        "n": score.n,
        "pass_at_1": score.to_json(),
        "compiled": sum(not attempt.reason.startswith("does not compile") for attempt in attempts),
        "environment_errors": sum(attempt.error is not None for attempt in attempts),
    }


def write_results(
    folder: Path,
    before: Sequence[Outcome],
    after: Sequence[Outcome],
    attempts: Sequence[Attempt],
    decode: Callable[[Sequence[int]], str],
) -> None:
    """The folder of episodes and completions, complete or absent."""
    lines = [{"model": "candidate"} | to_record(outcome, decode) for outcome in after]
    lines += [{"model": "baseline"} | to_record(outcome, decode) for outcome in before]
    with replacing(folder) as draft:
        _write_lines(draft / "samples.jsonl", lines)
        _write_lines(draft / "humaneval.jsonl", [dict(vars(attempt)) for attempt in attempts])


def _language(candidate: Subject, baseline: Subject, material: LanguageSet) -> dict[str, Any]:
    metrics = run_language(candidate, material)
    _say(3, f"held-out {metrics['heldout_bits_per_byte']['value']:.3f} bits/byte")
    metrics["baseline"] = run_language(baseline, material)
    _say(4, f"before RL {metrics['baseline']['heldout_bits_per_byte']['value']:.3f} bits/byte")
    return metrics


def _at(outcomes: Iterable[Outcome], temperature: float) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.temperature == temperature]


def _gains(sampled: Paired, greedy: Paired, family: str | None) -> dict[str, Any]:
    return {"gain": sampled.difference(family).to_json(), "greedy_gain": greedy.difference(family).to_json()}


def _scores(outcomes: Sequence[Outcome]) -> str:
    results = by_family(_at(outcomes, 1.0)).items()
    return ", ".join(f"{family} {result.pass_at_1.value:.3f}" for family, result in results)


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _counter(step: int, what: str) -> Callable[[int], None]:
    def graded(count: int) -> None:
        if count % 200 == 0:
            _say(step, f"{what}: {count} episodes")

    return graded


def _say(step: int, message: str) -> None:
    print(f"[evaluate] step {step}/{STEPS} {message}", flush=True)


@program("evaluate")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.evaluate [--set key=value ...] [--name NAME --results DIR --metrics FILE]`.

    A measurement that is no stage (the nightly one) has places and a tracking run of its own.
    """
    places, rest = _places().parse_known_args(argv)
    config = parse_arguments("evaluate", rest, holds=places.name == "evaluate")
    with run(places.name, config, [CANDIDATE, BASELINE, CORPUS]) as tracker:
        evaluate(config, tracker, places.results, places.metrics)
    return 0


def _places() -> Parser:
    parser = Parser(prog="python -m tasks.evaluate", add_help=False)
    parser.add_argument("--name", default="evaluate")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--metrics", type=Path, default=METRICS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
