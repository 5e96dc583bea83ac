"""The one door of every program: its command line, and the one sentence and exit status it ends with.

A `main` is decorated with `program(name)` and parses with `Parser`. Exit status: 0 done, 2 the person's mistake
(bad arguments, parameters, files), 1 the machine's failure or a fault of ours, 130 interrupted. A traceback is
shown with `--debug`, or with LONGHAUL_DEBUG=1, which the programs that a program starts inherit.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tasks.disk import is_full, sentence
from tasks.errors import FAILURE, MISTAKE

DEBUG = "LONGHAUL_DEBUG"
INTERRUPTED = 130
LONGEST = 600  # characters of a library's message that a sentence repeats

Main = Callable[..., int | None]


class _Debug(argparse.Action):
    """Sets LONGHAUL_DEBUG, for this program and those it starts."""

    def __call__(self, *_: Any) -> None:
        os.environ[DEBUG] = "1"


class Parser(argparse.ArgumentParser):
    """An argparse parser with `--debug` whose errors are one sentence and exit status 2."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.add_argument("--debug", action=_Debug, nargs=0, help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Ends the program: one sentence, exit status 2."""
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help.\n")


def program(name: str) -> Callable[[Main], Callable[..., int]]:
    """Decorates a `main`: it returns an exit status and raises nothing, whatever went wrong inside."""

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            try:
                return main(argv) or 0
            except BrokenPipeError:
                return _nobody_reads()
            except (Exception, KeyboardInterrupt) as error:
                if os.environ.get(DEBUG):
                    traceback.print_exc()
                status, words = ending(error, name)
                print(words, file=sys.stderr, flush=True)
                return status

        return run

    return decorate


def ending(error: BaseException, name: str) -> tuple[int, str]:
    """(exit status, one sentence) of the program `name` for what it was stopped by."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"{name} was interrupted; the same command goes on from here."
    if is_full(error):
        return FAILURE, sentence(error, name)
    status = getattr(error, "exit_status", None)
    if status is not None:
        return status, one_line(str(error))
    if isinstance(error, MemoryError):
        return FAILURE, f"{name} ran out of memory."
    if isinstance(error, OSError):
        return FAILURE, f"{name} was refused by the operating system: {_said(error)}."
    return FAILURE, f"{name} failed unexpectedly ({type(error).__name__}: {_said(error)}); --debug shows where."


def one_line(text: str) -> str:
    """The message on one line, without control characters, cut where it is endless."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return flat if len(flat) <= LONGEST else f"{flat[:LONGEST]}..."


def _said(error: BaseException) -> str:
    return one_line(str(error)).rstrip(".") or "no message"


def _nobody_reads() -> int:
    """The reader of our output is gone (`| head`): nothing is left to say, to anyone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILURE
