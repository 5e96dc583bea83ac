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
from types import ModuleType

import torch
import torch.distributed as dist

_BUILT_OP = "deepspeed_shm_comm"  # only for inference; compiling it takes a minute and a compiler


def start_process_group() -> None:
    """Joins torchrun's group, or makes a group of one. Does nothing where a group exists."""
    if dist.is_initialized():
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it even without a launcher
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # in memory: leaves no file
    atexit.register(_leave)


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
    """The device of this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


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
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with _quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed = importlib.import_module("deepspeed")
        operators = importlib.import_module("deepspeed.ops")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    operators.__compatible_ops__[_BUILT_OP] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    return deepspeed
