"""Every file ends in documents and in reasons, whatever its bytes are; one that a person names is refused by name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.curation.documents import SourceError
from tasks.curation.listing import Place
from tasks.curation.records import Limits, read_file
from tasks.curation.sources import read_sources
from tasks.curation.tally import Tally

LONGEST = 1000


def read(source: Path, max_bytes: int = 10**6) -> tuple[list[str], Tally]:
    tally = Tally()
    documents = list(read_sources([str(source)], max_bytes, tally, "", LONGEST))
    assert tally.total_documents == len(documents) + sum(count for count, _ in tally.drops.values())
    assert tally.total_bytes == tally.spent + sum(size for _, size in tally.drops.values())
    return [document.text for document in documents], tally


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(path)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "mark"}', "mark"),
        (b'{"score": %s, "text": "integer"}' % (b"7" * 5000), "integer"),
        (b'{"score": NaN, "more": [Infinity, 1e999999], "text": "nan"}', "nan"),
        (b'{"text": "first", "text": "second"}', "second"),
        (b'{"text": "crlf"}\r', "crlf"),
        (b'{"text": "nul \\u0000"}', "nul \0"),
        (b'{"text": "pair \\ud83d\\ude00"}', "pair \U0001f600"),
        ('{"text": "one \u2028 line \u0085 still"}'.encode(), "one \u2028 line \u0085 still"),
        (b'{"text": "k", "kind": null}', "k"),
    ],
)
def test_records_that_are_read(tmp_path: Path, line: bytes, text: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\n\n \t\n" + line)
    assert read(tmp_path)[0] == [text, text]


@pytest.mark.parametrize(
    ("line", "reason", "sentence"),
    [
        (b"[" * 100_000, "not_json", "line 2, is not valid JSON: it is nested too deeply."),
        (b'{"a":' * 100_000, "not_json", "line 2, is not valid JSON: it is nested too deeply."),
        (b'{"text": "x"', "not_json", "line 2, is not valid JSON: Expecting ',' delimiter at column 13."),
        (b"\0" * 50, "not_json", "line 2, is not valid JSON"),
        (b'{"text": "caf\xe9"}', "not_utf8", "d.jsonl (line 2) is not UTF-8: byte 0xe9 at offset 13."),
        (b'{"text": "\\ud800"}', "half_surrogate", "line 2, holds half of a surrogate pair"),
        (b'["text"]', "no_text", "line 2, has no string field 'text'."),
        (b"17", "no_text", "line 2, has no string field 'text'."),
        (b"null", "no_text", "line 2, has no string field 'text'."),
        (b'{"body": "x"}', "no_text", "line 2, has no string field 'text'."),
        (b'{"text": ["x"]}', "no_text", "line 2, has no string field 'text'."),
        (b'{"text": "x", "kind": "verse"}', "unknown_kind", "line 2, has the kind 'verse'"),
        (b'{"text": "x", "kind": {"a": []}}', "unknown_kind", "line 2, has the kind"),
    ],
)
def test_records_that_are_not(tmp_path: Path, line: bytes, reason: str, sentence: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "three"}')
    texts, tally = read(tmp_path)
    assert texts == ["one", "three"]
    assert tally.drops == {reason: (1, len(line))}
    assert tally.examples == {reason: ["source0/d.jsonl:2"]}
    assert sentence in refused(tmp_path / "d.jsonl")


def test_empty_and_long_documents_are_counted_and_no_fault(tmp_path: Path) -> None:
    texts = ["", " \n", "x" * LONGEST, "y" * (LONGEST + 1), "é" * 501]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kept, tally = read(tmp_path / "d.jsonl")
    assert kept == ["x" * LONGEST]
    assert tally.drops == {"empty": (2, 2), "form.too_long": (2, 1001 + 1002)}


def test_a_line_longer_than_memory_should_hold_is_skipped_to_its_end(tmp_path: Path) -> None:
    limits = Limits(LONGEST)
    line = b'{"text": "' + b"x" * (limits.line_bytes * 3) + b'"}\n'
    (tmp_path / "d.jsonl").write_bytes(line + b'{"text": "next"}\n')
    texts, tally = read(tmp_path)
    assert texts == ["next"]
    assert tally.drops == {"form.too_long": (1, len(line))}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", "hello".encode("utf-16"), "not_utf8"),
        ("a.txt", "café".encode("latin-1"), "not_utf8"),
        ("a.txt", b"\x80\x04binary", "not_utf8"),
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t", "empty"),
        ("a.txt", b"\xef\xbb\xbf", "empty"),
        ("a.txt", b"x" * (LONGEST + 1), "form.too_long"),
        ("a.txt.gz", gzip.compress(b"x" * 10**7), "form.too_long"),
    ],
)
def test_texts_that_are_dropped(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbftext")
    texts, tally = read(tmp_path)
    assert texts == ["text"]
    assert list(tally.drops) == [reason]


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "memory.txt").symlink_to("/proc/self/pagemap")
    (tmp_path / "memory.jsonl").symlink_to("/proc/self/maps")
    (tmp_path / "b.txt").write_text("text")
    texts, tally = read(tmp_path)
    assert texts == ["text"]
    assert tally.drops == {"empty": (1, 0)}
    assert tally.skipped == {"empty": 1}


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


PACKERS = [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_packed_files(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"twice.TXT{suffix}").write_bytes(pack(b"one, ") + pack(b"two"))
    (tmp_path / f"wrong.txt{suffix}").write_bytes(b"never packed")
    whole = pack(random.Random(0).randbytes(400).hex().encode())
    (tmp_path / f"short.txt{suffix}").write_bytes(whole[: len(whole) // 4])
    texts, tally = read(tmp_path)
    assert texts == ["one, two"]
    assert tally.skipped == {"damaged": 2}
    assert f"wrong.txt{suffix} cannot be read: " in refused(tmp_path / f"wrong.txt{suffix}")
    assert f"short.txt{suffix} cannot be read: " in refused(tmp_path / f"short.txt{suffix}")


def test_records_before_the_damage_stay(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": random.Random(n).randbytes(200).hex()}).encode() + b"\n" for n in range(500))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    texts, tally = read(tmp_path)
    assert 450 < len(texts) < 500
    assert tally.skipped == {"damaged": 1}


def test_a_packed_file_without_documents_is_left(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 10**6))
    place = Place(str(path), "id", "source", 0, path.stat().st_size, named=False)
    (item,) = read_file(place, Limits(LONGEST, barren_bytes=10_000))
    assert item.reason == "barren"  # type: ignore[union-attr]


def write_parquet(path: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), path)


def unchecked(*values: bytes) -> pa.Array:
    """A column of strings that are not UTF-8, as careless writers make them."""
    return pa.array(values, pa.binary()).view(pa.string())


def test_parquet_columns_that_nobody_needs_may_hold_anything(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "d.parquet",
        text=["one", "two"],
        date=pa.array([10**7] * 2, pa.date32()),  # the year 29348
        time=pa.array([10**15] * 2, pa.timestamp("us", tz="Mars/Olympus")),
        other=unchecked(b"caf\xe9", b"\xff"),
        nested=[{"text": "no"}, {"text": "no"}],
    )
    assert read(tmp_path / "d.parquet")[0] == ["one", "two"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_texts_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["one", None, "", "z" * 2000, "ü"]).cast(kind)
    write_parquet(tmp_path / "d.parquet", text=texts, kind=["code", "prose", "prose", None, None])
    kept, tally = read(tmp_path)
    assert kept == ["one", "ü"]
    assert tally.drops == {"no_text": (1, 0), "empty": (1, 0), "form.too_long": (1, 2000)}
    assert "row 2, has no string field 'text'" in refused(tmp_path / "d.parquet")


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    write_parquet(tmp_path / "d.parquet", text=unchecked(b"ok", b"caf\xe9"))
    assert read(tmp_path)[1].drops == {"not_utf8": (1, 4)}
    assert "d.parquet (row 2) is not UTF-8: byte 0xe9 at offset 3." in refused(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.table({"body": ["x"]}), "d.parquet has no column 'text'."),
        (pa.table({"text": [1]}), "The column 'text' of the Parquet file {} holds no text but int64."),
        (
            pa.table({"text": [{"a": "x"}]}),
            "The column 'text' of the Parquet file {} holds no text but struct<a: string>.",
        ),
        (pa.table({"text": ["x"], "kind": [1]}), "The column 'kind' of the Parquet file {} holds no text but int64."),
        (pa.Table.from_arrays([pa.array(["x"])] * 2, ["text", "text"]), "has 2 columns 'text'."),
    ],
)
def test_parquet_without_texts_names_file_and_column(tmp_path: Path, table: pa.Table, sentence: str) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(table, path)
    assert sentence.format(path) in refused(path)
    (tmp_path / "a.txt").write_text("text")
    texts, tally = read(tmp_path)
    assert texts == ["text"]
    assert tally.skipped == {"no_text": 1}


@pytest.mark.parametrize("cut", [0, 4, 40, -9])
def test_broken_parquet(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "d.parquet"
    write_parquet(path, text=["hello " * 100] * 200)
    path.write_bytes(path.read_bytes()[:cut])
    assert "d.parquet cannot be read: " in refused(path)
    (tmp_path / "a.txt").write_text("text")
    assert read(tmp_path)[1].skipped == {"damaged": 1}


def test_a_file_that_vanishes_or_turns_into_a_pipe_after_listing(tmp_path: Path) -> None:
    gone, pipe = tmp_path / "gone.txt", tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    items = [next(read_file(Place(str(path), "id", "s", 0, 9, False), Limits(9))) for path in (gone, pipe)]
    assert [item.reason for item in items] == ["vanished", "damaged"]  # type: ignore[union-attr]


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    chance = random.Random(5)
    write_parquet(tmp_path / "d.parquet", text=["hello " * 20] * 30, kind=["code"] * 30)
    whole = (tmp_path / "d.parquet").read_bytes()
    for suffix, pack in PACKERS:
        (tmp_path / f"d.jsonl{suffix}").write_bytes(pack(b'{"text": "hello"}\n' * 30))
    samples = {path: path.read_bytes() for path in tmp_path.iterdir()} | {tmp_path / "d.parquet": whole}
    (tmp_path / "good.txt").write_text("text")
    for _ in range(40):
        for path, data in samples.items():
            altered = bytearray(data)
            for _ in range(3):
                altered[chance.randrange(len(altered))] = chance.randrange(256)
            path.write_bytes(altered)
        read(tmp_path)
