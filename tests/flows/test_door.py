"""A deployment's failed run says one sentence."""

import asyncio
import inspect

import pytest

from flows.door import one_sentence
from flows.nightly import nightly_evaluation
from flows.pipeline import pipeline
from tasks.errors import InputError, MachineError


async def _work(error: Exception, more: int = 3) -> None:
    """Fails."""
    raise error


def test_sentences_pass_and_other_errors_become_one() -> None:
    with pytest.raises(InputError, match=r"^It is wrong\.$"):
        asyncio.run(one_sentence(_work)(InputError("It is wrong.")))
    with pytest.raises(
        MachineError, match=r"^The program _work failed unexpectedly \(KeyError: .* shows where\.$"
    ) as got:
        asyncio.run(one_sentence(_work)(KeyError("a\nb")))
    assert isinstance(got.value.__cause__, KeyError)


def test_a_decorated_flow_keeps_its_parameters() -> None:
    assert list(inspect.signature(one_sentence(_work)).parameters) == ["error", "more"]
    assert list(pipeline.parameters.properties) == ["overrides"]
    assert pipeline.validate_parameters({"overrides": ["seed=2"]}) == {"overrides": ["seed=2"]}
    assert list(nightly_evaluation.parameters.properties) == []
