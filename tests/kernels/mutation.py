"""Breaks a kernel on purpose, to prove that its tests would notice."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def mutated(module: ModuleType, kernel: str, old: str, new: str, folder: Path) -> ModuleType:
    """The module with `old`, which must stand in the function `kernel`, replaced by `new` there."""
    source = Path(str(module.__file__)).read_text()
    before, start, rest = source.partition(f"\ndef {kernel}(")
    body, end, after = rest.partition("\n\n\n")
    assert start, f"{module.__name__} has no function {kernel}"
    assert old in body, f"{kernel} does not contain {old!r}"
    file = folder / "mutant.py"
    file.write_text(before + start + body.replace(old, new) + end + after)
    spec = importlib.util.spec_from_file_location("mutant", file)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    sys.modules["mutant"] = mutant
    spec.loader.exec_module(mutant)
    return mutant


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, kernel: str, old: str, new: str, folder: Path
) -> None:
    """`check(module)` passes for the module as it is and fails for the mutant."""
    check(module)
    with pytest.raises(AssertionError):
        check(mutated(module, kernel, old, new, folder))
