"""What a deployment's run says when it fails: one sentence in its state's message, as a program says it on stderr."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from tasks.cli import ending
from tasks.errors import MachineError

Given = ParamSpec("Given")
Result = TypeVar("Result")


def one_sentence(work: Callable[Given, Coroutine[Any, Any, Result]]) -> Callable[Given, Coroutine[Any, Any, Result]]:
    """Decorates a flow's function: an error that is no sentence of ours yet becomes one; the first is its cause."""

    @functools.wraps(work)
    async def run(*arguments: Given.args, **settings: Given.kwargs) -> Result:
        try:
            return await work(*arguments, **settings)
        except Exception as error:
            if isinstance(getattr(error, "exit_status", None), int):
                raise
            raise MachineError(ending(error, work.__name__)[1]) from error

    # Prefect looks annotations that are text up among this module's names, where the flow's own are not.
    vars(run)["__signature__"] = inspect.signature(work, eval_str=True)
    return run
