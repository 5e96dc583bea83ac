"""What curation reads and writes: text files, JSONL, Parquet, token shards."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tasks.curation.documents import RawDocument
from tasks.curation.shards import read_manifest, read_split, token_type
from tasks.curation.sources import read_sources
from tasks.curation.tally import Tally
from tests.fuzz import base, edits
from tests.fuzz.hunt import Nonsense, Target

LIMIT = 10**9


def corpus() -> Target:
    """A corpus folder; what is accepted is what the manifest hashes."""
    names = sorted(base.corpus())
    fates = st.sampled_from(("keep", "keep", "gone", "folder", "raw"))
    cases = st.tuples(edits.documents, st.sampled_from(names), fates, edits.raw_edits)
    return Target(
        "corpus", cases, _write_corpus, _read_corpus, (r"manifest\.json", r"\w+-\d{5}\.bin", r"The shard \S+")
    )


def _write_corpus(folder: Path, case: Any) -> None:
    document, victim, what, raw = case
    for name, data in base.corpus().items():
        (folder / name).write_bytes(data)
    manifest = json.loads(base.corpus()["manifest.json"])
    (folder / "manifest.json").write_bytes(edits.as_json(manifest, document))
    if what in ("gone", "folder"):
        (folder / victim).unlink()
    if what == "folder":
        (folder / victim).mkdir()
    if what == "raw" and victim != "manifest.json":
        (folder / victim).write_bytes(edits.mangled(base.corpus()[victim], raw))


def _read_corpus(folder: Path) -> None:
    for split in ("train", "heldout"):
        tokens = read_split(folder, split)
        size = read_manifest(folder)["vocab_size"]
        if not isinstance(size, int) or tokens.dtype != token_type(size):
            raise Nonsense("the size of the vocabulary is no whole number, or not that of the tokens")
        if len(tokens) == 0 or int(np.asarray(tokens).max()) >= size:
            raise Nonsense("a token is not of the vocabulary, or there is none")


def _read(source: Path) -> tuple[list[RawDocument], Tally]:
    tally = Tally()
    found = list(read_sources([str(source)], LIMIT, tally))
    for document in found:
        json.dumps(document.as_json()).encode()
        document.id.encode()
        document.text.encode()
        if str(source.parent) in document.id:
            raise Nonsense("the machine's folder is in an id")
    if len({document.id for document in found}) != len(found):
        raise Nonsense("two documents have the same id")
    return found, tally


def _all_kept(found: Iterable[RawDocument], tally: Tally, wanted: int) -> None:
    """Read = kept + dropped: what the reader does not give it must count."""
    given = len(list(found)) + sum(count for count, _ in tally.drops.values())
    if not given == tally.total_documents == wanted:
        raise Nonsense(f"of {wanted} records {given} were given or dropped, and {tally.total_documents} counted")


RECORDS: list[dict[str, Any]] = [{"text": f"Line {n} of a text.", "kind": "prose", "meta": {"n": n}} for n in range(4)]


def jsonl() -> Target:
    """A JSONL source, plain or compressed."""
    cases = st.tuples(edits.documents, st.sampled_from(("", "", ".gz")))
    return Target("jsonl", cases, _write_jsonl, _read_jsonl, (r"\.jsonl(\.gz)?\b.*\bline \d+", r"data\.jsonl"))


def _write_jsonl(folder: Path, case: Any) -> None:
    document, suffix = case
    data = edits.as_lines(RECORDS, document)
    (folder / f"data.jsonl{suffix}").write_bytes(gzip.compress(data) if suffix else data)


def _read_jsonl(folder: Path) -> None:
    (path,) = folder.iterdir()
    found, tally = _read(path)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    _all_kept(found, tally, sum(bool(line.strip()) for line in data.split(b"\n")))


def _stamps(unit: str, zone: str | None) -> Callable[[int], pa.Array]:
    return lambda rows: pa.array([2**40 if unit == "s" else 2**62] * rows, pa.timestamp(unit, zone))


COLUMNS: dict[str, Callable[[int], pa.Array]] = {
    "strings": lambda rows: pa.array([f"text {n}" for n in range(rows)]),
    "large": lambda rows: pa.array([f"text {n}" for n in range(rows)], pa.large_string()),
    "nulls": lambda rows: pa.array([None] * rows, pa.string()),
    "empty": lambda rows: pa.array([""] * rows),
    "dictionary": lambda rows: pa.array(["a", "b"] * rows).slice(0, rows).dictionary_encode(),
    "bytes": lambda rows: pa.array([b"\xff\xfe"] * rows),
    "broken": lambda rows: pa.StringArray.from_buffers(
        rows, pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * 2), pa.py_buffer(b"\xff\xfe" * rows)
    ),
    "numbers": lambda rows: pa.array(range(rows)),
    "far dates": lambda rows: pa.array([2**31 - 1] * rows, pa.int32()).cast(pa.date32()),
    "dates": lambda rows: pa.array([date(2024, 1, 1)] * rows),
    "stamps": _stamps("us", None), "zone": _stamps("ns", "Mars/Olympus"), "seconds": _stamps("s", "Europe/Berlin"),
    "lists": lambda rows: pa.array([["a"]] * rows), "structs": lambda rows: pa.array([{"text": "x"}] * rows),
    "decimals": lambda rows: pa.array([1] * rows, pa.int64()).cast(pa.decimal128(38, 2)),
    "now": lambda rows: pa.array([datetime(2024, 1, 1)] * rows),
}  # fmt: skip


def parquet() -> Target:
    """A Parquet source: columns of every type, broken bytes, no rows."""
    column = st.tuples(st.sampled_from(("text", "kind", "id", "date", "", "é")), st.sampled_from(sorted(COLUMNS)))
    columns = st.lists(column, max_size=4, unique_by=lambda pair: pair[0])
    cases = st.tuples(st.integers(0, 3), st.booleans(), columns, edits.raw_edits)
    return Target("parquet", cases, _write_parquet, _read_parquet, (r"data\.parquet",))


def _write_parquet(folder: Path, case: Any) -> None:
    rows, whole, columns, raw = case
    chosen = dict([*([("text", "strings"), ("kind", "strings")] if whole else []), *columns])
    arrays = {name: COLUMNS[kind](rows) for name, kind in chosen.items()}
    stream = io.BytesIO()
    pq.write_table(pa.table(arrays), stream, version="2.6")
    (folder / "data.parquet").write_bytes(edits.mangled(stream.getvalue(), raw))


def _read_parquet(folder: Path) -> None:
    found, tally = _read(folder / "data.parquet")
    _all_kept(found, tally, pq.ParquetFile(folder / "data.parquet").metadata.num_rows)


FILE_NAMES = [
    b"a.txt", b"b.md", b"code.py", b"caf\xe9.txt", b"a\xe2\x80\xa8b.txt", b"a\xc2\x85b.txt", b"a b.txt", b"a'b.txt",
    b"X.TXT.GZ", b"x.txt.gz", b"x.txt.zst", b"y.jsonl", b"[a].txt", b"a*b.txt", b"a?b.txt", b".hidden.txt", b"a\nb.txt",
    b"sub/a.txt", b"s[u]b/a.txt", b"none", b"z.parquet", b"-.txt", b"#.txt",
]  # fmt: skip
CONTENTS = [
    b"A plain text.\n",
    b"",
    b" \n",
    b"caf\xe9",
    b"\xef\xbb\xbfabc",
    b"a\x00b",
    b"x" * 5000,
    b"\xed\xb3\xa9",
    b"\n",
]


def files() -> Target:
    """A folder of text files with odd names, contents and kinds."""
    kinds = st.sampled_from(("file", "file", "file", "gzip", "link", "loop", "fifo", "folder", "unreadable"))
    one = st.tuples(st.sampled_from(FILE_NAMES), st.sampled_from(CONTENTS), kinds, edits.raw_edits)
    cases = st.lists(one, min_size=1, max_size=4, unique_by=lambda entry: entry[0])
    return Target("files", cases, _write_files, _read_files, (r"in curate\.sources", r"The (Parquet )?file .*text/"))


def _write_files(folder: Path, case: Any) -> None:
    root = os.fsencode(folder / "text")
    for name, content, kind, raw in case:
        path, data = os.path.join(root, name), edits.mangled(content, raw)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            os.makedirs(path)
        elif kind in ("link", "loop"):
            os.symlink(b"a.txt" if kind == "link" else os.path.basename(name), path)
        else:
            with open(path, "wb") as stream:
                stream.write(gzip.compress(data) if kind == "gzip" else data)


def _read_files(folder: Path) -> None:
    found, _ = _read(folder / "text")
    for document in found:
        if len((json.dumps(document.as_json(), ensure_ascii=False) + "\n").encode().split(b"\n")) != 2:
            raise Nonsense("a document is more than one line of JSONL")
