"""What a finished run leaves: metrics, the curve as CSV, the picture, the checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.disk import replacing
from tasks.rl.policy import PolicyError, PolicyStore
from tasks.rl.spec import RunSpec, policies_path, read_measurements, store_path
from tasks.rl.store import TrajectoryStore

COLUMNS = (
    "step", "reward", "staleness", "mean_staleness", "entropy", "groups", "trajectories", "dropped", "masked_fraction",
    "ratio", "mismatch", "gradient_norm", "tokens", "tokens_per_second", "train_seconds", "seconds", "loss",
    "skipped_steps",
)  # fmt: skip


def run_metrics(run_dir: Path, spec: RunSpec) -> dict[str, Any]:
    """The content of metrics/reinforce.json, `seconds` aside. Ends the run in the store."""
    store = TrajectoryStore(store_path(run_dir))
    store.end_run()
    history, counts, dropped, ending = store.history(), store.counts(), store.dropped(), store.ending()
    store.close()
    metrics: dict[str, Any] = family_metrics(run_dir)
    metrics |= {
        "updates": len(history),
        "trajectories": counts.get("trained", 0),  # trained on, each exactly once
        "sampled_trajectories": sum(counts.values()),
        "max_staleness": max((row["staleness"] for row in history), default=0),
        "staleness_bound": spec.reinforce.max_staleness,
        "dropped_groups": dropped,  # by reason
        "skipped_steps": sum(row.get("skipped_steps", 0) for row in history),  # of the optimizer, not applied
        "reward": spec.reinforce.reward,
        "final_entropy": history[-1]["entropy"] if history else 0.0,
        "max_mismatch": max((row["mismatch"] for row in history), default=0.0),
    }
    return metrics | ({"ended_early": ending.sentence} if ending else {})


def family_metrics(run_dir: Path) -> dict[str, Any]:
    """{family: {pass_at_1_before, pass_at_1_after}}, each an estimate with value, ci95 and n."""
    before, after = read_measurements(run_dir, "before"), read_measurements(run_dir, "after")
    return {
        family: {
            "pass_at_1_before": before[family]["pass_at_1"],
            "pass_at_1_after": after[family]["pass_at_1"],
            "gain": round(after[family]["pass_at_1"]["value"] - before[family]["pass_at_1"]["value"], 6),
            "environment_errors": before[family]["environment_errors"] + after[family]["environment_errors"],
        }
        for family in sorted(before.keys() & after.keys())
    }


def write_results(folder: Path, history: Sequence[Mapping[str, Any]], families: Mapping[str, Any]) -> None:
    """curve.csv and curve.png in `folder`, which is replaced whole."""
    with replacing(folder) as draft:
        with (draft / "curve.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        draw_curve(draft / "curve.png", history, families)


def draw_curve(path: Path, history: Sequence[Mapping[str, Any]], families: Mapping[str, Any]) -> None:
    """Training reward, staleness and entropy by step, and held-out pass@1 before and after with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    steps = [row["step"] for row in history]
    axes[0].plot(steps, [row["reward"] for row in history])
    axes[0].set(title="Reward of the sampled episodes", xlabel="learner step", ylim=(0, 1))
    axes[1].plot(steps, [row["entropy"] for row in history], label="entropy, nats a token")
    axes[1].plot(steps, [row["staleness"] for row in history], drawstyle="steps", label="largest staleness, versions")
    axes[1].set(title="Entropy and staleness", xlabel="learner step")
    axes[1].legend()
    _draw_families(axes[2], families)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_families(axis: Any, families: Mapping[str, Any]) -> None:
    for offset, key, label in ((-0.18, "pass_at_1_before", "before"), (0.18, "pass_at_1_after", "after")):
        estimates = [families[family][key] for family in families]
        values = [estimate["value"] for estimate in estimates]
        low = [value - estimate["ci95"][0] for value, estimate in zip(values, estimates, strict=True)]
        high = [estimate["ci95"][1] - value for value, estimate in zip(values, estimates, strict=True)]
        places = [index + offset for index in range(len(values))]
        axis.bar(places, values, 0.34, yerr=[low, high], capsize=4, label=label)
    axis.set_xticks(range(len(families)), list(families))
    axis.set(title="Held-out pass@1, 95 % interval", ylim=(0, 1))
    axis.legend()


def _is_last(run_dir: Path, version: int, updates: int) -> bool:
    store = TrajectoryStore(store_path(run_dir))
    try:
        return store.finished(updates) and store.version() == version
    finally:
        store.close()


def write_checkpoint(run_dir: Path, spec: RunSpec, folder: Path, extra: Mapping[str, bytes]) -> str:
    """The last policy as a Hugging Face folder with the tokenizer's files; the SHA-256 of its weights."""
    policies = PolicyStore(policies_path(run_dir), spec.reinforce.keep_policies)
    version = policies.latest()
    if version == 0 or not _is_last(run_dir, version, spec.reinforce.updates):
        raise PolicyError(f"The run {run_dir} is at version {version} of {spec.reinforce.updates}; it is not finished.")
    source = Path(spec.checkpoint)
    tokenizer = {name: (source / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")
                 if (source / name).exists()}  # fmt: skip
    return policies.load(version).save_pretrained(folder, {**tokenizer, **extra})
