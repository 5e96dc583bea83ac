"""Every way to name text in `curate.sources`, and every way it can be wrong."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.curation.documents import RawDocument, SourceError, kind_of
from tasks.curation.machine import Root, read_machine
from tasks.curation.sources import read_sources
from tasks.curation.tally import Tally


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def read(*sources: str | Path, max_bytes: int = 10**9) -> list[RawDocument]:
    return list(read_sources([str(source) for source in sources], max_bytes, Tally()))


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def test_plain_files_of_a_folder_come_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("x = 1")
    (tmp_path / "b.md").write_text("# b")
    (tmp_path / "picture.png").write_bytes(b"\xff\xd8")
    documents = read(tmp_path)
    assert [(d.id, d.text, d.kind) for d in documents] == [
        ("source0/b.md", "# b", "prose"),
        ("source0/sub/a.py", "x = 1", "code"),
    ]


def test_ids_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "deeper" / "two"
    (first / "x").mkdir(parents=True)
    (first / "x" / "a.txt").write_text("text")
    shutil.copytree(first, second)
    assert [d.id for d in read(first)] == [d.id for d in read(second)]


def test_glob_takes_only_what_matches(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.txt"):
        (tmp_path / name).write_text(name)
    assert [d.text for d in read(tmp_path / "*.py")] == ["a.py", "b.py"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("d.jsonl", bytes), ("d.jsonl.gz", gzip.compress), ("d.jsonl.zst", zstd)],
)
def test_jsonl_plain_and_compressed(tmp_path: Path, name: str, pack: object) -> None:
    (tmp_path / name).write_bytes(pack(lines("one", "zwei ü")))  # type: ignore[operator]
    assert [d.text for d in read(tmp_path / name)] == ["one", "zwei ü"]
    assert [d.id for d in read(tmp_path / name)] == [f"source0/{name}:1", f"source0/{name}:2"]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "two"], "kind": ["code", "prose"]}), tmp_path / "d.parquet")
    assert [(d.text, d.kind) for d in read(tmp_path / "d.parquet")] == [("one", "code"), ("two", "prose")]


def test_broken_parquet_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SourceError, match=r"d\.parquet cannot be read"):
        read(tmp_path / "d.parquet")


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines("one", "two") + b'{"text": "three"\n')
    with pytest.raises(SourceError, match=r"d\.jsonl, line 3, is not valid JSON"):
        read(tmp_path / "d.jsonl")


@pytest.mark.parametrize("record", [b'{"body": "x"}', b'{"text": 3}', b'["text"]'])
def test_record_without_text_names_file_and_line(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines("one") + record)
    with pytest.raises(SourceError, match=r"d\.jsonl, line 2, has no string field 'text'"):
        read(tmp_path / "d.jsonl")


def test_lone_surrogate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "\\ud800"}')
    with pytest.raises(SourceError, match="line 1, holds half of a surrogate pair"):
        read(tmp_path / "d.jsonl")


def test_named_file_that_is_not_utf8_names_file_and_offset(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin\.txt is not UTF-8: byte 0xe9 at offset 3\."):
        read(tmp_path / "latin.txt")


def test_truncated_gzip_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines("one" * 1000))[:-12])
    with pytest.raises(SourceError, match=r"d\.jsonl\.gz cannot be read"):
        read(tmp_path / "d.jsonl.gz")


@pytest.mark.parametrize("name", ["missing.txt", "missing/", "missing-*.txt"])
def test_missing_path_names_the_source(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"missing.* in curate\.sources does not exist"):
        read(tmp_path / name)


def test_reading_stops_at_max_bytes(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x" * 100)
    assert len(read(tmp_path, max_bytes=250)) == 3


def test_kind_looks_beneath_compression() -> None:
    assert [kind_of(name) for name in ("a/b.py.gz", "b.sh", "c.md", "README", "ls.1.gz")] == [
        "code",
        "code",
        "prose",
        "prose",
        "prose",
    ]


def machine_folder(folder: Path) -> Root:
    for name in ("a.py", "pkg/b.py", "pkg/tests/c.py", "pkg/__pycache__/d.py", "tasks/own.py", "__editable__x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"name = {name!r}")
    (folder / "latin.py").write_bytes(b"# caf\xe9")
    return Root("packages", folder, frozenset({".py"}), 1.0, frozenset({"tasks"}))


def scan(roots: tuple[Root, ...], budget: int) -> tuple[list[RawDocument], Tally]:
    """What the machine gives until the budget is spent."""
    tally, documents = Tally(), []
    for item in read_machine(roots, budget, 10**6):
        if tally.spent >= budget:
            break
        tally.add(item)
        documents += [item] if isinstance(item, RawDocument) else []
    return documents, tally


def test_machine_scan_skips_tests_caches_and_own_code_and_counts_what_is_not_utf8(tmp_path: Path) -> None:
    documents, tally = scan((machine_folder(tmp_path),), 10_000)
    assert sorted(d.id for d in documents) == ["packages/a.py", "packages/pkg/b.py"]
    assert tally.drops == {"not_utf8": (1, 6)}
    assert tally.total_documents == 3


def test_machine_order_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    roots = machine_folder(tmp_path / "one"), machine_folder(tmp_path / "some" / "where")
    orders = [[d.id for d in scan((root,), 10_000)[0]] for root in roots]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 2


def test_machine_gives_what_one_root_leaves_to_the_others(tmp_path: Path) -> None:
    for name, count in (("small", 1), ("large", 10)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.txt").write_text("x" * 100)
    roots = tuple(Root(name, tmp_path / name, frozenset(), 0.5) for name in ("small", "large"))
    assert scan(roots, 800)[1].bytes == {"small": 100, "large": 700}


def test_compressed_manual_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "ls.1.gz").write_bytes(gzip.compress(b"list directory contents"))
    (tmp_path / "broken.1.gz").write_bytes(b"\x1f\x8b\x08\xff\xff")
    documents, tally = scan((Root("manual", tmp_path, frozenset({".1"}), 1.0),), 1000)
    assert [d.text for d in documents] == ["list directory contents"]
    assert tally.drops == {"not_utf8": (1, 5)}


def test_machine_counts_what_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text("a name that is not UTF-8")
    (tmp_path / "large.txt").write_bytes(b"x" * 200_001)
    (tmp_path / "link.txt").symlink_to("large.txt")
    (tmp_path / "empty.txt").touch()
    documents, tally = scan((Root("doc", tmp_path, frozenset(), 1.0),), 1000)
    assert [d.id for d in documents] == ["doc/caf\\xe9.txt"]
    assert tally.skipped == {"special": 1, "too_large": 1}
    assert tally.drops == {"empty": (1, 0)}


def tallied(*sources: str | Path, max_bytes: int, longest: int = 10**6) -> tuple[list[str], Tally]:
    tally = Tally()
    documents = list(read_sources([str(source) for source in sources], max_bytes, tally, "", longest))
    return [document.id for document in documents], tally


def test_a_huge_file_that_sorts_first_starves_nobody(tmp_path: Path) -> None:
    with (tmp_path / "aaa.txt").open("wb") as stream:
        stream.truncate(197_000_000)
    for number in range(40):
        (tmp_path / f"good{number:02}.txt").write_text("x" * 100)
    ids, tally = tallied(tmp_path, max_bytes=22_000_000, longest=200_000)
    assert len(ids) == 40
    assert tally.drops == {"form.too_long": (1, 197_000_000)}
    assert tally.spent == 4000


def test_the_budget_is_shared_by_files_and_what_one_leaves_goes_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*[f"{number:0100}" for number in range(1000)]))
    (tmp_path / "b.jsonl").write_bytes(lines(*["y" * 100] * 1000))
    (tmp_path / "c.txt").write_text("z" * 100)
    ids, tally = tallied(tmp_path, max_bytes=10_000)
    counts = {name: sum(f"/{name}" in identifier for identifier in ids) for name in ("a.jsonl", "b.jsonl", "c.txt")}
    assert counts == {"a.jsonl": 50, "b.jsonl": 49, "c.txt": 1}
    assert len(set(ids)) == 100
    assert tally.skipped == {"over_budget": 2}


def test_the_budget_is_shared_by_sources(tmp_path: Path) -> None:
    for name, count in (("large", 100), ("small", 3), ("last", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.jsonl").write_bytes(lines(*[f"{name} {number:092}"[:100] for number in range(count)]))
    ids, tally = tallied(tmp_path / "large", tmp_path / "small", tmp_path / "last", max_bytes=6000)
    counts = [sum(identifier.startswith(f"source{number}/") for identifier in ids) for number in range(3)]
    assert counts[1] == 3
    assert min(counts[0], counts[2]) > 20
    assert tally.spent == pytest.approx(6000, abs=100)


def test_files_that_two_sources_name_are_read_once(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.txt").symlink_to("a.txt")
    ids, tally = tallied(tmp_path / "a.txt", tmp_path, tmp_path / "*.txt", tmp_path, max_bytes=1000)
    assert ids == ["source0/a.txt", "source1/b.txt"]
    assert tally.skipped == {"already_read": 8}


def test_no_source_is_one_sentence() -> None:
    with pytest.raises(SourceError, match=r"The list curate\.sources is empty"):
        read()


def test_what_is_wrong_in_a_folder_is_counted_and_in_a_named_file_refused(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    ids, tally = tallied(tmp_path, max_bytes=100)
    assert ids == ["source0/good.txt"]
    assert (tally.total_documents, tally.drops) == (2, {"not_utf8": (1, 4)})
    with pytest.raises(SourceError, match=r"latin\.txt is not UTF-8"):
        read(tmp_path / "latin.txt")
