"""The work of each stage; `python -m tasks.<stage>` runs one."""

import ctypes
import os
import sys

from tasks.addresses import bypass_proxies

# Threads that spin while they wait slow each other down ten-fold when several programs share the cores, as rollout,
# judge and learner do. OpenMP reads this when torch is imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # names of glibc's mallopt(3)


def _keep_freed_memory() -> None:
    """A training step frees and allocates the same large tensors again; their pages need not be faulted in anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries have none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # glibc takes no more
        mallopt(_TRIM_THRESHOLD, 1 << 30)


_keep_freed_memory()
bypass_proxies()

if sys.argv[:1] == ["-m"]:  # `python -m tasks.<program>` looks for its module, whose imports may fail too
    from tasks.cli import guard_imports

    guard_imports()
