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
