"""The one door of every program: its command line, and the one sentence and exit status it ends with.

A `main` is decorated with `program(name)` and parses with `Parser`. Exit status: 0 done, 2 the person's mistake
(bad arguments, parameters, files), 1 the machine's failure or a fault of ours, 130 interrupted. A traceback is
shown with `--debug`, or with LONGHAUL_DEBUG=1, which the programs that a program starts inherit.
"""

from __future__ import annotations

import argparse
import errno
import functools
import io
import math
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TextIO

from tasks.disk import is_full, sentence
from tasks.errors import FAILURE, MISTAKE
from tasks.machine import hold_standard_streams

DEBUG = "LONGHAUL_DEBUG"
INTERRUPTED = 130
LONGEST = 600  # characters of a message that a sentence repeats

OURS = "Plain PyTorch, which is slower"  # how the warning of kernels.native begins

Main = Callable[..., int | None]


class _Debug(argparse.Action):
    """Sets LONGHAUL_DEBUG, for this program and those it starts, and lets warnings through."""

    def __call__(self, *_: Any) -> None:
        os.environ[DEBUG] = "1"
        warnings.simplefilter("default")


class Parser(argparse.ArgumentParser):
    """An argparse parser with `--debug`, without abbreviations, whose errors are one sentence and exit status 2."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})
        if self.add_help:  # one that lends its arguments to another parser has no switches of its own
            self.add_argument("--debug", action=_Debug, nargs=0, help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Ends the program: one sentence, exit status 2."""
        said = one_line(message).rstrip(".")
        _say(f"The command line of `{self.prog}` cannot be used: {said}; `{self.prog} --help` shows how.")
        raise SystemExit(MISTAKE)


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        digits = text.strip().removeprefix("-")
        if not digits.isdecimal() or len(digits) > 20 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """An argparse type: a finite number from 0 up."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 up")
    return value


def program(name: str, folder: Path | None = None) -> Callable[[Main], Callable[..., int]]:
    """Decorates a `main`: it returns an exit status and raises nothing but SystemExit, whatever went wrong inside.

    folder: what a full disk's sentence names as written; None takes the folder that the error names.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            try:
                with _streams():
                    return main(argv) or 0
            except (Exception, KeyboardInterrupt) as error:
                if isinstance(error, BrokenPipeError) and _nobody_reads():
                    _drop(sys.stdout)
                    return FAILURE  # the reader of our output is gone (`| head`): nothing is left to say, to anyone
                return _end(error, name, folder, sys.argv[1:] if argv is None else argv)

        return run

    return decorate


def ending(error: BaseException, name: str, folder: Path | None = None, argv: Sequence[str] = ()) -> tuple[int, str]:
    """(exit status, one sentence) of the program `name` for what it was stopped by.

    argv: a file that the operating system refuses is the person's mistake where the command line names it.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"The program {name} was interrupted; the same command starts it again."
    if is_full(error):
        return FAILURE, one_line(sentence(error, name, folder))
    status = getattr(error, "exit_status", None)
    if isinstance(status, int):
        return status, one_line(str(error)) or f"The program {name} cannot go on ({type(error).__name__})."
    if isinstance(error, OSError) and error.errno not in _SHORTAGES:
        named = _names(error, argv)
        return (MISTAKE if named else FAILURE), _refused(error, name)
    return FAILURE, f"The program {name} {_what_failed(error)}."


def guard_imports() -> None:
    """From here on an error that no `main` sees, as in an import that is interrupted, is one sentence as well."""

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if debugging():
            traceback.print_exception(kind, error, trace)
        place = Path(sys.argv[0])
        _say(ending(error, place.parent.name if place.stem == "__main__" else place.stem.strip("-"))[1])

    sys.excepthook = say


def debugging() -> bool:
    """Whether tracebacks are asked for."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def one_line(text: str) -> str:
    """The message on one line that ends as a sentence does, without control characters, cut where it is endless."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(flat) > LONGEST:
        return f"{flat[:LONGEST]}..."
    return flat if not flat or flat[-1] in ".!?" else f"{flat}."


_SHORTAGES = {
    errno.EMFILE: "had more files open than the system lets it; `ulimit -n` shows and sets the limit",
    errno.ENFILE: "found no file handle left on this machine",
    errno.ENOMEM: "ran out of memory",
    errno.EAGAIN: "could start no other process or thread; `ulimit -u` shows the limit",
}
_NO_MEMORY = ("can't allocate memory", "out of memory", "bad alloc")  # as libraries say it in a RuntimeError


def _what_failed(error: BaseException) -> str:
    said = _said(error)
    if isinstance(error, OSError):
        return _SHORTAGES[error.errno or 0]
    if isinstance(error, MemoryError) or any(words in said.lower() for words in _NO_MEMORY):
        return "ran out of memory"
    if isinstance(error, BrokenExecutor):
        return "lost a process that it had started, which was killed: there may be too little memory"
    if isinstance(error, ImportError):
        return f"lacks a part of its environment ({said}); `make setup` installs what is missing"
    return f"failed unexpectedly ({type(error).__name__}: {said}); with --debug it shows where"


def _refused(error: OSError, name: str) -> str:
    if error.filename is None or isinstance(error.filename, int):
        return f"The program {name} was refused by the operating system: {_said(error)}."
    return f"The program {name} could not use {_readable(error.filename)}: {error.strerror or _said(error)}."


def _names(error: OSError, argv: Sequence[str]) -> bool:
    place = _readable(error.filename) if isinstance(error.filename, str | bytes | Path) else ""
    return bool(place) and any(word and place in (word, word.partition("=")[2]) for word in map(str, argv))


def _readable(name: str | bytes | Path) -> str:
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def _said(error: BaseException) -> str:
    return one_line(str(error)).rstrip(".") or "no message"


def _end(error: BaseException, name: str, folder: Path | None, argv: Sequence[str]) -> int:
    if debugging():
        with suppress(OSError, ValueError, AttributeError):
            traceback.print_exception(error)
    status, words = ending(error, name, folder, argv)
    _say(words)
    _settle_output()
    return status


def _say(words: str) -> None:
    with suppress(AttributeError):  # stderr was closed from the start: the status speaks alone
        try:
            sys.stderr.write(f"{words}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            _drop(sys.stderr)


@contextmanager
def _streams() -> Iterator[None]:
    """Any file's name can be printed, libraries' warnings are not, and output that cannot be written is an error.

    What warns that compiled code cannot be used is ours, and is one sentence.
    """
    hold_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions and not debugging():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", message=OURS)
            warnings.showwarning = lambda message, *_, **__: _say(one_line(str(message)))
        yield
    if sys.stdout is not None:
        sys.stdout.flush()


def _nobody_reads() -> bool:
    """Whether our output is a pipe whose reader is gone."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in watch.poll(0))
    except (OSError, ValueError, AttributeError):  # a test's stream, or none
        return False


def _settle_output() -> None:
    """What was printed is written, or goes nowhere without a word from the interpreter."""
    with suppress(AttributeError):
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            _drop(sys.stdout)


def _drop(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
