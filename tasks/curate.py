"""Stage `curate`: raw text to packed, hashed token shards (`data/corpus/`, `metrics/curate.json`)."""

from __future__ import annotations

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
from tasks.curation.documents import SourceError
from tasks.curation.draft import building
from tasks.curation.gate import check_batch
from tasks.curation.pipeline import Curated, run_filters
from tasks.curation.sources import read_sources
from tasks.curation.tally import Drops, Tally, check_account, merge
from tasks.curation.tokenizer import check_vocabulary, demonstration_texts
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
    vocab_size = check_vocabulary(config.model.get("vocab_size"))
    if not demonstrations.is_dir():
        raise SourceError(f"The folder {demonstrations} does not exist; run the stage 'demonstrate' first.")
    with building(corpus) as draft:
        (draft / "corpus").mkdir()
        summary = _build(config, vocab_size, draft, demonstrations)
        summary = {"seconds": process_seconds(), **summary}
        publish(draft / "corpus", corpus)
        write_metrics(metrics, summary)
    _say(5, f"{summary['tokens']:,} tokens in {summary['seconds']:.1f} s")
    return summary


def _build(config: Config, vocab_size: int, draft: Path, demonstrations: Path) -> dict[str, Any]:
    curate, tally = config.curate, Tally()
    plan = TokenizerPlan(vocab_size, curate.tokenizer_bytes, curate.demonstration_weight)
    examples, heldout = demonstration_texts(demonstrations), list(heldout_texts(demonstrations))
    curated = _curate(config, draft / "work", gram_index(text for _, text in heldout), tally)
    splits = split_documents(curated.documents, curate.heldout_fraction)
    manifest = write_corpus(draft / "corpus", splits, examples, plan, curate.shard_tokens)
    _say(4, "tokenizer trained, shards written")
    manifest["splits"]["heldout"] |= baselines(splits["heldout"])
    manifest["drops"] = {reason: {"documents": count, "bytes": size} for reason, (count, size) in curated.drops.items()}
    manifest["skipped"] = dict(sorted(tally.skipped.items()))  # reason -> files
    manifest["decontaminated_against"] = dict(Counter(name for name, _ in heldout))  # held-out set -> its texts
    manifest["sources"] = {
        source: {"documents": tally.documents[source], "bytes": tally.bytes[source]} for source in tally.documents
    }
    write_json(draft / "corpus" / "manifest.json", manifest)
    return _summary(manifest, curated, tally)


def _curate(config: Config, work: Path, grams: dict[int, frozenset[tuple[str, ...]]], tally: Tally) -> Curated:
    """Reads, filters and gates; what was read is in `tally`, every drop in the result."""
    curate = config.curate
    _say(1, f"reading {', '.join(curate.sources)}")
    documents = read_sources(curate.sources, curate.max_bytes, tally, curate.s3_endpoint_url, curate.max_document_bytes)
    curated = run_filters(documents, work, grams, curate.max_document_bytes, curate.workers)
    account = tally.describe()
    curated = Curated(curated.documents, merge(curated.drops, tally.drops))
    megabytes = f"{tally.total_bytes / 1e6:.1f} MB"
    _say(2, f"kept {len(curated.documents):,} of {tally.total_documents:,} documents, {megabytes} read")
    if account:
        _say(2, f"not read: {account}")
    expectations = check_batch(
        curated.documents,
        curate.minimum_documents,
        curate.minimum_bytes,
        curate.max_document_bytes,
        _reasons(curated.drops, tally),
    )
    _say(3, f"{len(expectations)} expectations met")
    return curated


def _reasons(drops: Drops, tally: Tally) -> str:
    counts = [f"{documents:,} {reason}" for reason, (documents, _) in drops.items()]
    return ", ".join(counts + [f"{files:,} {reason}" for reason, files in sorted(tally.skipped.items())])


def _summary(manifest: dict[str, Any], curated: Curated, tally: Tally) -> dict[str, Any]:
    train, heldout = manifest["splits"]["train"], manifest["splits"]["heldout"]
    tokens, size = train["tokens"] + heldout["tokens"], train["bytes"] + heldout["bytes"]
    keys = ("documents", "bytes", "tokens")
    read = {"documents": tally.total_documents, "bytes": tally.total_bytes}
    as_read = sum(document.metadata["bytes"] for document in curated.documents)
    kept = {"documents": train["documents"] + heldout["documents"], "bytes": as_read}
    check_account(read, kept, manifest["drops"])
    return {
        "read": read,
        "kept": kept,  # as read; `train` and `heldout` as scrubbed
        "drops": manifest["drops"],
        "skipped": manifest["skipped"],
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
    encoding = sys.stdout.encoding or "utf-8"  # a source's name may hold letters that this terminal has not
    words = message.encode(encoding, "backslashreplace").decode(encoding)
    print(f"[curate] step {step}/5 {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
