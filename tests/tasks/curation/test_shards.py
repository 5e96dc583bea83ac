"""Shards come back as written, and anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.curation.shards import ShardError, read_manifest, read_split, token_type, write_shards

Documents = list[list[int]]


def write(folder: Path, documents: Documents, vocab_size: int = 1024, shard_tokens: int = 8) -> None:
    entries = write_shards(folder, "train", documents, vocab_size, shard_tokens)
    manifest = {"format": 1, "vocab_size": vocab_size, "splits": {"train": {"shards": entries}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@given(st.lists(st.lists(st.integers(1, 1023), max_size=12), min_size=1, max_size=8), st.integers(1, 30))
def test_round_trip_with_a_zero_after_each_document(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder, documents, shard_tokens=shard_tokens)
    assert read_split(folder, "train").tolist() == [token for document in documents for token in [*document, 0]]


def test_a_shard_is_closed_when_full(tmp_path: Path) -> None:
    entries = write_shards(tmp_path, "train", [[1, 2, 3]] * 5, 1024, 8)
    assert [(entry["file"], entry["tokens"]) for entry in entries] == [
        ("train-00000.bin", 8),
        ("train-00001.bin", 8),
        ("train-00002.bin", 4),
    ]


def test_tokens_widen_with_the_vocabulary(tmp_path: Path) -> None:
    assert (token_type(1024), token_type(65536)) == (np.dtype("<u2"), np.dtype("<u4"))
    write(tmp_path, [[154_879, 70_000]], vocab_size=154_880)
    assert read_split(tmp_path, "train").tolist() == [154_879, 70_000, 0]


def test_one_shard_stays_on_disk(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2]])
    assert isinstance(read_split(tmp_path, "train"), np.memmap)


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2, 3, 4]])
    shard = tmp_path / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(ShardError, match=r"train-00000\.bin is truncated or altered: 7 bytes instead of 10"):
        read_split(tmp_path, "train")


def test_altered_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2, 3, 4]])
    shard = tmp_path / "train-00000.bin"
    shard.write_bytes(b"\x09" + shard.read_bytes()[1:])
    with pytest.raises(ShardError, match=r"train-00000\.bin is altered"):
        read_split(tmp_path, "train")


def test_missing_shard_split_and_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json does not exist"):
        read_split(tmp_path, "train")
    write(tmp_path, [[1]])
    with pytest.raises(ShardError, match="no split 'test'"):
        read_split(tmp_path, "test")
    (tmp_path / "train-00000.bin").unlink()
    with pytest.raises(ShardError, match=r"train-00000\.bin is missing"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(("content", "problem"), [("{", "not valid JSON"), ('{"format": 9}', "not of format 1")])
def test_broken_manifest_is_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match=problem):
        read_manifest(tmp_path)


GOOD = {"file": "train-00000.bin", "sha256": "0" * 64, "tokens": 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocab_size": None}, "'vocab_size'"),
        ({"vocab_size": "1024"}, "'vocab_size'"),
        ({"vocab_size": -1}, "'vocab_size'"),
        ({"vocab_size": 10**30}, "'vocab_size'"),
        ({"splits": []}, "'splits'"),
        ({"splits": {"train": [1]}}, "'splits.train'"),
        ({"splits": {"train": {}}}, "'splits.train.shards'"),
        ({"splits": {"train": {"shards": {"file": "x"}}}}, "'splits.train.shards'"),
        *(
            ({"splits": {"train": {"shards": [GOOD | wrong]}}}, f"'splits.train.shards.0.{next(iter(wrong))}'")
            for wrong in (
                {"tokens": -2},
                {"tokens": 0},
                {"tokens": "2"},
                {"tokens": 2.5},
                {"file": "../../etc/passwd"},
                {"file": "/etc/passwd"},
                {"file": None},
                {"sha256": "abc"},
                {"sha256": 7},
            )
        ),
    ],
)
def test_a_manifest_of_the_wrong_form_names_the_key(tmp_path: Path, change: dict[str, object], named: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "vocab_size": 9, "splits": {}} | change))
    with pytest.raises(ShardError) as caught:
        read_split(tmp_path, "train")
    assert f"manifest.json is broken at {named}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"\xff", b'{"format": 1' + b"0" * 5000 + b"}", b"[" * 100_000, b'"x"', b"", b"\0"]
)
def test_any_bytes_as_manifest_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match=r"manifest\.json is not"):
        read_split(tmp_path, "train")


def test_a_manifest_that_is_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ShardError, match=r"manifest\.json cannot be read: Is a directory"):
        read_split(tmp_path, "train")


def alter(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | changes))


def test_tokens_read_by_the_wrong_type_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2, 3]])
    alter(tmp_path, vocab_size=70_000)
    with pytest.raises(ShardError, match=r"train-00000\.bin is truncated or altered: 8 bytes instead of 16"):
        read_split(tmp_path, "train")


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [[1, 299]])
    alter(tmp_path, vocab_size=299)
    with pytest.raises(ShardError, match=r"train-00000\.bin holds the token 299 of a vocabulary of 299"):
        read_split(tmp_path, "train")


def test_a_count_beyond_any_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [[1]])
    alter(tmp_path, splits={"train": {"shards": [GOOD | {"tokens": 10**30}]}})
    with pytest.raises(ShardError, match="truncated or altered"):
        read_split(tmp_path, "train")
