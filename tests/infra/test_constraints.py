"""constraints.txt holds what the project needs, whole, and nothing else."""

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNPINNED = ("setuptools", "nvidia-", "cuda-")  # isolated by pip; fixed by the torch that a CUDA machine gets


def needed() -> set[str]:
    """Names of everything that the dependencies and the extra `dev` ask for, through all levels, on this machine."""
    installed = {canonicalize_name(one.metadata["Name"]): one.requires or [] for one in distributions()}
    waiting = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            inner = [Requirement(text) for text in installed[name]]
            waiting += [one for one in inner if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_every_needed_package_is_pinned_and_no_other() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if line}
    assert not {name for name in needed() - pinned if not name.startswith(UNPINNED)}
    assert not pinned - needed()
