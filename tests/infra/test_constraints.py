"""constraints.txt holds what the project needs, whole, and nothing else, with any build of torch."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ORDINARY = ("nvidia-", "cuda-")  # what the ordinary build of torch asks for, and a CPU build does not
PYTHONS = ("3.11", "3.12", "3.13")
UV = Path(sys.executable).with_name("uv")


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


def pins() -> dict[str, Requirement]:
    """The lock's lines by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def resolve(python: str, requirements: str, constraints: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What uv answers for a Python on Linux, from the index alone; no cache of what another test resolved."""
    settings = {name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "UV_FIND_LINKS")}
    command = [
        UV, "pip", "compile", "-q", "--no-annotate", "--no-header", "-c", constraints, "--python-version", python,
        "--python-platform", "x86_64-unknown-linux-gnu", "-",
    ]  # fmt: skip
    return subprocess.run(
        command, input=requirements, capture_output=True, text=True, check=False, env=settings | environment
    )


def or_skip(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Skips the test where the index does not answer, which is no fault of the lock."""
    if any(words in done.stderr for words in ("error sending request", "Request failed", "timed out")):
        pytest.skip("the package index does not answer")
    return done


def test_every_needed_package_is_pinned_and_no_other() -> None:
    here = {name for name, pin in pins().items() if pin.marker is None or pin.marker.evaluate()}
    assert not needed() - here
    assert not {name for name in here - needed() if not name.startswith(ORDINARY)}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_what_the_ordinary_build_of_torch_asks_for(python: str) -> None:
    done = or_skip(resolve(python, "torch==2.13.0", ROOT / "constraints.txt"))
    assert done.returncode == 0, done.stderr
    assert f"triton{pins()['triton'].specifier}" in done.stdout.splitlines()
    assert "nvidia-cublas==" in done.stdout


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_found_for_every_python(python: str) -> None:
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    done = or_skip(resolve(python, "\n".join(wanted), ROOT / "constraints.txt"))
    assert done.returncode == 0, done.stderr


def test_a_lock_with_another_triton_is_refused_by_the_ordinary_build(tmp_path: Path) -> None:
    wrong = tmp_path / "constraints.txt"
    pinned = str(pins()["triton"])
    wrong.write_text((ROOT / "constraints.txt").read_text().replace(pinned, "triton==3.9.0"))
    done = or_skip(resolve("3.12", "torch==2.13.0", wrong))
    assert done.returncode != 0
    assert "triton" in done.stderr


def test_the_lock_accepts_a_cpu_build_of_torch(tmp_path: Path) -> None:
    metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\nRequires-Dist: filelock\n"
    wheel = tmp_path / "torch-2.13.0+cpu-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch-2.13.0+cpu.dist-info/METADATA", metadata)
        archive.writestr("torch-2.13.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    done = or_skip(resolve("3.12", "torch", ROOT / "constraints.txt", UV_FIND_LINKS=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["filelock==4.2.12", "torch==2.13.0+cpu"]


def test_setup_takes_the_pythons_that_the_project_declares() -> None:
    setup = (ROOT / "infra" / "setup.sh").read_text()
    assert f"versions=({' '.join(PYTHONS)})" in setup
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
