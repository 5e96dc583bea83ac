"""C and C++ for the CPU: compiled on first use, cached, and optional.

A machine that cannot build or load them gets the plain PyTorch reference instead, which computes the same, and one
warning that says why; `LONGHAUL_NATIVE=0` in the environment asks for the reference.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

# Of -ffast-math what lets loops become vectors. All of it would link start-up code that flushes subnormal numbers to
# zero in the whole process, in torch and Python too.
VECTORS = ("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math")
# Standard C alone forbids a product and a sum to become one instruction.
FLAGS = ("-O3", "-march=native", *VECTORS, "-std=c11", "-ffp-contract=fast")
_SHARED = ("-shared", "-fPIC")
_COMPILERS = {".c": ("CC", "cc"), ".cpp": ("CXX", "g++")}  # by the source's suffix: environment variable, default


class BuildError(RuntimeError):
    """Why a library cannot be built here: a clause, for the middle of a sentence."""


class _NoPlace(BuildError):
    """There is no cache: the private folder is another matter."""


@lru_cache
def library(source: Path, **constants: int) -> ctypes.CDLL | None:
    """The shared library of a C file compiled with -Dname=value constants; None where that is impossible."""
    return build(source, FLAGS, tuple(f"-D{name}={value}" for name, value in sorted(constants.items())))


@lru_cache
def build(
    source: Path, flags: tuple[str, ...], defines: tuple[str, ...] = (), headers: tuple[Path, ...] = ()
) -> ctypes.CDLL | None:
    """The shared library of a C or C++ file; None, and one warning in the process, where this machine has none.

    headers are the files of ours that the source includes: the library is built anew when they change.
    """
    if os.environ.get("LONGHAUL_NATIVE") == "0":
        return None
    reasons: list[BuildError | OSError] = []
    for folder in (_cache_folder, _private_folder):
        try:
            return _loaded(folder, source, flags, defines, headers)
        except (BuildError, OSError) as error:
            reasons.append(error)
    # The second folder's reason where there is no first; else the first's, of which the second's is a repetition.
    reason = reasons[-1] if isinstance(reasons[0], _NoPlace) else reasons[0]
    _warn(f"Plain PyTorch, which is slower, does the work of compiled code here because {reason}.")
    return None


@lru_cache
def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)


def _loaded(
    folder: Callable[[], Path], source: Path, flags: Sequence[str], defines: Sequence[str], headers: Sequence[Path]
) -> ctypes.CDLL:
    """The library out of that folder, built there where it is not yet, and anew where it is damaged."""
    command, name = _plan(source, flags, defines, headers)
    path = folder() / name
    if path.is_file():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(path))
    _compile([*command, str(source)], path)
    return ctypes.CDLL(str(path))


def _plan(source: Path, flags: Sequence[str], defines: Sequence[str], headers: Sequence[Path]) -> tuple[list[str], str]:
    """The compiler's command, without the source, and the library's name: a hash of all that it depends on."""
    command = [*_compiler(source.suffix), *flags, *_SHARED, *defines]
    content = [path.read_bytes() for path in (source, *headers)]
    key = hashlib.sha256(repr((content, command, torch.__version__, _processor())).encode()).hexdigest()
    return command, f"{source.parent.name}-{source.stem}-{key[:24]}.so"


def _compiler(suffix: str) -> list[str]:
    variable, default = _COMPILERS[suffix]
    try:
        words = shlex.split(os.environ.get(variable, "")) or [default]
    except ValueError as error:
        raise BuildError(f"the variable {variable} of the environment is no command ({error})") from error
    program = shutil.which(words[0])
    if program is None:
        raise BuildError("there is no C and C++ compiler (install gcc and g++)")
    return [program, *words[1:]]


def _compile(command: Sequence[str], path: Path) -> None:
    """Compiles to a temporary name, then moves it into place: processes may race."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        done = subprocess.run(
            [*command, "-o", str(draft), "-lm"], env={**os.environ, "TMPDIR": folder}, capture_output=True, check=False
        )
        if done.returncode:
            reason = " ".join(done.stderr.decode(errors="replace").split())[:400].rstrip(".")
            raise BuildError(f"the compiler {command[0]} failed with code {done.returncode}: {reason}")
        os.replace(draft, path)


def _cache_folder() -> Path:
    """Below XDG_CACHE_HOME or ~/.cache, written or only read. What is not absolute is no place."""
    roots = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    folder = next((Path(root, "longhaul", "native") for root in roots if os.path.isabs(root)), None)
    if folder is None:
        raise _NoPlace("this user has no home")
    if not folder.is_dir() and not _is_writable(folder):
        raise _NoPlace(f"the cache {folder} cannot be written")
    return folder


def _is_writable(folder: Path) -> bool:
    """Tried, not asked: permissions say nothing of read-only file systems, nor to root."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> Path:
    """A folder for temporary files that nobody else can put a library into. Raises BuildError where another did."""
    folder = Path(tempfile.gettempdir(), f"longhaul-native-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()  # not stat: a link may lead anywhere
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise BuildError(f"the cache cannot be written and the folder {folder} is not private to this user")
    return folder


def _processor() -> tuple[str, ...]:
    """-march=native binds a library to the processor: its model and features are part of the name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else [platform.processor()]
    kinds = ("model name", "flags", "Features")
    return platform.machine(), *(next((line for line in lines if line.startswith(kind)), "") for kind in kinds)


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
