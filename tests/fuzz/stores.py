"""What programs of ours keep for each other: trajectories, the run folder, the servers' record."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tasks.config import load_config
from tasks.rl.spec import RunSpec, measurement_path, read_measurements, read_spec
from tasks.rl.trajectory import NOT_SAMPLED, Trajectory, from_bytes, to_bytes
from tests.fuzz import base, edits
from tests.fuzz.hunt import ROOT, STORED, Nonsense, Target

EPISODE = Trajectory(
    "shell-train-1", "shell", 1, "train", 0, 0, [2, 11, 3, 20, 4, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, -0.5, -0.25, -1.5],
    [NOT_SAMPLED, NOT_SAMPLED, NOT_SAMPLED, 0, 0, 1], {"a.txt": b"one\n"}, 1, 0, "stop", None, "bubblewrap",
)  # fmt: skip


def trajectory() -> Target:
    """A trajectory's body; accepted, its numbers are finite and it is written and read without a change."""
    return Target("trajectory", edits.documents, _write_trajectory, _read_trajectory, (r"trajectory",), STORED)


def _write_trajectory(folder: Path, case: Any) -> None:
    document = edits.edited(msgpack.unpackb(to_bytes(EPISODE)), case[0])
    try:
        data = msgpack.packb(document)
    except (ValueError, OverflowError, TypeError):  # MessagePack has no such value
        data = b"\xc1"
    (folder / "body").write_bytes(edits.mangled(data, case[1]))


def _read_trajectory(folder: Path) -> None:
    found = from_bytes((folder / "body").read_bytes())
    again = from_bytes(to_bytes(found))
    if not all(map(math.isfinite, found.log_probs)):
        raise Nonsense("a log-probability is not finite")
    if again != found:
        raise Nonsense("the trajectory that is written again is another one")
    texts = (found.task_id, found.family, found.split, found.finish_reason, found.isolation)
    numbers = (found.task_seed, found.group, found.sample, found.turns, found.failed_commands)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise Nonsense("a field of the trajectory has another type")
    if not set(found.loss_mask) <= {0, 1} or min(found.token_ids, default=0) < 0:
        raise Nonsense("the mask holds other numbers than 0 and 1, or a token's id is negative")
    if not all(isinstance(data, bytes) for data in found.artifacts.values()):
        raise Nonsense("an artifact is not bytes")


def run() -> Target:
    """A run folder: spec.json and a measurement."""
    spec = RunSpec(1, "checkpoints/midtrain", "0" * 64, "tokenizer.json", load_config(ROOT / "params.yaml").reinforce)
    content = json.loads(TypeAdapter(RunSpec).dump_json(spec))
    family = next(iter(spec.reinforce.evaluation))

    def write(folder: Path, case: Any) -> None:
        (folder / "spec.json").write_bytes(edits.as_json(content, case[0]))
        measured = {"n": 8, **base.scores("pass_at_1", "greedy")}
        measurement_path(folder, "before", family).write_bytes(edits.as_json(measured, case[1]))

    def read(folder: Path) -> None:
        found = read_spec(folder)
        if json.loads(TypeAdapter(RunSpec).dump_json(found)) is None or not math.isfinite(
            found.reinforce.learning_rate
        ):
            raise Nonsense("a number of the run is not finite")
        if any(not isinstance(value, dict) for value in read_measurements(folder, "before").values()):
            raise Nonsense("a measurement is no object")

    names = (r"spec\.json", r"measure-before-\w+\.json", r"The folder \S+")
    return Target("run", st.tuples(edits.documents, edits.documents), write, read, names, STORED)


def servers() -> Target:
    """.longhaul/servers.json, as every command reads it; no process is signalled."""
    from flows import servers as ours

    record = {
        name: {"pid": 2**22 + number, "created": 1.5} for number, name in enumerate(("Prefect", "MLflow", "worker"))
    }

    def write(folder: Path, case: Any) -> None:
        (folder / ".longhaul").mkdir()
        (folder / ".longhaul/servers.json").write_bytes(edits.as_json(record, case))

    def read(folder: Path) -> None:
        for name in record:
            if ours._running(name) is not None:
                raise Nonsense("a process that was never started is said to run")

    return Target("servers", edits.documents, write, read, (r"servers\.json",), STORED)
