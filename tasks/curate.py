"""Stage `curate`: raw text to packed, hashed token shards (`data/corpus/`, `metrics/curate.json`)."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.curation.contamination import gram_index, heldout_texts
from tasks.curation.corpus import (
    TokenizerPlan,
    baselines,
    split_documents,
    write_corpus,
)
from tasks.curation.gate import check_batch
from tasks.curation.machine import Tally
from tasks.curation.pipeline import Curated, run_filters
from tasks.curation.sources import read_sources
from tasks.curation.tokenizer import demonstration_texts
from tasks.disk import publish
from tasks.tracking import experiment
from tasks.tracking.metrics import process_seconds, write_json, write_metrics

CORPUS, DEMONSTRATIONS, METRICS = Path("data/corpus"), Path("data/demonstrations"), Path("metrics/curate.json")


@program("curate", CORPUS.parent)
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.curate [--set key=value ...]`."""
    config = parse_arguments("curate", argv)
    summary = run(config)
    with experiment.run("curate", config, [DEMONSTRATIONS]) as tracker:
        tracker.summary(summary)
    return 0


def run(
    config: Config, corpus: Path = CORPUS, demonstrations: Path = DEMONSTRATIONS, metrics: Path = METRICS
) -> dict[str, Any]:
    """Builds beside `corpus` and renames at the end: on any failure what was there stays. Returns the metrics."""
    building = corpus.with_name(f".{corpus.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "corpus").mkdir(parents=True)
    try:
        summary = _build(config, building, demonstrations)
        summary = {"seconds": process_seconds(), **summary}
        publish(building / "corpus", corpus)
        write_metrics(metrics, summary)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _say(5, f"{summary['tokens']:,} tokens in {summary['seconds']:.1f} s")
    return summary


def _build(config: Config, building: Path, demonstrations: Path) -> dict[str, Any]:
    curate, tally = config.curate, Tally()
    heldout = list(heldout_texts(demonstrations))
    grams = gram_index(text for _, text in heldout)
    _say(1, f"reading {', '.join(curate.sources)}")
    documents = read_sources(curate.sources, curate.max_bytes, tally, curate.s3_endpoint_url)
    curated = run_filters(documents, building / "work", grams, curate.max_document_bytes, curate.workers)
    if tally.not_utf8_documents:
        curated.drops["not_utf8"] = (tally.not_utf8_documents, tally.not_utf8_bytes)
    kept, megabytes = len(curated.documents), tally.total_bytes / 1e6
    _say(2, f"kept {kept:,} of {tally.total_documents:,} documents, {megabytes:.1f} MB read")
    expectations = check_batch(
        curated.documents, curate.minimum_documents, curate.minimum_bytes, curate.max_document_bytes
    )
    _say(3, f"{len(expectations)} expectations met")
    searched = dict(Counter(name for name, _ in heldout))
    return _write(config, building / "corpus", curated, tally, demonstrations, searched)


def _write(
    config: Config,
    folder: Path,
    curated: Curated,
    tally: Tally,
    demonstrations: Path,
    searched: dict[str, int],
) -> dict[str, Any]:
    curate = config.curate
    plan = TokenizerPlan(
        int(config.model["vocab_size"]),
        curate.tokenizer_bytes,
        curate.demonstration_weight,
    )
    splits = split_documents(curated.documents, curate.heldout_fraction)
    manifest = write_corpus(folder, splits, demonstration_texts(demonstrations), plan, curate.shard_tokens)
    _say(4, "tokenizer trained, shards written")
    manifest["splits"]["heldout"] |= baselines(splits["heldout"])
    manifest["drops"] = {
        reason: {"documents": count, "bytes": size} for reason, (count, size) in sorted(curated.drops.items())
    }
    manifest["decontaminated_against"] = searched  # held-out set -> its texts
    manifest["sources"] = {
        source: {"documents": tally.documents[source], "bytes": tally.bytes[source]} for source in tally.documents
    }
    write_json(folder / "manifest.json", manifest)
    return _summary(manifest, curated, tally)


def _summary(manifest: dict[str, Any], curated: Curated, tally: Tally) -> dict[str, Any]:
    train, heldout = manifest["splits"]["train"], manifest["splits"]["heldout"]
    tokens, size = train["tokens"] + heldout["tokens"], train["bytes"] + heldout["bytes"]
    keys = ("documents", "bytes", "tokens")
    return {
        "read": {"documents": tally.total_documents, "bytes": tally.total_bytes},
        "kept": {"documents": train["documents"] + heldout["documents"], "bytes": size},
        "drops": manifest["drops"],
        "decontaminated_against": manifest["decontaminated_against"],
        "scrubbed_documents": sum(bool(document.metadata["scrubbed"]) for document in curated.documents),
        "tokens": tokens,
        "vocab_size": manifest["vocab_size"],
        "bytes_per_token": round(size / tokens, 4),
        "train": {key: train[key] for key in keys},
        "heldout": {key: heldout[key] for key in keys},
        "unigram_bits_per_byte": round(heldout["unigram_bits_per_byte"], 4),
        "xz_bits_per_byte": round(heldout["xz_bits_per_byte"], 4),
    }


def _say(step: int, message: str) -> None:
    print(f"[curate] step {step}/5 {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
