"""Files of records: demonstrations, tasks, graded episodes, metrics, dvc.lock."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.benchmarks.comparison import pair
from tasks.benchmarks.regression import check_regression
from tasks.environments.chat import Chat
from tasks.environments.harbor import read_task, write_task
from tasks.environments.task import SPLITS, Task
from tasks.judge.python_cases import parse_cases
from tasks.judge.shell_tests import test_ids
from tasks.promote import Episode, read_episodes
from tasks.tracking import table
from tasks.tracking.card import score_rows
from tasks.tracking.lineage import backward, find_stage, forward, metric, read_lock
from tasks.training.trajectories import Trajectories, load_transcripts
from tests.fuzz import base, edits
from tests.fuzz.hunt import STORED, Nonsense, Target


def demonstrations() -> Target:
    """Demonstrations; accepted, they make rows of the length asked for."""
    chat = Chat(Tokenizer.from_str(base.tokenizer_json()))

    def read(folder: Path) -> None:
        train, kept = load_transcripts(folder, chat, 1.0, 0.1)
        for ids, weights in (transcript for side in (train, kept) for found in side.values() for transcript in found):
            if len(ids) != len(weights) or not len(ids) or ids.min() < 0 or ids.max() >= base.CONFIG.vocab_size:
                raise Nonsense("a transcript's tokens are not of the vocabulary, or not as many as their weights")
        if train:
            row = Trajectories(train, {}).row(np.random.default_rng(0), 64)
            if len(row.tokens) != 64 or not np.isfinite(row.weights).all():
                raise Nonsense("a row is not as long as was asked, or a weight is not finite")

    def write(folder: Path, case: Any) -> None:
        (folder / "shell.jsonl").write_bytes(edits.as_lines(base.DEMONSTRATIONS, case))

    names = (
        r"[Ll]ine \d+.*shell\.jsonl",
        r"shell\.jsonl.*line \d+",
        r"holds no demonstrations",
        r"file \S*shell\.jsonl",
    )
    return Target("demonstrations", edits.documents, write, read, names)


def task() -> Target:
    """A task folder in Harbor's layout; accepted, it is written and read again without a change."""
    spoil = st.tuples(
        st.integers(0, 30), st.sampled_from(("raw", "raw", "raw", "gone", "folder", "link")), edits.raw_edits
    )
    cases = st.tuples(st.integers(0, len(base.tasks()) - 1), st.lists(spoil, min_size=1, max_size=2))
    return Target("task", cases, _write_task, _read_task, (r"task/", r"The folder \S+"))


