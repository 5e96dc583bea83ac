"""What a source names: any folder on any machine, with whatever lies in it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tasks.curation.documents import SourceError, Unread, printable
from tasks.curation.listing import Place, list_source, split_pattern


def listed(source: str | Path) -> tuple[list[str], dict[str, str]]:
    """Ids to be read, in order, and name -> reason of what is not."""
    found = list_source(str(source), "s")
    read = [entry.id for entry in found if isinstance(entry, Place)]
    return read, {entry.name: entry.reason for entry in found if isinstance(entry, Unread)}


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.txt", "caf\\xe9.txt"),
        ("caf\u00e9.txt".encode(), "café.txt"),
        ("\u2028.txt".encode(), "\\u2028.txt"),
        ("\u0085.txt".encode(), "\\u0085.txt"),
        (b"\x85.txt", "\\x85.txt"),
        (b"a\nb\x07.txt", "a\\u000ab\\u0007.txt"),
        (b"a\\b.txt", "a\\\\b.txt"),
        ("\U000e0001.txt".encode(), "\\U000e0001.txt"),
    ],
)
def test_any_name_becomes_a_printable_id(tmp_path: Path, name: bytes, shown: str) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("text")
    assert listed(tmp_path) == ([f"s/{shown}"], {})
    assert f"s/{shown}".isprintable()


def test_different_names_have_different_ids() -> None:
    names = ["caf\udce9", "caf\\xe9", "caf\\\\xe9", "café", "cafe\u0301", "\udc85", "\x85"]
    assert len({printable(name) for name in names}) == len(names)


def test_files_that_are_none_are_named_and_never_opened(tmp_path: Path) -> None:
    fill(tmp_path, "good.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "nowhere.txt").symlink_to("absent")
    (tmp_path / "circle").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.txt"))
    read, reasons = listed(tmp_path)
    assert read == ["s/good.txt"]
    assert reasons == {
        "s/pipe.txt": "special",
        "s/pipe.jsonl": "special",
        "s/zero.txt": "special",
        "s/socket.txt": "special",
        "s/a.txt": "unreadable",
        "s/b.txt": "unreadable",
        "s/nowhere.txt": "vanished",
        "s/circle": "folder_link",
    }


def test_a_pipe_that_a_person_names_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"pipe is not a regular file"):
        listed(tmp_path / "pipe")


def test_hidden_folders_environments_and_our_own_outputs_are_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "a.md", "data/own.txt", "data/corpus/x.txt", "data/demonstrations/x.jsonl", ".git/x.txt", "env/x.py")
    fill(tmp_path, "report/x.md", "env/pyvenv.cfg", ".longhaul/x.txt", "data/.corpus.building-1/work/raw/0.jsonl")
    read, reasons = listed(".")
    assert read == ["s/a.md", "s/data/own.txt"]
    assert reasons == {
        "s/.git": "hidden_folder",
        "s/.longhaul": "hidden_folder",
        "s/data/.corpus.building-1": "hidden_folder",
        "s/env": "environment",
        "s/data/corpus": "own_output",
        "s/data/demonstrations": "own_output",
        "s/report": "own_output",
    }


def test_suffixes_count_in_any_case_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "A.TXT.GZ", "b.Jsonl.ZST", "c.py.xz", "d.md.bz2", "E.PARQUET", "f.csv", "README", "g.zip")
    fill(tmp_path, "h.tar.gz", "i.txt.lz4", "j.parquet.gz")
    read, reasons = listed(tmp_path)
    assert read == ["s/A.TXT.GZ", "s/E.PARQUET", "s/b.Jsonl.ZST", "s/c.py.xz", "s/d.md.bz2"]
    assert reasons == {
        "s/f.csv": "other_suffix",
        "s/README": "other_suffix",
        **dict.fromkeys(("s/g.zip", "s/h.tar.gz", "s/i.txt.lz4", "s/j.parquet.gz"), "archive"),
    }
    with pytest.raises(SourceError, match=r"h\.tar\.gz is packed in a way that is not read \(\.tar\.gz\); unpack it"):
        listed(tmp_path / "h.tar.gz")


@pytest.mark.parametrize("folder", ["a[1]", "[ab]", "what?", "st*r", "sp ace", "~", "..x"])
def test_a_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    fill(tmp_path, f"{folder}/x.txt", "a1/x.txt", "a/x.txt", "whatx/x.txt", "stir/x.txt")
    assert listed(tmp_path / folder)[0] == ["s/x.txt"]
    assert listed(tmp_path / folder / "*.txt")[0] == ["s/x.txt"]
    assert listed(tmp_path / folder / "x.txt")[0] == ["s/x.txt"]


@pytest.mark.parametrize("pattern", ["v?/x.txt", "v[12]/x.txt", "v*/x.txt", "**/x.txt", "v?/*"])
def test_a_pattern_never_leaks_the_machines_folders(tmp_path: Path, pattern: str) -> None:
    fill(tmp_path, "v1/x.txt", "v2/x.txt")
    assert listed(tmp_path / pattern)[0] == ["s/v1/x.txt", "s/v2/x.txt"]


def test_a_pattern_takes_any_suffix_and_stays_at_its_depth(tmp_path: Path) -> None:
    fill(tmp_path, "a.log", "sub/b.log", ".hidden/c.log")
    (tmp_path / "sub" / "circle").symlink_to("..")
    assert listed(tmp_path / "*.log")[0] == ["s/a.log"]
    assert listed(tmp_path / "**/*.log")[0] == ["s/a.log", "s/sub/b.log"]
    assert listed(tmp_path / ".hid*/*.log")[0] == ["s/.hidden/c.log"]


def test_split_pattern_begins_after_what_exists() -> None:
    assert split_pattern("/a[1]/b/*.txt", {"/a[1]"}.__contains__) == ("/a[1]/b", "*.txt")
    assert split_pattern("/*/x", lambda _: False) == ("/", "*/x")
    assert split_pattern("/a/b", lambda _: False) == ("/a/b", "")


def test_home_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "texts/a.txt", "work/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    assert listed("~/texts")[0] == listed("../texts")[0] == ["s/a.txt"]


def test_order_is_of_bytes_whatever_the_locale(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", "B.txt", "a/z.txt", "a.txt", "é.txt", "Z.txt", "a-b.txt")
    names = ["B.txt", "Z.txt", "a-b.txt", "a.txt", "a/z.txt", "b.txt", "é.txt"]
    assert listed(tmp_path)[0] == [f"s/{name}" for name in names]


def test_a_very_deep_tree_is_entered_only_so_far(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(210):
        deep /= "d"
        deep.mkdir()
    fill(tmp_path, "a.txt")
    read, reasons = listed(tmp_path)
    assert read == ["s/a.txt"]
    assert list(reasons.values()) == ["too_deep"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "'' in curate.sources is empty"),
        ("  ", "is empty; write '.' for the current folder"),
        ("a\0b", "holds a NUL character"),
        ("gs://bucket/x", "only paths and s3:// are"),
        ("https://example.org/x.txt", "only paths and s3:// are"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("/" + "x" * 5000, "does not exist or holds no text"),
        ("~nobody-of-this-name/x", "does not exist"),
        ("/absent/*.txt", "does not exist"),
        ("/usr/**x/*.txt", "is no pattern"),
    ],
)
def test_a_source_that_is_none_is_one_sentence(source: str, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        list_source(source, "s")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_text_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    with pytest.raises(SourceError, match=r"holds no text that can be read \(other_suffix: .*a\.png has a suffix"):
        listed(tmp_path)
