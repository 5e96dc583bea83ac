"""Parts: made once, and again under another name when what they depend on changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model import Transformer
from tasks.benchmarks.dsa.parts import Parts, definition_hash
from tests.tasks.benchmarks.dsa import tiny


def test_a_part_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, Any]:
        calls.append(1)
        return {"value": len(calls)}

    first = Parts(tmp_path).measured("a/b", {"rate": 0.1}, work)
    again = Parts(tmp_path).measured("a/b", {"rate": 0.1}, work)
    assert (first.result, again.result, len(calls)) == ({"value": 1}, {"value": 1}, 1)
    other = Parts(tmp_path).measured("a/b", {"rate": 0.2}, work)
    assert (other.result, other.key == first.key) == ({"value": 2}, False)
    assert len(list(tmp_path.glob("a/b-*.json"))) == 2


def test_the_hash_sees_every_value_and_no_order() -> None:
    assert definition_hash({"a": 1, "b": {"c": [1, 2]}}) == definition_hash({"b": {"c": [1, 2]}, "a": 1})
    assert definition_hash({"a": 1, "b": {"c": [1, 2]}}) != definition_hash({"a": 1, "b": {"c": [2, 1]}})


def test_an_interrupted_part_is_made_again(tmp_path: Path) -> None:
    def work() -> tuple[Transformer, dict[str, Any]]:
        return tiny.transformer(), {"steps": 3}

    def killed() -> tuple[Transformer, dict[str, Any]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path).trained("net", {}, killed)
    assert not list(tmp_path.glob("*.json"))
    part = Parts(tmp_path).trained("net", {}, work)
    loaded = part.network().state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in tiny.transformer().state_dict().items())


def test_seconds_count_each_part_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    spent = [parts.measured("a", {}, dict).seconds for _ in range(3)]
    assert parts.seconds == spent[0]
