"""Expert demonstrations as training rows: several transcripts a window, each its own document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from tasks.files import read_lines
from tasks.training.data import Row
from tasks.training.errors import TrainingDataError

HELDOUT_SHARE = 0.03  # of the training tasks' demonstrations, kept away to measure their loss

Transcript = tuple[NDArray[np.int64], NDArray[np.float32]]


class Renderer(Protocol):
    """The part of `tasks.environments.chat.Chat` that training needs."""

    def render_demo(self, demo: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[float]]:
        """Token ids of a transcript and their loss weights (1 for the model's own tokens)."""
        ...


class Trajectories:
    """Rows packed from transcripts drawn at random; the last one is cut at the end of the row.

    `shares` are a family's share of the draws; without them every transcript is as likely as another.
    """

    def __init__(self, transcripts: Mapping[str, Sequence[Transcript]], shares: Mapping[str, float]) -> None:
        unknown = sorted(name for name, share in shares.items() if share > 0 and name not in transcripts)
        if unknown:
            raise TrainingDataError(f"There are no demonstrations of {', '.join(unknown)}.")
        names = sorted(name for name in transcripts if transcripts[name] and (not shares or shares.get(name, 0) > 0))
        if not names:
            raise TrainingDataError("There are no demonstrations to train on.")
        self.families = [transcripts[name] for name in names]
        weights = np.array([shares.get(name, 0.0) if shares else len(transcripts[name]) for name in names])
        self.edges = np.cumsum(weights / weights.sum())

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """A full row; the first token of each transcript carries no loss."""
        tokens = np.zeros(length, dtype=np.int64)
        documents = np.zeros(length, dtype=np.int64)
        weights = np.zeros(length, dtype=np.float32)
        filled = number = 0
        while filled < length:
            ids, weight = self._draw(rng)
            end = min(length, filled + len(ids))
            tokens[filled:end], weights[filled:end] = ids[: end - filled], weight[: end - filled]
            documents[filled:end], weights[filled] = number, 0.0
            filled, number = end, number + 1
        return Row(tokens, documents, weights)

    def _draw(self, rng: np.random.Generator) -> Transcript:
        family = int(np.searchsorted(self.edges, rng.random(), side="right"))
        transcripts = self.families[min(family, len(self.families) - 1)]
        return transcripts[int(rng.integers(len(transcripts)))]


class Turn(TypedDict):
    """A command and what it printed."""

    command: str
    output: str
    exit_code: int


class Demonstration(TypedDict):
    """What training reads of a line of data/demonstrations/<family>.jsonl."""

    task_id: str
    family: str
    instruction: str
    turns: list[Turn]


def load_transcripts(
    folder: Path, chat: Renderer, own_weight: float, other_weight: float
) -> tuple[dict[str, list[Transcript]], dict[str, list[Transcript]]]:
    """All training demonstrations as (training, kept away) transcripts of each family.

    Tokens that the expert wrote get `own_weight`, instructions and observations `other_weight`.
    Raises TrainingDataError with file and line where a line is not a demonstration.
    """
    train: dict[str, list[Transcript]] = {}
    kept: dict[str, list[Transcript]] = {}
    for demo, task_id in read_demonstrations(folder):
        ids, weights = chat.render_demo(demo)
        scaled = np.where(np.asarray(weights) >= 1.0, own_weight, other_weight).astype(np.float32)
        side = kept if _kept_away(task_id) else train
        side.setdefault(demo["family"], []).append((np.asarray(ids, dtype=np.int64), scaled))
    return train, kept


def read_demonstrations(folder: Path) -> Iterator[tuple[Demonstration, str]]:
    """(demonstration, task id) of every family's file, in a fixed order. Raises TrainingDataError."""
    files = sorted(path for path in folder.glob("*.jsonl") if path.stem != "heldout")
    if not files:
        raise TrainingDataError(f"The folder {folder} holds no demonstrations (*.jsonl).")
    for path in files:
        yield from _read_file(path)


def _read_file(path: Path) -> Iterator[tuple[Demonstration, str]]:
    for _, demo in read_lines(path, Demonstration, TrainingDataError, "a demonstration"):
        yield demo, demo["task_id"]


def _kept_away(task_id: str) -> bool:
    digest = hashlib.sha256(task_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32
