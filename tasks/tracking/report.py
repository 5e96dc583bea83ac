"""The report: one self-contained HTML page, readable in light and dark, that loads nothing from anywhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tasks.disk import replacing
from tasks.tracking import pictures
from tasks.tracking.card import families
from tasks.tracking.controls import control_pictures
from tasks.tracking.pictures import Interval, interval
from tasks.tracking.table import read_metrics, rows

CURVE = Path("results/reinforce/curve.csv")
TRANSCRIPTS = 3  # of each kind

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --paper: #fbfbf9; --card: #ffffff; --line: #dfe3e8; --soft: #5b6675;
  --good: #0f8a5f; --bad: #c2413b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #12161c; --card: #1a2029; --line: #2d3643;
  --soft: #9aa6b5; --good: #3fc795; --bad: #f2807a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 2.2rem 1.2rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 2rem; margin: 0 0 .3rem; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line); }
p, .soft { color: var(--soft); margin: .2rem 0 .8rem; }
.verdict { border-left: 4px solid var(--bad); background: var(--card); padding: .8rem 1.1rem; margin: 1.2rem 0; }
.verdict.passed { border-color: var(--good); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { color: var(--soft); font-size: .85rem; padding: .3rem .2rem 0; }
svg { display: block; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; background: var(--card); }
th, td { text-align: left; padding: .42rem .7rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number.number { text-align: right; font-variant-numeric: tabular-nums; }
td code, .hash { font-size: .84rem; word-break: break-all; }
pre { margin: 0; padding: .8rem 1rem; white-space: pre-wrap; word-break: break-word; font-size: .84rem;
  background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--bad); border-radius: 6px; }
pre.solved { border-left-color: var(--good); }
pre b { color: var(--soft); font-weight: 600; }
@media (max-width: 520px) { .grid { grid-template-columns: 1fr; } }
"""


def write_report(folder: Path, promotion: Mapping[str, Any], lineage: Mapping[str, str], samples: Path) -> Path:
    """Writes folder/index.html from the metrics and results of the stages that have run, complete or absent."""
    page = "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Longhaul report</title>',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>',
            "<h1>Longhaul report</h1>",
            "<p>From raw text to a measured model: what every stage gained, with 95 % intervals.</p>",
            _verdict(promotion),
            "<h2>Stages</h2>" + _stages(),
            "<h2>Language</h2>" + _grid(_language_pictures()),
            "<h2>Reinforcement learning and benchmarks</h2>" + _grid(_agent_pictures()),
            "<h2>Lineage</h2>" + _lineage(promotion, lineage),
            "<h2>Transcripts</h2>" + _transcripts(samples),
            "</body></html>\n",
        ]
    )
    with replacing(folder) as draft:
        (draft / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _verdict(promotion: Mapping[str, Any]) -> str:
    kind = "passed" if promotion["passed"] else "failed"
    champion = promotion["champion"] or "none"
    text = f"<strong>Gate {kind}.</strong> {escape(promotion['statement'])}"
    where = f"Registered as {escape(promotion['version'])}; champion: version {escape(str(champion))}."
    return f'<div class="verdict {kind}">{text}<br><span class="soft">{where}</span></div>'


def _stages() -> str:
    numbers = "".join(f'<th class="number">{name}</th>' for name in ("Before", "After", "95 % interval", "n"))
    head = f"<th>Stage</th><th>Measured</th>{numbers}"
    body = "".join(
        f"<tr><td>{row.stage}</td><td>{escape(row.measured)}</td>"
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in (row.before, row.after, row.interval, row.n))
        + "</tr>"
        for row in rows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _grid(figures: Sequence[tuple[str, str]]) -> str:
    cells = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in figures)
    return f'<div class="grid">{"".join(cells)}</div>'


def _language_pictures() -> list[tuple[str, str]]:
    curate, pretrain, midtrain = (read_metrics(stage) for stage in ("curate", "pretrain", "midtrain"))
    made = []
    losses = {
        name: found["curve"] for name, found in (("pretrain", pretrain), ("midtrain", midtrain)) if "curve" in found
    }
    if losses:
        caption = (
            "Each stage counts its own steps; midtrain changes context, attention and data, so its curve jumps. "
            "A gap: the phase reached its loss before its last step."
        )
        made.append((pictures.curves("Training loss", losses, "step", "nats a token"), caption))
    if pretrain:
        made.append((_bits_picture(curate, pretrain, midtrain), "Lower is better; xz -9 sees the whole text at once."))
    if midtrain:
        made.append(
            (_retrieval_picture(midtrain), "A random string is repeated that many tokens later; chance is 1/26.")
        )
    if curate:
        amounts = {"read": curate["read"]["documents"]}
        drops = sorted(curate["drops"].items(), key=lambda item: -item[1]["documents"])
        amounts |= {f"- {reason}": entry["documents"] for reason, entry in drops[:10]}
        amounts["kept"] = curate["kept"]["documents"]
        caption = "Documents read, dropped by reason (the ten largest) and kept."
        made.append((pictures.lengths("Curation", amounts, "documents"), caption))
    return made


