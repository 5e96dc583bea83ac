"""The closing table: for every stage what was measured, before, after, 95 % interval, seconds.

    python -m tasks.tracking.table [wall seconds of the run]

Orchestration overhead is the wall time outside the stages' own programs: Prefect, DVC and MLflow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.cli import Parser, program, seconds
from tasks.errors import InputError
from tasks.files import read_json
from tasks.tracking.card import families

METRICS = Path("metrics")
STAGES = ("demonstrate", "curate", "pretrain", "midtrain", "reinforce", "evaluate", "promote")
COLUMNS = ("stage", "measured", "before", "after", "95 % interval", "n", "seconds")


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    stage: str
    measured: str
    before: str = ""
    after: str = ""
    interval: str = ""
    n: str = ""


class MetricsError(InputError):
    """A metrics file that does not hold what its stage writes; the message names it."""


@contextmanager
def shaped_as(stage: str) -> Iterator[None]:
    """For a block that takes a stage's metrics apart: raises MetricsError where they have another shape."""
    try:
        yield
    except MetricsError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        name, what = METRICS / f"{stage}.json", type(error).__name__
        raise MetricsError(
            f"The metrics file {name} does not hold what the stage {stage!r} writes ({what}); run it again."
        ) from error


def read_metrics(stage: str) -> dict[str, Any]:
    """metrics/<stage>.json; {} if the stage has not run."""
    place = METRICS / f"{stage}.json"
    return read_json(place, dict[str, Any], MetricsError, "a metrics file") if place.is_file() else {}


def stage_seconds() -> dict[str, float]:
    """Seconds that each stage spent in its own work, from its metrics file."""
    found = {}
    for stage in STAGES:
        spent = read_metrics(stage).get("seconds")
        if spent is not None:
            with shaped_as(stage):
                found[stage] = float(spent)
    return found


def rows() -> list[Row]:
    """Every line for the stages that have run."""
    made: list[Row] = []
    for stage, lines in LINES.items():
        with shaped_as(stage):
            made += lines(read_metrics(stage))
    return made


def overhead(wall_seconds: float | None) -> str:
    """The sentence under the table; without a wall time, or with stages skipped, it says so."""
    work = sum(stage_seconds().values())
    if wall_seconds is None:
        return f"Stages: {work:.0f} s of work."
    if wall_seconds < work or _measured_before(time.time() - wall_seconds):
        return f"Wall time {wall_seconds:.0f} s; unchanged stages were skipped, so no overhead is stated."
    extra = wall_seconds - work
    return (
        f"Wall time {wall_seconds:.0f} s, stages {work:.0f} s; orchestration overhead (Prefect, DVC, "
        f"MLflow) {extra:.0f} s = {extra / wall_seconds:.1%}."
    )


def _measured_before(start: float) -> bool:
    """Whether a stage's metrics are older than the run that started then: its seconds are not of that run."""
    return any((METRICS / f"{stage}.json").stat().st_mtime < start for stage in stage_seconds())


def closing_table(wall_seconds: float | None = None) -> str:
    """The table in Markdown, with the overhead below it."""
    seconds, lines = stage_seconds(), ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row, spent in _with_seconds(rows(), seconds):
        cells = (row.stage, row.measured, row.before, row.after, row.interval, row.n, spent)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", overhead(wall_seconds)])


def print_table(wall_seconds: float | None = None) -> None:
    """The same on the terminal."""
    table = Table(title="Longhaul: what every stage gained", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("stage", "measured") else "right")
    previous = ""
    for row, spent in _with_seconds(rows(), stage_seconds()):
        if previous and row.stage:
            table.add_section()
        previous = row.measured
        table.add_row(row.stage, row.measured, row.before, row.after, row.interval, row.n, spent)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    console.print(overhead(wall_seconds))


def _with_seconds(made: Sequence[Row], seconds: Mapping[str, float]) -> list[tuple[Row, str]]:
    """Stage name and seconds on a stage's first line only."""
    shown: set[str] = set()
    lines = []
    for row in made:
        first = row.stage not in shown
        shown.add(row.stage)
        spent = seconds.get(row.stage, 0.0) + (seconds.get("demonstrate", 0.0) if row.stage == "curate" else 0.0)
        lines.append((row, f"{spent:.0f}") if first else (Row("", *_cells(row)), ""))
    return lines


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    return row.measured, row.before, row.after, row.interval, row.n


