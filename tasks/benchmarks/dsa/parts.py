"""Finished parts on disk: one JSON each, named by a hash of all it depends on.

A part that is there is not made again, so an interrupted command goes on; a part made under other parameters, from
another corpus or by another definition has another name, so it is never taken for this one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import Transformer
from tasks.tracking.metrics import write_json

FORMAT = 1  # raise it when the same definition comes to mean something else


def definition_hash(definition: Mapping[str, Any]) -> str:
    """16 hex digits of the canonical JSON."""
    text = json.dumps({"format": FORMAT, **definition}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """What a part found out, its hash, and where its network lies if it trained one."""

    key: str
    result: Mapping[str, Any]
    seconds: float  # of this process's CPU, all threads
    folder: Path

    def network(self) -> Transformer:
        """The trained network."""
        return Transformer.from_pretrained(self.folder)


class Parts:
    """The folder of all parts of one command."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seconds: dict[str, float] = {}  # by key: a part may be asked for often

    @property
    def seconds(self) -> float:
        """What all parts asked for so far cost when they were made, in CPU seconds."""
        return sum(self._seconds.values())

    def measured(self, name: str, definition: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> Part:
        """The part, from disk or by `work`, which returns what JSON can hold."""
        return self._part(name, definition, lambda folder: work())

    def trained(
        self,
        name: str,
        definition: Mapping[str, Any],
        work: Callable[[], tuple[Transformer, Mapping[str, Any]]],
    ) -> Part:
        """The same for `work` that also returns a network, which is written before the JSON that vouches for it."""

        def write(folder: Path) -> Mapping[str, Any]:
            transformer, result = work()
            transformer.save_pretrained(folder)
            return result

        return self._part(name, definition, write)

    def _part(self, name: str, definition: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Part:
        key = definition_hash(definition)
        path = self.root / f"{name}-{key}.json"
        folder = path.with_suffix("")
        if not path.exists():
            wall, begin = time.monotonic(), time.process_time()
            result, seconds = work(folder), time.process_time() - begin
            write_json(path, {"definition": definition, "result": result, "seconds": round(seconds, 2)})
            print(f"[parts] {name}: {seconds:.0f} s of CPU, {time.monotonic() - wall:.0f} s in all", flush=True)
        found = json.loads(path.read_text(encoding="utf-8"))
        self._seconds[key] = found["seconds"]
        return Part(key, found["result"], found["seconds"], folder)
