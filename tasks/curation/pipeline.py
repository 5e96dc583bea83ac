"""Runs the filters over the raw documents: dealt to ranks by the hash of their text, two processes by default.

datatrove's own local executor starts a manager process and logs every step to stderr; its steps are generators over
documents, so that a process pool and a loop do the same work in half the time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from loguru import logger

from tasks.curation import dedup
from tasks.curation.documents import RawDocument, text_hash
from tasks.curation.filters import drop_record, filter_steps
from tasks.curation.tally import Drops, merge
from tasks.errors import MachineError

RANKS = 4  # fixed, so that the result does not depend on the number of processes
logger.disable("datatrove")


class FilterError(MachineError):
    """A process that filters ended before its work did."""


@dataclass
class Curated:
    """What the filters left, and what they took: reason -> [documents, bytes]."""

    documents: list[Document]
    drops: Drops = field(default_factory=dict)


def run_filters(
    documents: Iterable[RawDocument],
    work: Path,
    grams: dict[int, frozenset[tuple[str, ...]]],
    maximum_bytes: int,
    workers: int,
) -> Curated:
    """Raw documents -> curated ones in the order of their text's hash. `work` is a scratch folder."""
    deal(documents, work / "raw")
    arguments = [(rank, work, grams, maximum_bytes) for rank in range(RANKS)]
    context = multiprocessing.get_context("forkserver")
    try:
        with ProcessPoolExecutor(min(workers, RANKS), mp_context=context) as pool:
            list(pool.map(filter_rank, *zip(*arguments, strict=True)))
    except BrokenExecutor:
        raise FilterError("A process of the stage 'curate' was ended from outside; was memory short?") from None
    removals = dedup.find_duplicates(work / "signatures", work)
    kept = [document for rank in range(RANKS) for document in _deduplicated(work, removals, rank)]
    kept.sort(key=lambda document: (text_hash(document.text), document.id))
    return _without_repeats(kept, count_drops(work / "drops"))


def _without_repeats(documents: list[Document], drops: Drops) -> Curated:
    """Scrubbing can make texts equal that differed in an address; the first of them stays."""
    kept = [
        document
        for number, document in enumerate(documents)
        if number == 0 or document.text != documents[number - 1].text
    ]
    sizes = [document.metadata["bytes"] for document in documents]
    repeats = len(documents) - len(kept)
    repeated_bytes = sum(sizes) - sum(document.metadata["bytes"] for document in kept)
    return Curated(kept, merge(drops, {"exact_duplicate": (repeats, repeated_bytes)} if repeats else {}))


def deal(documents: Iterable[RawDocument], folder: Path) -> None:
    """Writes one JSONL file a rank. Equal texts meet in the same rank, which makes exact deduplication complete."""
    folder.mkdir(parents=True)
    streams: list[BinaryIO] = [(folder / f"{rank:05d}.jsonl").open("wb") for rank in range(RANKS)]
    try:
        for document in documents:
            rank = int(text_hash(document.text)[:8], 16) % RANKS
            streams[rank].write(orjson.dumps(document.as_json(), option=orjson.OPT_APPEND_NEWLINE))
    finally:
        for stream in streams:
            stream.close()


def filter_rank(rank: int, work: Path, grams: dict[int, frozenset[tuple[str, ...]]], maximum_bytes: int) -> None:
    """One rank through all filters, its survivors written and their MinHash signatures beside them."""
    steps: list[PipelineStep] = [
        *filter_steps(maximum_bytes, grams, lambda step: drop_writer(work, step)),
        JsonlWriter(str(work / "filtered"), "${rank}.jsonl", compression=None),
        dedup.FastSignature(work / "signatures"),
    ]
    data: Any = _read(work / "raw", rank)
    for step in steps:
        data = step.run(data, rank, RANKS)
    assert data is None  # the last step is no generator: it has drained the others


def drop_writer(work: Path, step: str) -> JsonlWriter:
    """The exclusion writer of one filter: a line for each dropped document."""
    return JsonlWriter(str(work / "drops" / step), "${rank}.jsonl", compression=None, adapter=drop_record)


def count_drops(folder: Path) -> Drops:
    """reason -> (documents, bytes), from the lines of the exclusion writers."""
    counts: Drops = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:  # splitlines would split at U+2028 in a name
            record = orjson.loads(line)
            reason = f"{path.parent.name}.{record['reason']}" if record["reason"] else path.parent.name
            documents, size = counts.get(reason, (0, 0))
            counts[reason] = (documents + 1, size + record["bytes"])
    return dict(sorted(counts.items()))


def _read(folder: Path, rank: int) -> Iterator[Document]:
    # By name: the reader's own sharding counts the files that exist, and a rank that kept nothing has written none.
    if (folder / f"{rank:05d}.jsonl").exists():
        reader = JsonlReader(str(folder), compression=None, add_file_path=False, glob_pattern=f"{rank:05d}.jsonl")
        yield from reader.run()


def _deduplicated(work: Path, removals: Path, rank: int) -> Iterator[Document]:
    documents = _read(work / "filtered", rank)
    yield from dedup.drop_duplicates(documents, removals, rank, drop_writer(work, "near_duplicate"))
