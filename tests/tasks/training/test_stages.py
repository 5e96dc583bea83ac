from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model import Transformer
from model.checkpoint import CheckpointError
from tasks import midtrain, pretrain
from tasks.config import Config, load_config
from tasks.curation import tokenizer as bpe
from tasks.curation.shards import ShardError, write_shards
from tasks.tracking import experiment
from tasks.tracking.experiment import client, commit_of, recorded_run
from tasks.tracking.provenance import file_digest
from tasks.training import resume
from tasks.training.loop import Run
from tasks.training.report import Reporter
from tests.tasks.small_disk import contents, leave

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "model.vocab_size=300",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2",
    "model.index_topk=16",
    "pretrain.copy_steps=0",
    "pretrain.steps=3",
    "pretrain.batch=2",
    "pretrain.context=64",
    "midtrain.context=96",
    "midtrain.batch=2",
    "midtrain.dense_steps=1",
    "midtrain.indexer_steps=2",
    "midtrain.sparse_steps=1",
    "midtrain.agent_steps=1",
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A folder with a small corpus and demonstrations, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_out(tmp_path)
    return load_config(ROOT / "params.yaml", SMALL)


def lay_out(folder: Path) -> None:
    texts = [
        f"def f{i}(a, b):\n    return a * {i} + b  # the quick brown fox jumps over lazy dog {i}\n" for i in range(400)
    ]
    tokenizer = bpe.train(texts, 300)
    corpus = folder / "data" / "corpus"
    bpe.save(tokenizer, corpus / "tokenizer")
    splits = {
        name: {"shards": write_shards(corpus, name, bpe.encode(tokenizer, part), 300, 10**6)}
        for name, part in (("train", texts[:300]), ("heldout", texts[300:]))
    }
    (corpus / "manifest.json").write_text(json.dumps({"format": 1, "vocab_size": 300, "splits": splits}))
    write_demonstrations(folder / "data" / "demonstrations")


def write_demonstrations(folder: Path) -> None:
    folder.mkdir()
    turn = {"command": "cp a.txt b.txt", "output": "", "exit_code": 0}
    for family in ("shell", "chain", "repair"):
        demos = [
            {"task_id": f"{family}-{i}", "family": family, "instruction": f"copy {i}", "turns": [turn]}
            for i in range(200)
        ]
        (folder / f"{family}.jsonl").write_text("".join(json.dumps(demo) + "\n" for demo in demos))


def test_pretrain_then_midtrain(workplace: Config) -> None:
    found = pretrain.pretrain(workplace, Reporter(None))
    assert {"heldout_bits_per_byte", "unigram_bits_per_byte", "xz_bits_per_byte", "seconds", "steps", "tokens"} <= set(
        found
    )
    assert json.loads(Path("metrics/pretrain.json").read_text()) == found
    record = json.loads(Path("checkpoints/pretrain/longhaul.json").read_text())
    assert record["stage"] == "pretrain"
    assert record["model_sha256"]
    assert len(Path("checkpoints/pretrain/loss.csv").read_text().splitlines()) == 4

    found = midtrain.midtrain(workplace, Reporter(None))
    assert {"value", "ci95", "n"} <= set(found["retrieval_accuracy"])
    assert 0 < found["indexer_captured_mass"]["worst_layer"] <= 1
    assert set(found["heldout_demonstration_loss"]) == {"shell", "chain", "repair"}
    Transformer.from_pretrained("checkpoints/midtrain")
    assert Path("checkpoints/midtrain/tokenizer.json").is_file()
    assert not list(Path(".longhaul").glob("state/*"))


def test_equal_weights_are_equal_files_and_data_whatever_the_commit(
    workplace: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for commit in ("first", "second"):
        monkeypatch.setattr(experiment, "git_commit", lambda commit=commit: commit)
        assert pretrain.main(["--params", str(ROOT / "params.yaml"), *(f"--set={value}" for value in SMALL)]) == 0
        hashes.append({path.name: file_digest(path) for path in Path("checkpoints/pretrain").iterdir()})
        assert recorded_run("pretrain")["git_commit"] == commit
        record = json.loads(Path("checkpoints/pretrain/longhaul.json").read_text())
        assert commit_of(client(), record) == commit
    assert hashes[0] == hashes[1]
    assert "longhaul.json" in hashes[0]


@pytest.mark.parametrize("stage", [pretrain, midtrain])
def test_a_killed_stage_counts_the_seconds_of_both_processes(
    stage: Any, workplace: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain.pretrain(workplace, Reporter(None))
    monkeypatch.setattr(stage, "Run", partial(Run, save_every=1))
    work = getattr(stage, stage.__name__.removeprefix("tasks."))

    last = {pretrain: 3, midtrain: 4}[stage]

    class Killed(Reporter):
        def log(self, step: int, metrics: object) -> None:
            if step == last:  # the step before it saved a state: it does not begin a phase
                raise KeyboardInterrupt

    monkeypatch.setattr(resume, "process_seconds", lambda: 40.0)
    with pytest.raises(KeyboardInterrupt):
        work(workplace, Killed(None))
    monkeypatch.setattr(resume, "process_seconds", lambda: 2.5)
    assert work(workplace, Reporter(None))["seconds"] == 42.5
    assert work(workplace, Reporter(None))["seconds"] == 2.5


def test_truncated_shard_leaves_nothing(workplace: Config) -> None:
    shard = Path("data/corpus/train-00000.bin")
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ShardError, match=r"train-00000\.bin is truncated or altered"):
        pretrain.pretrain(workplace, Reporter(None))
    assert not Path("checkpoints").exists()
    assert not Path("metrics").exists()


def test_altered_checkpoint_is_refused(workplace: Config) -> None:
    pretrain.pretrain(workplace, Reporter(None))
    weights = Path("checkpoints/pretrain/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        midtrain.midtrain(workplace, Reporter(None))
    assert not Path("checkpoints/midtrain").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_keeps_the_former_checkpoints(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(small)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    arguments = ["--params", str(ROOT / "params.yaml"), *(f"--set={value}" for value in SMALL)]
    assert pretrain.main(arguments) == 0
    assert midtrain.main(arguments) == 0
    before = contents(small / "checkpoints") | contents(small / "metrics")
    for stage in (pretrain, midtrain):
        for free in (0, 5_000, 20_000, 60_000, 200_000, 400_000):
            leave(small, free)
            capsys.readouterr()
            assert stage.main([*arguments, "--set=seed=2"]) == 1, free
            name = stage.__name__.removeprefix("tasks.")
            message = capsys.readouterr().err
            assert message.startswith(f"The disk is full: the stage '{name}' could not write below "), free
            assert message.count("\n") == 1, free
            assert contents(small / "checkpoints") | contents(small / "metrics") == before, free
    (small / "filling").unlink()
    assert pretrain.main([*arguments, "--set=seed=2"]) == 0


def test_missing_corpus_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain.main(["--params", str(ROOT / "params.yaml")]) == 2
    message = capsys.readouterr().err.strip()
    assert "data/corpus" in message
    assert message.count("\n") == 0
    assert not (tmp_path / "checkpoints").exists()
