"""Small Python functions with a description and argument cases, composed from parts, for the family `repair`.

A template is a shape and its parts (`fold/sum/even/square`). One composition in four is kept for the held-out
split by a Latin rule on the part numbers, so that every part occurs in train and no held-out template does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tasks.environments.task import Split

PREDICATES = (
    ("even", "{x} % 2 == 0"), ("odd", "{x} % 2 == 1"), ("positive", "{x} > 0"), ("negative", "{x} < 0"),
    ("above 3", "{x} > 3"), ("below 5", "{x} < 5"), ("below 2", "{x} < 2"), ("above 1", "{x} > 1"),
)  # fmt: skip
VALUES = (
    ("", "{x}"), ("squares of the ", "{x} * {x}"), ("doubles of the ", "{x} + {x}"), ("successors of the ", "{x} + 1"),
)  # fmt: skip
FOLDS = (("sum", "0", "+="), ("product", "1", "*="))
SCHEMES = (("xs", "x", "t"), ("items", "n", "total"), ("row", "v", "r"), ("data", "d", "s"))
BRANCH_TESTS = ("a > b", "a < b", "a == b", "a > 0", "b < 0")
BRANCH_VALUES = ("a", "b", "a + b", "a - b", "b - a", "a * b", "a + 1", "b - 1")
HELDOUT_EVERY = 4

Arguments = list[object]


@dataclass(frozen=True)
class Function:
    """A correct function `f`: its template, what it gives in words, its source and arguments to call it with."""

    template: str
    description: str
    source: str
    arguments: list[Arguments]


def draw_function(rng: random.Random, split: Split) -> Function:
    """A random function whose composition belongs to the split."""
    shape = rng.choice(SHAPES)
    while True:
        function, numbers = shape(rng)
        if (sum(numbers) % HELDOUT_EVERY == 0) == (split == "heldout"):
            return function


def _fold(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    i, j, k = rng.randrange(len(FOLDS)), rng.randrange(len(PREDICATES)), rng.randrange(len(VALUES))
    (name, start, operator), (adjective, test), (of, value) = FOLDS[i], PREDICATES[j], VALUES[k]
    xs, x, t = rng.choice(SCHEMES)
    source = _code(
        f"def f({xs}):", f"    {t} = {start}", f"    for {x} in {xs}:", f"        if {test.format(x=x)}:",
        f"            {t} {operator} {value.format(x=x)}", f"    return {t}",
    )  # fmt: skip
    description = f"the {name} of the {of}{adjective} numbers in {xs}"
    return Function(f"fold/{name}/{adjective}/{of.strip()}", description, source, _lists(rng, 0)), (i, j, k)


def _count(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    scheme, j = rng.randrange(len(SCHEMES)), rng.randrange(len(PREDICATES))
    (xs, x, t), (adjective, test) = SCHEMES[scheme], PREDICATES[j]
    source = _code(
        f"def f({xs}):", f"    {t} = 0", f"    for {x} in {xs}:", f"        if {test.format(x=x)}:",
        f"            {t} += 1", f"    return {t}",
    )  # fmt: skip
    description = f"how many numbers in {xs} are {adjective}"
    return Function(f"count/{adjective}/{xs}", description, source, _lists(rng, 0)), (scheme, j)


def _filter(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    j, k = rng.randrange(len(PREDICATES)), rng.randrange(len(VALUES))
    (adjective, test), (of, value) = PREDICATES[j], VALUES[k]
    xs, x, t = rng.choice(SCHEMES)
    source = _code(
        f"def f({xs}):", f"    {t} = []", f"    for {x} in {xs}:", f"        if {test.format(x=x)}:",
        f"            {t}.append({value.format(x=x)})", f"    return {t}",
    )  # fmt: skip
    description = f"the list of the {of}{adjective} numbers in {xs}"
    return Function(f"filter/{adjective}/{of.strip()}", description, source, _lists(rng, 0)), (j, k)


def _best(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    i, scheme = rng.randrange(2), rng.randrange(len(SCHEMES))
    name, compare = (("largest", ">"), ("smallest", "<"))[i]
    xs, x, t = SCHEMES[scheme]
    source = _code(
        f"def f({xs}):", f"    {t} = {xs}[0]", f"    for {x} in {xs}:", f"        if {x} {compare} {t}:",
        f"            {t} = {x}", f"    return {t}",
    )  # fmt: skip
    return Function(f"best/{name}/{xs}", f"the {name} number in {xs}", source, _lists(rng, 1)), (i, scheme)


def _index(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    j, scheme = rng.randrange(len(PREDICATES)), rng.randrange(len(SCHEMES))
    (adjective, test), (xs, _, _) = PREDICATES[j], SCHEMES[scheme]
    source = _code(
        f"def f({xs}):", f"    for i in range(len({xs})):", f"        if {test.format(x=f'{xs}[i]')}:",
        "            return i", "    return -1",
    )  # fmt: skip
    description = f"the index of the first {adjective} number in {xs}, else -1"
    return Function(f"index/{adjective}/{xs}", description, source, _lists(rng, 0)), (j, scheme)


def _span(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    i, k, scheme = rng.randrange(len(FOLDS)), rng.randrange(len(VALUES)), rng.randrange(len(SCHEMES))
    (name, start, operator), (of, value), (_, _, t) = FOLDS[i], VALUES[k], SCHEMES[scheme]
    source = _code(
        "def f(n):", f"    {t} = {start}", "    for i in range(1, n + 1):",
        f"        {t} {operator} {value.format(x='i')}", f"    return {t}",
    )  # fmt: skip
    description = f"the {name} of the {of}numbers 1 to n"
    return Function(f"span/{name}/{of.strip()}/{t}", description, source, [[n] for n in range(6)]), (i, k, scheme)


def _branch(rng: random.Random) -> tuple[Function, tuple[int, ...]]:
    i = rng.randrange(len(BRANCH_TESTS))
    j, k = rng.sample(range(len(BRANCH_VALUES)), 2)
    test, first, second = BRANCH_TESTS[i], BRANCH_VALUES[j], BRANCH_VALUES[k]
    source = _code("def f(a, b):", f"    if {test}:", f"        return {first}", f"    return {second}")
    description = f"{first} if {test}, else {second}"
    pairs: list[Arguments] = [[rng.randint(-5, 9), rng.randint(-5, 9)] for _ in range(6)]
    pairs += [[2, 2], [0, 1], [3, -1]]
    return Function(f"branch/{test}/{first}/{second}", description, source, pairs), (i, j, k)


def _lists(rng: random.Random, least: int) -> list[Arguments]:
    """Argument lists: short ones for the failing example, longer ones for the hidden cases."""
    lengths = (1, 2, 2, 3, 4, 5, 6, least)
    return [[[rng.randint(-5, 9) for _ in range(length)]] for length in lengths]


def _code(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


SHAPES: tuple[Callable[[random.Random], tuple[Function, tuple[int, ...]]], ...] = (
    _fold, _fold, _count, _filter, _best, _index, _span, _branch, _branch,
)  # fmt: skip
