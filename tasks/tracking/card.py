"""The model card: README.md of a registered model folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(
    name: str, evaluation: Mapping[str, Any], decision: Mapping[str, Any], lineage: Mapping[str, str]
) -> str:
    """Markdown: what it is, what it scored and against what, what it was made from, what it is not."""
    return "\n".join(
        [
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlicense: apache-2.0\n---",
            f"# {name}",
            "",
            "A GLM-5-shaped decoder (MLA, DeepSeek Sparse Attention, mixture of experts, multi-token prediction) in",
            "the `GlmMoeDsaForCausalLM` format, trained from raw text by the Longhaul recipe and improved by",
            "asynchronous reinforcement learning on tasks whose results are really run and graded.",
            "",
            "## Scores",
            "",
            "Held-out tasks, temperature 1; `before` is the checkpoint before reinforcement learning.",
            "",
            "| Benchmark | Before | This model | 95 % interval | n |",
            "|---|---|---|---|---|",
            *score_rows(evaluation),
            "",
            f"Gate: {decision['statement']}",
            "",
            "## Made from",
            "",
            *[f"- {key}: `{value}`" for key, value in sorted(lineage.items())],
            "",
            "## Limits",
            "",
            "It knows the task families it was trained on, in a sandbox with short commands, and little else.",
            "HumanEval is reported for honesty: a model of this size scores about zero. It has had no safety training.",
            "",
        ]
    )


def score_rows(evaluation: Mapping[str, Any]) -> list[str]:
    """Table lines: every family's pass@1 and greedy, HumanEval, bits per byte."""
    rows = []
    for family in families(evaluation):
        scores = evaluation[family]
        for key, label in (("pass_at_1", "pass@1"), ("greedy", "greedy")):
            rows.append(_row(f"{family} {label}", scores["baseline"][key], scores[key]))
    rows.append(_row("HumanEval pass@1", None, evaluation["humaneval"]["pass_at_1"]))
    before = evaluation["baseline"]["heldout_bits_per_byte"]
    rows.append(_row("held-out bits per byte", before, evaluation["heldout_bits_per_byte"]))
    return rows


def families(evaluation: Mapping[str, Any]) -> list[str]:
    """The task families of an evaluation, in order."""
    return [name for name, value in evaluation.items() if isinstance(value, Mapping) and "recovery_rate" in value]


def _row(label: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    low, high = after["ci95"]
    old = f"{before['value']:.3f}" if before else "-"
    return f"| {label} | {old} | {after['value']:.3f} | [{low:.3f}, {high:.3f}] | {after['n']} |"