def _estimated(stage: str, measured: str, after: Any, before: Any = None) -> list[Row]:
    """A line for an estimate; nothing where the stage did not measure it."""
    if not isinstance(after, Mapping):
        return []
    old = before["value"] if isinstance(before, Mapping) else before
    low, high = after["ci95"]
    was = "" if old is None else f"{old:.3f}"
    return [Row(stage, measured, was, f"{after['value']:.3f}", f"[{low:.3f}, {high:.3f}]", f"{after['n']:,}")]


def _curate(found: Mapping[str, Any]) -> list[Row]:
    if not found:
        return []
    read, kept = found["read"], found["kept"]
    return [
        Row("curate", "MB of text read, kept", f"{read['bytes'] / 1e6:.1f}", f"{kept['bytes'] / 1e6:.1f}"),
        Row("curate", "documents read, kept", f"{read['documents']:,}", f"{kept['documents']:,}"),
    ]


def _pretrain(found: Mapping[str, Any]) -> list[Row]:
    after, label = found.get("heldout_bits_per_byte"), "held-out bits/byte (before: entropy of single bytes)"
    return _estimated("pretrain", label, after, found.get("unigram_bits_per_byte"))


def _midtrain(found: Mapping[str, Any]) -> list[Row]:
    labels = {
        "heldout_bits_per_byte": "held-out bits/byte at the longer context",
        "retrieval_accuracy": f"retrieval accuracy, all distances (chance {found.get('retrieval_chance', 0.0):.3f})",
    }
    before = found.get("before", {})
    made = [
        row for key, text in labels.items() for row in _estimated("midtrain", text, found.get(key), before.get(key))
    ]
    losses, old = found.get("heldout_demonstration_loss", {}), before.get("heldout_demonstration_loss", {})
    for family, loss in losses.items():
        made += _estimated("midtrain", f"{family}: nats a token, held-out demonstrations", loss, old.get(family))
    return made


def _reinforce(found: Mapping[str, Any]) -> list[Row]:
    made = []
    for family, scores in found.items():
        if isinstance(scores, Mapping) and "pass_at_1_after" in scores:
            after, before = scores["pass_at_1_after"], scores["pass_at_1_before"]
            made += _estimated("reinforce", f"{family}: held-out pass@1", after, before)
    return made


def _evaluate(found: Mapping[str, Any]) -> list[Row]:
    made = []
    for family in families(found):
        scores, old = found[family], found[family]["baseline"]
        made += _estimated("evaluate", f"{family}: pass@1", scores["pass_at_1"], old["pass_at_1"])
        made += _estimated("evaluate", f"{family}: greedy pass@1", scores["greedy"], old["greedy"])
        for best in (key for key in scores if key.startswith("pass_at_") and key != "pass_at_1"):
            made += _estimated("evaluate", f"{family}: {best.replace('_at_', '@')}", scores[best], old[best])
    if found:
        old, text = found.get("baseline", {}), "heldout_bits_per_byte"
        made += _estimated("evaluate", "HumanEval pass@1", found["humaneval"]["pass_at_1"])
        made += _estimated(
            "evaluate", "retrieval accuracy", found.get("retrieval", {}).get("all"), old.get("retrieval", {}).get("all")
        )
        made += _estimated("evaluate", "held-out bits/byte", found.get(text), old.get(text))
    return made


def _promote(found: Mapping[str, Any]) -> list[Row]:
    if not found:
        return []
    if "lower" not in found:
        return [Row("promote", f"gate: unchanged, champion {found['champion']}")]
    verdict = "passed" if found["passed"] else "failed"
    label = f"gate {verdict}: mean pass@1 gain over {found['opponent']}, one-sided"
    return [Row("promote", label, "", f"{found['difference']:+.3f}", f"> {found['lower']:+.3f}", str(found["tasks"]))]


LINES: Mapping[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "curate": _curate, "pretrain": _pretrain, "midtrain": _midtrain, "reinforce": _reinforce, "evaluate": _evaluate,
    "promote": _promote,
}  # fmt: skip


@program("tasks.tracking.table")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = Parser(prog="python -m tasks.tracking.table")
    parser.add_argument("seconds", type=seconds, nargs="?", help="wall time of the run that ended just now")
    print_table(parser.parse_args(argv).seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
