"""Every stage on a full disk: one sentence, exit status 1, and what was there stays."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import save_tensors
from tasks import demonstrate, disk, evaluate
from tasks.config import ConfigError
from tasks.rl import results
from tasks.rl.errors import exit_status
from tasks.rl.policy import PolicyStore
from tasks.tracking.experiment import recorded_run
from tasks.tracking.metrics import write_metrics
from tasks.training.engine import Trainer
from tests.tasks.small_disk import contents, leave
from tests.tasks.training import tiny

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("The learner worker stopped: [Errno 28] No space left on device."),
        caused(ValueError("another error"), FULL),
    ],
)
def test_a_full_disk_is_known_by_number_word_and_cause(error: Exception) -> None:
    assert disk.is_full(error)
    assert disk.sentence(error, "s", Path("field")) == "The disk is full: the stage 's' could not write below field."


def test_words_that_a_person_wrote_are_no_full_disk() -> None:
    assert not disk.is_full(ConfigError("The key 'promote.name' is 'no space left on device', which is no name."))


def test_the_sentence_names_the_folder_that_the_error_names() -> None:
    named = OSError(errno.ENOSPC, "", "checkpoints/pretrain")
    assert disk.sentence(caused(ValueError(), named), "sow").endswith("could not write below checkpoints.")
    assert disk.sentence(FULL, "sow").endswith(f"could not write below {Path.cwd()}.")
    assert disk.sentence(ConfigError("The key 'x' is wrong."), "sow") == "The key 'x' is wrong."


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "stage"

    def write(text: str, error: Exception | None = None) -> None:
        with disk.replacing(folder) as draft:
            (draft / "file").write_text(text)
            if error:
                raise error

    write("first")
    write("second")
    with pytest.raises(OSError, match=r"results/stage"):
        write("third", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert contents(folder.parent) == {"stage/file": b"second"}


def test_an_optimizer_state_that_does_not_fit_leaves_the_former(small: Path) -> None:
    trainer = Trainer(tiny.transformer(), tiny.phases()[0].optimizer)
    folder = small / "state" / "step-1"
    trainer.save(folder, {"curve": []})
    before = contents(folder)
    for free in (0, 20_000, 100_000):
        leave(small, free)
        with pytest.raises(OSError, match=r"state/step-1'$") as caught:
            trainer.save(folder, {"curve": [1]})
        assert caught.value.errno == errno.ENOSPC
        assert contents(folder) == before
        assert [path.name for path in folder.parent.iterdir()] == ["step-1"]
    leave(small, 4_000_000)
    trainer.save(folder, {"curve": []})
    assert trainer.load(folder) == {"curve": []}


def test_a_checkpoint_that_does_not_fit_leaves_the_former(small: Path) -> None:
    network = tiny.transformer()
    network.save_pretrained("checkpoints/tiny")
    before = contents(small / "checkpoints")
    for free in (0, 20_000):
        leave(small, free)
        with pytest.raises(OSError, match="checkpoints/tiny") as caught:
            network.save_pretrained("checkpoints/tiny", {"tokenizer.json": bytes(10**6)})
        assert caught.value.errno == errno.ENOSPC
        assert contents(small / "checkpoints") == before


def test_tensors_and_policies_fail_as_files_do(small: Path) -> None:
    store = PolicyStore(small / "policies")
    leave(small, 50_000)
    with pytest.raises(OSError, match="big"):
        save_tensors({"x": torch.zeros(10**6)}, small / "big")
    assert exit_status(lambda: store.publish(tiny.transformer(), 0)) == 1
    assert store.versions() == []


def test_the_metrics_file_stays(small: Path) -> None:
    write_metrics(small / "metrics/stage.json", {"value": 1})
    leave(small, 0)
    with pytest.raises(OSError, match="No space left"):
        write_metrics(small / "metrics/stage.json", {"value": [2] * 10_000})
    assert [path.name for path in (small / "metrics").iterdir()] == ["stage.json"]
    assert json.loads((small / "metrics/stage.json").read_text()) == {"value": 1}


def test_demonstrate_keeps_what_was_there(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--set", "demonstrate.counts={shell: 40, chain: 20, repair: 40}", "--set", "demonstrate.heldout=10"]
    arguments = ["--params", str(Path(__file__).parents[2] / "params.yaml"), *few]
    assert demonstrate.main(arguments) == 0
    assert recorded_run("demonstrate")["status"] == "FINISHED"
    before = contents(small / "data")
    leave(small, 8_000)
    capsys.readouterr()
    assert demonstrate.main([*arguments, "--set", "seed=2"]) == 1
    assert capsys.readouterr().err == "The disk is full: the stage 'demonstrate' could not write below data.\n"
    assert contents(small / "data") == before


def test_results_of_evaluate_and_reinforce_stay(small: Path) -> None:
    history: list[dict[str, Any]] = [{"step": 0, "reward": 0.5, "entropy": 1.0, "staleness": 0}]

    def write() -> None:
        evaluate.write_results(Path("results/evaluate"), [], [], [], lambda ids: "")
        results.write_results(Path("results/reinforce"), history, {})

    write()
    before = contents(small / "results")
    leave(small, 8_000)
    with pytest.raises(OSError, match="results/reinforce") as caught:
        write()
    expected = "The disk is full: the stage 'reinforce' could not write below results."
    assert disk.sentence(caught.value, "reinforce") == expected
    assert contents(small / "results") == before


@pytest.mark.parametrize("error", [FULL, caused(RuntimeError("The tracking store failed."), FULL)])
def test_evaluate_says_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)  # the stage holds the folder it works in
    monkeypatch.setattr(evaluate, "run", full)
    assert evaluate.main(["--params", str(Path(__file__).parents[2] / "params.yaml")]) == 1
    expected = f"The disk is full: the stage 'evaluate' could not write below {Path.cwd()}.\n"
    assert capsys.readouterr().err == expected
