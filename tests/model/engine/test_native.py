"""The compiled step on a machine that cannot compile it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import native as builder
from model.engine import Engine, EngineError, Request
from model.engine.reference import ReferenceStep
from tests.model.engine.conftest import build, run


def test_without_a_compiler_the_reference_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    builder._warn.cache_clear()
    transformer = build(0, vocab_size=67)  # a shape that no other test has compiled
    with pytest.warns(RuntimeWarning, match="there is no C and C"):
        engine = Engine(transformer, 2, 16)
    assert isinstance(engine._forward, ReferenceStep)
    assert len(run(engine, [Request("a", "a", [1, 2], 3)])["a"].token_ids) == 3
    with pytest.raises(EngineError, match=r"cannot be built or is switched off here\.$"):
        Engine(transformer, 2, 16, native=True)
