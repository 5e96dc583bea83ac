"""One task of an environment family: what the agent sees, what the judge knows, what solves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.errors import InputError

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


class TaskError(InputError):
    """A family, split or task folder is not usable; the message names it."""


@dataclass(frozen=True)
class Task:
    """A task is a value: equal arguments of `generate` give equal tasks, in every process.

    `files` is the start state of /work in the box; `tests` is what the judge reads and the agent never sees;
    `solution` holds the oracle's commands, `horizon` of them at least (what was looked up first included);
    `artifacts` are the paths or globs under /work that are collected for grading.
    """

    id: str
    family: str
    seed: int
    split: Split
    template: str
    instruction: str
    files: Mapping[str, str]
    tests: Mapping[str, str]
    solution: tuple[str, ...]
    artifacts: tuple[str, ...]
    horizon: int
    max_turns: int

    @property
    def content_hash(self) -> str:
        """SHA-256 of the instruction and the start state: two tasks with one hash are the same task."""
        text = json.dumps([self.instruction, sorted(self.files.items())])
        return hashlib.sha256(text.encode()).hexdigest()


def task_id(family: str, split: Split, seed: int) -> str:
    """The name of a task in stores, folders and reports."""
    return f"{family}-{split}-{seed:07d}"
