"""Every target by name; each is made when it is hunted, so that a process builds only what it needs."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import checkpoints, curation, params, records, stores
from tests.fuzz.hunt import Target

TARGETS: dict[str, Callable[[], Target]] = {
    "params": params.file, "set": params.overrides,
    "corpus": curation.corpus, "jsonl": curation.jsonl, "parquet": curation.parquet, "files": curation.files,
    "demonstrations": records.demonstrations, "task": records.task, "cases": records.cases,
    "config": checkpoints.config, "tokenizer": checkpoints.tokenizer, "safetensors": checkpoints.safetensors,
    "index": checkpoints.index,
    "trajectory": stores.trajectory, "run": stores.run, "servers": stores.servers,
    "samples": records.samples, "metrics": records.metrics, "lock": records.lock,
}  # fmt: skip
