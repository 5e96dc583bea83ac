from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tasks import demonstrate
from tasks.config import Config, load_config
from tasks.curation.tokenizer import train
from tasks.environments import generate, registry
from tasks.environments.chat import Chat
from tasks.environments.warm_box import WarmBox, WarmBoxError

COUNTS = ["demonstrate.counts={shell: 40, chain: 20, repair: 40}", "demonstrate.heldout=10"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Read here, used in a folder of the test's own: metrics/ of the repository is not a test's to write."""
    found = load_config("params.yaml", COUNTS)
    monkeypatch.chdir(tmp_path)
    return found


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_runs_write_the_same_bytes(config: Config, tmp_path: Path) -> None:
    for name in ("first", "second"):
        demonstrate.run(config, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["chain.jsonl", "heldout.jsonl", "manifest.json", "repair.jsonl", "shell.jsonl"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "metrics", "second"]


def test_the_manifest_describes_the_files(config: Config, tmp_path: Path) -> None:
    demonstrate.run(config, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    shell = lines(tmp_path / "out/shell.jsonl")
    assert len(shell) == manifest["families"]["shell"]["demonstrations"] == 40
    assert {demonstration["split"] for demonstration in shell} == {"train"}
    assert {row["split"] for row in lines(tmp_path / "out/heldout.jsonl")} == {"heldout"}
    listed = [row["task_id"] for row in lines(tmp_path / "out/heldout.jsonl")]
    assert len(listed) == len(set(listed)) == len(demonstrate.heldout_tasks(config))
    for use, tasks in (("monitoring", config.reinforce.evaluation), ("evaluation", config.evaluate.tasks)):
        for family, count in tasks.items():
            assert {task.id for task in registry.heldout(family, use, count)} <= set(listed)
    assert 0.2 < manifest["families"]["shell"]["success"] < 0.9


def test_commands_are_really_run_and_leave_nothing_behind() -> None:
    task = generate("shell", 3, "train")
    with WarmBox() as box:
        first = demonstrate.demonstrate(task, ("cat nothing.txt", "touch left.over"), box)
        assert first["turns"][0] == {
            "command": "cat nothing.txt", "output": "cat: nothing.txt: No such file or directory\n", "exit_code": 1,
        }  # fmt: skip
        assert not first["success"]
        second = demonstrate.demonstrate(task, ("ls -A", *task.solution), box)
        assert second["success"]
        assert "left.over" not in second["turns"][0]["output"]


def test_the_warm_box_prints_what_the_sandbox_prints() -> None:
    from tasks.sandbox import Limits, open_sandbox

    commands = ("cat a.txt b.txt", "wc -l < b.txt > c", "sort box > o", "rm nope", "nope", "mv a.txt", "cut -f 1 a.txt")
    tokenizer = train([*commands, "abcdefgh" * 9], 261)
    chat = Chat(tokenizer, max_observation_bytes=1000)
    files = {"a.txt": "x y\n", "box/c.txt": "q\n"}
    with WarmBox() as warm, open_sandbox("bubblewrap", Limits()) as factory, factory.box(files) as fresh:
        warm.reset(files)
        for command in commands:
            result = fresh.run(command)
            seen = chat.observation_text(result.output, result.exit_code)
            assert chat.observation_text(*warm.run(command)) == seen


def test_the_mask_of_a_shell_is_no_part_of_a_demonstration() -> None:
    """The same parameters give the same bytes."""
    seen = set()
    for mask in (0o000, 0o022, 0o077, 0o777):
        before = os.umask(mask)
        try:
            with WarmBox() as box:
                box.reset({"a": "x", "deep/b": "y"})
                seen.add(box.run("mkdir c; echo >d; stat -c %a a deep deep/b c d; cat deep/b"))
        finally:
            os.umask(before)
    assert seen == {("644\n755\n644\n755\n644\ny", 0)}


def test_a_bubblewrap_that_refuses_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    monkeypatch.setattr("tasks.environments.warm_box.shutil.which", lambda name: str(program))
    for text, sentence in [
        ("#!/bin/sh\necho 'bwrap: Unknown option --clearenv' >&2; exit 1\n", "it said: bwrap: Unknown option"),
        ("no program\n", "could not be started: Exec format error"),
    ]:
        program.write_text(text)
        program.chmod(0o755)
        with pytest.raises(WarmBoxError, match=sentence):
            WarmBox()


def test_no_bubblewrap_is_one_sentence_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.environments.warm_box.shutil.which", lambda name: None)
    with pytest.raises(WarmBoxError, match="bwrap was not found"):
        WarmBox()
    monkeypatch.setattr(demonstrate, "OUT", tmp_path / "data")
    monkeypatch.setattr(demonstrate, "run", lambda config: WarmBox())
    assert demonstrate.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "data").exists()