def _write_task(folder: Path, case: Any) -> None:
    number, changes = case
    made = write_task(base.tasks()[number], folder).rename(folder / "task")
    for where, kind, raw in changes:
        files = sorted(path for path in made.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            return
        victim = files[where % len(files)] if where % 3 else made / "task.toml"
        data = victim.read_bytes() if victim.is_file() else b""
        if victim.is_dir():
            continue
        victim.unlink(missing_ok=True)
        if kind == "raw":
            victim.write_bytes(edits.mangled(data, raw))
        elif kind == "folder":
            victim.mkdir()
        elif kind == "link":
            victim.symlink_to("/etc/passwd" if where % 2 else victim.name)


def _read_task(folder: Path) -> None:
    found = read_task(folder / "task")
    _check_task(found)
    again = folder / "again"
    again.mkdir()
    if read_task(write_task(found, again)) != found:
        raise Nonsense("the task that is written again is another one")
    shutil.rmtree(again)
    if "cases.json" in found.tests:
        parse_cases(found.id, found.tests["cases.json"])
    elif "test.sh" in found.tests:
        test_ids(found.id, found.tests["test.sh"])
    else:
        raise Nonsense("there are no tests")


def _check_task(found: Task) -> None:
    texts = (found.id, found.family, found.split, found.template, found.instruction, *found.solution, *found.artifacts)
    if not all(isinstance(text, str) for text in texts) or found.split not in SPLITS or not found.id:
        raise Nonsense("a part of the task has another type, or its split or name is none")
    numbers = (found.seed, found.horizon, found.max_turns)
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        raise Nonsense("a number of the task is none")
    if any("passwd" in str(path) or "root:" in text for path, text in {**found.files, **found.tests}.items()):
        raise Nonsense("a link out of the folder is followed")
    if not found.content_hash:
        raise Nonsense("the task has no hash")


def cases() -> Target:
    """The tests of a task of the family `repair`."""
    text = next(one.tests["cases.json"] for one in base.tasks() if "cases.json" in one.tests)

    def write(folder: Path, case: Any) -> None:
        (folder / "cases.json").write_bytes(edits.as_json(json.loads(text), case))

    def read(folder: Path) -> None:
        found = parse_cases("a-task", (folder / "cases.json").read_text(encoding="utf-8", errors="surrogateescape"))
        if not found.inputs or len(found.inputs) != len(found.expected) or not isinstance(found.function, str):
            raise Nonsense("there are no cases, or no function")
        json.dumps(found.inputs, allow_nan=False).encode()

    return Target("cases", edits.documents, write, read, (r"cases\.json",))


EPISODES = [
    {"task_id": f"shell-heldout-{n}", "task_hash": f"{n:064}", "family": "shell", "sample": s, "temperature": t,
     "passed": bool(n % 2), "model": model, "text": "x"}
    for n in range(3) for s in range(2) for t in (0.0, 1.0) for model in ("candidate", "baseline")
]  # fmt: skip


def samples() -> Target:
    """The graded episodes that the gate compares."""

    def write(folder: Path, case: Any) -> None:
        (folder / "samples.jsonl").write_bytes(edits.as_lines(EPISODES, case))

    def read(folder: Path) -> None:
        before, after = (read_episodes(folder / "samples.jsonl", name) for name in ("baseline", "candidate"))
        for episode in (*before, *after):
            wrong = [
                entry.name for entry in fields(Episode) if type(getattr(episode, entry.name)).__name__ != entry.type
            ]
            if wrong:
                raise Nonsense(f"the field {wrong[0]} of an episode has another type")
        gate = pair(before, after).gate(0.0, 0.95)
        if not np.isfinite([gate.lower, gate.difference]).all():
            raise Nonsense("the gate's numbers are not finite")

    return Target("samples", edits.documents, write, read, (r"samples\.jsonl", r"episodes have a partner"))


def metrics() -> Target:
    """The metrics files, as the closing table, the card and the nightly comparison read them."""
    names = sorted(base.metrics())
    cases = st.tuples(st.sampled_from(names), edits.documents)

    def write(folder: Path, case: Any) -> None:
        (folder / "metrics").mkdir()
        for name, content in base.metrics().items():
            data = edits.as_json(content, case[1]) if name == case[0] else json.dumps(content).encode()
            (folder / "metrics" / f"{name}.json").write_bytes(data)
        (folder / "recorded.json").write_text(json.dumps(base.evaluation()))

    def read(folder: Path) -> None:
        text = table.closing_table(100.0)
        if not text.startswith("| stage |") or "nan" in text:
            raise Nonsense("the table is none, or holds what is no number")
        score_rows(table.read_metrics("evaluate"))
        check_regression(folder / "recorded.json", Path("metrics/evaluate.json"))

    return Target("metrics", cases, write, read, (r"metrics/\w+\.json", r"metrics file"), STORED)


LOCK = {
    "schema": "2.0",
    "stages": {
        "curate": {"cmd": "c", "outs": [{"path": "data/corpus", "md5": "1.dir"}], "params": {"params.yaml": {"a": 1}}},
        "pretrain": {
            "cmd": "p", "deps": [{"path": "data/corpus", "md5": "1.dir"}, {"path": "model", "md5": "2.dir"}],
            "outs": [{"path": "checkpoints/pretrain", "md5": "3.dir"}],
        },
        "evaluate": {
            "cmd": "e", "deps": [{"path": "checkpoints/pretrain", "md5": "3.dir"}],
            "outs": [{"path": "metrics/evaluate.json", "md5": "4"}],
        },
    },
}  # fmt: skip


def lock() -> Target:
    """dvc.lock and a metrics file, as lineage reads them."""
    cases = st.tuples(edits.documents, edits.documents)

    def write(folder: Path, case: Any) -> None:
        (folder / "dvc.lock").write_bytes(edits.as_json(LOCK, case[0]))
        (folder / "metrics").mkdir()
        (folder / "metrics/evaluate.json").write_bytes(edits.as_json(base.evaluation(), case[1]))

    def read(folder: Path) -> None:
        stages = read_lock()
        for name in stages:
            backward(stages, name)
            forward(stages, name)
        found = metric("evaluate.shell.pass_at_1")
        name = find_stage(stages, "evaluate.shell.pass_at_1" if found is not None else "data/corpus")
        if name not in stages:
            raise Nonsense("a stage was found that is not there")

    return Target(
        "lock", cases, write, read, (r"dvc\.lock", r"metrics/evaluate\.json", r"is no output, metrics key"), STORED
    )