def _bits_picture(curate: Mapping[str, Any], pretrain: Mapping[str, Any], midtrain: Mapping[str, Any]) -> str:
    unigram, xz = interval(pretrain["unigram_bits_per_byte"]), interval(pretrain["xz_bits_per_byte"])
    groups = {"single bytes": {"bits": unigram}, "xz -9": {"bits": xz}}
    groups["pretrain"] = {"bits": interval(pretrain["heldout_bits_per_byte"])}
    if midtrain:
        groups["midtrain"] = {"bits": interval(midtrain["heldout_bits_per_byte"])}
    return pictures.bars("Held-out text", groups, "bits per byte")


def _retrieval_picture(midtrain: Mapping[str, Any]) -> str:
    name = "retrieval_accuracy_by_distance"
    before, after = midtrain["before"].get(name, {}), midtrain.get(name, {})
    groups: dict[str, dict[str, Interval]] = {}
    for distance, share in after.items():
        groups[distance] = {"before midtrain": interval(before[distance])} if distance in before else {}
        groups[distance]["after"] = interval(share)
    return pictures.bars("Retrieval by distance (tokens)", groups, "share right", baseline=1 / 26)


def _agent_pictures() -> list[tuple[str, str]]:
    evaluation, made = read_metrics("evaluate"), []
    if CURVE.is_file():
        curve = pictures.curves("Reward", {"judge": _reward_curve(CURVE)}, "learner step", "mean reward")
        made.append((curve, "Mean reward of the sampled episodes."))
    made += control_pictures()
    if not evaluation:
        return made
    scores: dict[str, dict[str, Interval]] = {}
    for family in families(evaluation):
        for key, label in (("pass_at_1", "T=1"), ("greedy", "greedy")):
            pair = {
                "before RL": interval(evaluation[family]["baseline"][key]),
                "after": interval(evaluation[family][key]),
            }
            scores[f"{family}\n{label}"] = pair
    made.append(
        (pictures.bars("Held-out pass@1", scores, "share solved"), "Same tasks and sampling seeds before and after.")
    )
    for family in families(evaluation):
        now, old = evaluation[family]["by_horizon"], evaluation[family]["baseline"]["by_horizon"]
        groups = {horizon: {"before RL": interval(old[horizon]), "after": interval(now[horizon])} for horizon in now}
        picture = pictures.bars(f"{family}: success by horizon", groups, "share solved")
        made.append((picture, "Commands that the oracle needs."))
    return made


def _reward_curve(path: Path) -> list[list[float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [[float(row["step"]), float(row["reward"])] for row in csv.DictReader(stream)]


def _lineage(promotion: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    entries = {"registry version": promotion["version"], **lineage}
    body = "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td><code>{escape(str(value))}</code></td></tr>"
        for key, value in entries.items()
    )
    command = f"python -m tasks.tracking.lineage {promotion['version']}"
    return f"<table>{body}</table><p>The whole chain: <code>{escape(command)}</code></p>"


def _transcripts(samples: Path) -> str:
    records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    mine = [record for record in records if record["model"] == "candidate" and record["temperature"] == 1.0]
    parts = []
    for title, kept in (
        ("Solved after a command had failed", [r for r in mine if r["passed"] and r["failed_commands"]]),
        ("Solved, longest horizon first", sorted((r for r in mine if r["passed"]), key=lambda r: -r["horizon"])),
        ("Not solved", [r for r in mine if not r["passed"] and r["turns"]]),
    ):
        shown = "".join(_transcript(record) for record in _varied(kept))
        parts.append(f"<h3>{title}</h3>" + (f'<div class="grid">{shown}</div>' if shown else "<p>None.</p>"))
    return "".join(parts)


def _varied(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first record of each family, then others, no task twice."""
    chosen: dict[str, Mapping[str, Any]] = {}
    for record in records:
        chosen.setdefault(str(record["family"]), record)
    for record in records:
        if all(record["task_id"] != other["task_id"] for other in chosen.values()):
            chosen.setdefault(str(record["task_id"]), record)
    return list(chosen.values())[:TRANSCRIPTS]


def _transcript(record: Mapping[str, Any]) -> str:
    text = escape(str(record["text"]))
    for token in ("user", "assistant", "observation", "endoftext"):
        mark = f"&lt;|{token}|&gt;"
        text = text.replace(mark, f"\n<b>{token}</b> " if token != "endoftext" else "\n<b>end</b>")
    kind = "solved" if record["passed"] else "failed"
    why = "solved" if record["passed"] else (record["error"] or f"not solved, ended by {record['finish_reason']}")
    head = f"{record['task_id']}: {why}"
    return f'<pre class="{kind}"><b>{escape(head)}</b>\n{text.strip()}</pre>'
