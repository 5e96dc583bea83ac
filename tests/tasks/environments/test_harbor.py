from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tasks.environments import TaskError, families, generate
from tasks.environments.harbor import read_task, write_task
from tasks.environments.task import SPLITS


@pytest.mark.parametrize("name", families())
def test_a_task_survives_the_folder(name: str, tmp_path: Path) -> None:
    for split in SPLITS:
        for seed in range(15):
            task = generate(name, seed, split)
            assert read_task(write_task(task, tmp_path)) == task


def test_the_folder_has_the_layout(tmp_path: Path) -> None:
    folder = write_task(generate("repair", 1, "train"), tmp_path)
    parts = (
        "instruction.md",
        "environment/Dockerfile",
        "environment/files/fix.py",
        "tests/test.sh",
        "solution/solve.sh",
    )
    for name in parts:
        assert (folder / name).is_file(), name
    settings = tomllib.loads((folder / "task.toml").read_text())
    assert settings["environment"]["allow_internet"] is False
    assert settings["verifier"]["timeout_sec"] > 0


@pytest.mark.parametrize("name", families())
def test_the_folders_own_script_rewards_the_solution_only(name: str, tmp_path: Path) -> None:
    task = generate(name, 2, "heldout")
    folder = write_task(task, tmp_path)
    places = {"/tests": folder / "tests", "/work": tmp_path / "work", "/logs": tmp_path / "logs"}
    for path in (folder / "tests").iterdir():
        text = path.read_text()
        for place, real in places.items():
            text = text.replace(place, str(real))
        path.write_text(text)
    shutil.copytree(folder / "environment/files", places["/work"])
    rewards = []
    for commands in ((), task.solution):
        for command in commands:
            subprocess.run(["bash", "-c", command], cwd=places["/work"], check=True)
        subprocess.run(["bash", str(folder / "tests/test.sh")], check=True, capture_output=True)
        rewards.append((places["/logs"] / "verifier/reward.txt").read_text())
    assert rewards == ["0\n", "1\n"]


def test_writing_twice_leaves_one_folder(tmp_path: Path) -> None:
    task = generate("shell", 1, "train")
    write_task(task, tmp_path)
    write_task(task, tmp_path)
    assert os.listdir(tmp_path) == [task.id]


def test_a_folder_without_its_parts_is_refused(tmp_path: Path) -> None:
    folder = write_task(generate("shell", 1, "train"), tmp_path)
    (folder / "task.toml").write_text("[task]\nname = 'x'\n")
    with pytest.raises(TaskError, match="is not a task in the Harbor layout: 'metadata'"):
        read_task(folder)
