"""Kinds of values beside plain numbers: names that the code knows, shares, counts by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

FAMILIES = ("shell", "chain", "repair")  # tests hold them equal to tasks.environments.registry, which loads too much
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
FamilyCounts = Mapping[Family, NonNegativeInt]
FamilyTasks = Annotated[Mapping[Family, PositiveInt], Field(min_length=1)]
