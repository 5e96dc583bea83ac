"""Other tilings of a kernel, without its launcher's help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kernels.bench.entry import Sweep


class _Replaced:
    """A kernel that is launched with some of its options replaced."""

    def __init__(self, kernel: Any, options: Mapping[str, int]) -> None:
        self.kernel, self.options = kernel, options

    def __getitem__(self, grid: Any) -> Any:
        launch = self.kernel[grid]
        return lambda *args, **kwargs: launch(*args, **{**kwargs, **self.options})


@contextmanager
def tiled(sweep: Sweep, options: Mapping[str, int]) -> Iterator[None]:
    """Inside, `sweep.kernel` is launched with `options`: only such as its grid does not depend on."""
    module = import_module(sweep.module)
    kernel = getattr(module, sweep.kernel)
    setattr(module, sweep.kernel, _Replaced(kernel, options))
    try:
        yield
    finally:
        setattr(module, sweep.kernel, kernel)
