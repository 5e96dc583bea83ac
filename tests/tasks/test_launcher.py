"""A launcher's variables, and what shells and batch systems leave of them."""

import os
import subprocess
import sys

import pytest
import torch

from tasks.launcher import Launch, LauncherError, launched, settle
from tasks.training import distributed

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


def leave(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (*WHOLE, "OMPI_COMM_WORLD_LOCAL_RANK"):
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


def test_a_launcher_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, WHOLE | {"OMPI_COMM_WORLD_LOCAL_RANK": "0"})
    found = launched()
    assert found == Launch(1, 4, 1, "node7:29500")
    settle(found)
    assert {name: os.environ[name] for name in WHOLE} == WHOLE
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_left_of_one_makes_no_group(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, {name: value for name, value in WHOLE.items() if name != missing})
    assert launched() is None
    settle(None)
    assert os.environ["LOCAL_RANK"] == "0"
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "4"), ("RANK", "-1"), ("RANK", "x"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "two"), ("WORLD_SIZE", "9" * 99),
     ("MASTER_PORT", "abc"), ("MASTER_PORT", "70000"), ("LOCAL_RANK", "1.5"), ("LOCAL_RANK", "4"), ("RANK", "\u0661")],
)  # fmt: skip
def test_variables_that_fit_no_group_are_one_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, WHOLE | {name: value})
    with pytest.raises(LauncherError, match=rf"The variable {name} of the environment is .*env -u WORLD_SIZE.*alone\."):
        launched()


def test_a_group_of_one_needs_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, WHOLE | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "x"})
    assert launched() is None


PROGRAM = """
from tasks.training import distributed
distributed.MEETING_SECONDS = 2.0
try:
    distributed.start_process_group()
    print(distributed.rank(), distributed.ranks())
except distributed.GroupError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MASTER_ADDR": "node7"}, "0 1"),
        ({"RANK": "3", "LOCAL_RANK": "x", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "0 1"),
        (WHOLE | {"WORLD_SIZE": "1"}, "0 1"),
        (
            WHOLE | {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29613"},
            "did not meet it at 127.0.0.1:29613",
        ),
        (WHOLE | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29614"}, "did not meet it at 127.0.0.1:29614"),
    ],
)
def test_a_program_alone_or_of_a_group_that_nobody_else_joins(variables: dict[str, str], said: str) -> None:
    left = {name: value for name, value in os.environ.items() if name not in WHOLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=left | variables, capture_output=True, text=True, check=False
    )
    assert said in done.stdout.splitlines()[-1], done.stderr
    assert done.stdout.splitlines()[-1].endswith(("alone.", "0 1"))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU does")
def test_an_accelerator_that_torch_cannot_use_is_not_asked_for() -> None:
    """As a machine with a GPU and torch's CPU build names it."""
    program = (
        "from tasks.training.distributed import import_deepspeed; import_deepspeed();"
        "from deepspeed.accelerator import get_accelerator; print(get_accelerator().device_name())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"DS_ACCELERATOR": "cuda"}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "cpu", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a machine without a network")
@pytest.mark.parametrize(("start", "said"), [("hostname nowhere.invalid; ip link set lo up", "0 1"), (":", "`ip link")])
def test_a_machine_whose_name_leads_nowhere_or_without_a_loopback(start: str, said: str) -> None:
    words = ["unshare", "-un", "sh", "-c", f'{start}; exec "$@"', "sh", sys.executable, "-c", PROGRAM]
    left = {name: value for name, value in os.environ.items() if name not in WHOLE}
    done = subprocess.run(words, env=left, capture_output=True, text=True, check=False)
    assert said in done.stdout.splitlines()[-1], done.stderr
    assert "resolve hostname" not in done.stderr


def test_more_processes_than_gpus_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(distributed.GroupError, match=r"number 1 on its machine by LOCAL_RANK, which has 1 GPU"):
        distributed.device()
