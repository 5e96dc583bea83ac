"""C kernels for the CPU: compiled on first use, cached, and optional.

A machine without a C compiler, or `LONGHAUL_NATIVE=0` in the environment, gets the plain PyTorch reference instead;
both compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

# Of -ffast-math what lets loops become vectors. All of it would link start-up code that flushes subnormal numbers to
# zero in the whole process, in torch and Python too.
VECTORS = ("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math")
FLAGS = ("-O3", "-march=native", *VECTORS, "-std=c11", "-shared", "-fPIC")


@lru_cache
def library(source: Path, **constants: int) -> ctypes.CDLL | None:
    """The shared library of a C file compiled with -Dname=value constants; None where that is impossible."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("LONGHAUL_NATIVE") == "0":
        return None
    defines = [f"-D{name}={value}" for name, value in sorted(constants.items())]
    key = hashlib.sha256(source.read_bytes() + repr((FLAGS, defines, compiler, _processor())).encode()).hexdigest()
    path = _cache_folder() / f"{source.stem}-{key[:24]}.so"
    if not path.exists() and not _compile(compiler, source, defines, path):
        return None
    return ctypes.CDLL(str(path))


def _compile(compiler: str, source: Path, defines: list[str], path: Path) -> bool:
    """Compiles to a temporary name, then moves it into place: processes may race. False when the compiler fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as draft:
        command = [compiler, *FLAGS, *defines, str(source), "-o", draft.name, "-lm"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        os.unlink(draft.name)
        return False
    os.replace(draft.name, path)
    return True


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longhaul" / "kernels"


def _processor() -> str:
    """-march=native binds a library to the processor's features: they are part of the cache key."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    features = [line for line in lines if line.startswith(("flags", "Features"))] or lines
    return platform.machine() + features[0]


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """The address of a contiguous CPU tensor's first element."""
    return ctypes.c_void_p(tensor.data_ptr())


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="native")


def parallel(count: int, work: Callable[[int, int], None]) -> None:
    """Calls work(begin, end) on ranges that together are range(count), on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    bounds = [count * i // threads for i in range(threads + 1)] if threads else [0]
    if threads <= 1:
        work(0, count)
        return
    futures = [_pool(threads - 1).submit(work, a, b) for a, b in pairwise(bounds[1:])]
    work(bounds[0], bounds[1])
    for future in futures:
        future.result()
