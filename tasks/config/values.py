"""Kinds of values beside plain numbers: names that the code knows, shares, counts by family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat

FAMILIES = ("shell", "chain", "repair")  # tests hold them equal to tasks.environments.registry, which loads too much
SHORTEST_PROMPT = {"shell": 5, "chain": 15, "repair": 47}  # tokens: no vocabulary has tokens longer than a word
SMALLEST_VOCABULARY = 261  # 256 bytes and five special tokens; tests hold it equal to tasks.curation.tokenizer's
HUMANEVAL = 164  # problems
SOURCES = ("corpus", "repeats", "retrieval", "trajectories")  # of rows, as tasks.midtrain names them


def _one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"choose one of {', '.join(known)}")
        return name

    return check


def _more_than_nothing(values: Mapping[str, float]) -> Mapping[str, float]:
    if sum(values.values()) <= 0:
        raise ValueError("its values must sum to more than 0")
    return values


def _nothing_or_more(values: Mapping[str, float]) -> Mapping[str, float]:
    return _more_than_nothing(values) if values else values


def _model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(f"choose letters, digits, '-' and '_', at most 100, not {name[:120]!r}")
    return name


def _source(name: str) -> str:
    if not name.strip():
        raise ValueError("a source must not be empty")
    return name


def _endpoint(url: str) -> str:
    if url and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise ValueError(f"it must be empty or begin with http:// or https://, not {url[:120]!r}")
    return url


# Upper ends are those of 32-bit numbers (bytes aside): beyond them sizes overflow somewhere, or are typing errors.
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Size = Annotated[int, Field(gt=0, lt=1 << 31)]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Bytes = Annotated[int, Field(gt=0, lt=1 << 50)]
LeastBytes = Annotated[int, Field(ge=0, lt=1 << 50)]
Workers = Annotated[int, Field(gt=0, le=1024)]
Samples = Annotated[int, Field(ge=2, lt=1 << 16)]
Places = Annotated[int, Field(gt=0, le=1 << 16)]
Problems = Annotated[int, Field(gt=0, le=HUMANEVAL)]
ShardTokens = Annotated[int, Field(ge=1000, lt=1 << 31)]
Seconds = Annotated[float, Field(ge=0.5, le=86400)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
MoreThanOne = Annotated[float, Field(gt=1)]
Family = Annotated[str, AfterValidator(_one_of(FAMILIES))]
SourceShares = Annotated[
    Mapping[Annotated[str, AfterValidator(_one_of(SOURCES))], NonNegativeFloat], AfterValidator(_more_than_nothing)
]
FamilyShares = Annotated[Mapping[Family, NonNegativeFloat], AfterValidator(_more_than_nothing)]
OptionalFamilyShares = Annotated[Mapping[Family, NonNegativeFloat], AfterValidator(_nothing_or_more)]
FamilyRates = Mapping[Family, Share]
FamilyCounts = Mapping[Family, Count]
FamilyTasks = Annotated[Mapping[Family, Size], Field(min_length=1)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Sources = Annotated[tuple[Annotated[str, AfterValidator(_source)], ...], Field(min_length=1)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
