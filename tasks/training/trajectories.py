"""Expert demonstrations as training rows: several transcripts a window, each its own document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """Rows packed from transcripts drawn at random; the last one is cut at the end of the row."""

    def __init__(self, transcripts: Sequence[Transcript]) -> None:
        if not transcripts:
            raise TrainingDataError("There are no demonstrations to train on.")
        self.transcripts = transcripts

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """A full row; the first token of each transcript carries no loss."""
        tokens = np.zeros(length, dtype=np.int64)
        documents = np.zeros(length, dtype=np.int64)
        weights = np.zeros(length, dtype=np.float32)
        filled = number = 0
        while filled < length:
            ids, weight = self.transcripts[int(rng.integers(len(self.transcripts)))]
            end = min(length, filled + len(ids))
            tokens[filled:end], weights[filled:end] = ids[: end - filled], weight[: end - filled]
            documents[filled:end], weights[filled] = number, 0.0
            filled, number = end, number + 1
        return Row(tokens, documents, weights)


def load_transcripts(
    folder: Path, chat: Renderer, own_weight: float, other_weight: float
) -> tuple[list[Transcript], list[Transcript]]:
    """All training demonstrations as (training, kept away) transcripts.

    Tokens that the expert wrote get `own_weight`, instructions and observations `other_weight`.
    Raises TrainingDataError with file and line where a line is not a demonstration.
    """
    train: list[Transcript] = []
    kept: list[Transcript] = []
    for demo, task_id in read_demonstrations(folder):
        ids, weights = chat.render_demo(demo)
        scaled = np.where(np.asarray(weights) >= 1.0, own_weight, other_weight).astype(np.float32)
        (kept if _kept_away(task_id) else train).append((np.asarray(ids, dtype=np.int64), scaled))
    return train, kept


def read_demonstrations(folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """(demonstration, task id) of every family's file, in a fixed order."""
    files = sorted(path for path in folder.glob("*.jsonl") if path.stem != "heldout")
    if not files:
        raise TrainingDataError(f"The folder {folder} holds no demonstrations (*.jsonl).")
    for path in files:
        yield from _read_file(path)


def _read_file(path: Path) -> Iterable[tuple[dict[str, Any], str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                demo = json.loads(line)
                yield demo, str(demo["task_id"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise TrainingDataError(f"Line {number} of {path} is not a demonstration: {error}.") from error


def _kept_away(task_id: str) -> bool:
    digest = hashlib.sha256(task_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32
