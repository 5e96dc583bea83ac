"""The process group and DeepSpeed's import, for one process without a launcher as well as under torchrun."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from tasks.errors import MachineError
from tasks.launcher import ALONE, Launch, launched, settle

MEETING_SECONDS = 300.0  # from the first process of a group to the last
_BUILT_OP = "deepspeed_shm_comm"  # only for inference; compiling it takes a minute and a compiler


class GroupError(MachineError):
    """The processes that were to train together do not find each other or their devices."""


def start_process_group() -> None:
    """Joins a launcher's group (torchrun's), or makes a group of one. Does nothing where a group exists.

    Raises LauncherError for variables that fit no group, and GroupError where the others do not come.
    """
    if dist.is_initialized():
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    launch = launched()
    settle(launch)
    if launch is None:
        _stay_alone(backend)
    else:
        _join(backend, launch)
    atexit.register(_leave)


def _stay_alone(backend: str) -> None:
    """A group of one, on the loopback whatever this machine is called: its name need not lead anywhere."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # in memory: leaves no file
    except RuntimeError as error:
        if "gloo/transport" not in str(error):
            raise
        raise GroupError(
            "Training needs the loopback interface of this machine, which is missing or down: `ip link set lo up` as "
            "root starts it."
        ) from error


def _join(backend: str, launch: Launch) -> None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        print(
            f"[group] this is process {launch.rank} of {launch.ranks} by RANK and WORLD_SIZE of the environment; it "
            f"waits for the others at {launch.meeting}",
            flush=True,
        )
    try:
        store, rank, ranks = next(rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS)))
        dist.init_process_group(backend, store=dist.PrefixStore("longhaul", store), rank=rank, world_size=ranks)
    except (RuntimeError, ValueError, OSError) as error:
        raise GroupError(
            f"This is process {launch.rank} of {launch.ranks} by RANK and WORLD_SIZE of the environment, but the "
            f"others did not meet it at {launch.meeting} within {MEETING_SECONDS:.0f} s "
            f"({str(error).splitlines()[0][:200]}); {ALONE}."
        ) from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """The device of this rank. Raises GroupError where the machine has fewer GPUs than processes."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise GroupError(
            f"This process is number {number} on its machine by LOCAL_RANK, which has {there} GPU(s): start as many "
            "processes a machine as it has GPUs."
        )
    return torch.device("cuda", number)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what child processes print: DeepSpeed's import probes the linker for libraries nobody needs here."""
    if "deepspeed" in sys.modules:
        yield
        return
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_deepspeed() -> ModuleType:
    """DeepSpeed without its banner lines, its compiled CPU op and its FutureWarnings."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # whatever the machine holds, this torch or process cannot use it
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with _quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed = importlib.import_module("deepspeed")
        operators = importlib.import_module("deepspeed.ops")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    operators.__compatible_ops__[_BUILT_OP] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    return deepspeed
