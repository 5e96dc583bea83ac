"""The model registry: versions made from safetensors folders, and the alias `champion` that users load by.

    python -m tasks.tracking.registry list
    python -m tasks.tracking.registry rollback            # champion goes back to the version before it
    python -m tasks.tracking.registry promote 3           # by hand, without the gate
    python -m tasks.tracking.registry download champion folder

The history of the alias is a tag on the registered model, so that a rollback needs no second store. Each entry names
the best champion of its time as well, against which the gate of `promote` measures besides the present one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.cli import Parser, program
from tasks.disk import publish
from tasks.errors import InputError
from tasks.tracking.experiment import Tracker, artifact_place, client
from tasks.tracking.provenance import sha256

CHAMPION = "champion"
HISTORY = "champion_history"
NAME = "longhaul"


class RegistryError(InputError):
    """A version, alias or model folder is not there, or there is nothing to roll back to."""


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    number: str
    source: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def model_sha256(self) -> str:
        """SHA-256 of its model.safetensors."""
        return self.tags.get("model_sha256", "")


def register(tracker: Tracker, folder: Path, name: str, tags: Mapping[str, str]) -> Version:
    """Copies a safetensors folder into the tracker's run and registers that copy as a new version.

    Raises RegistryError if the folder holds no model.safetensors.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RegistryError(f"The folder {folder} holds no model.safetensors, so it cannot be registered.")
    handle = tracker.client
    digest = sha256(weights)
    place = f"model-{digest[:12]}"  # one folder a model: a continued run must not overwrite what a version points at
    tracker.artifact(folder, place)
    if not handle.search_registered_models(f"name = '{name}'"):
        handle.create_registered_model(name, description="A GLM-5-shaped model; load `models:/NAME@champion`.")
    labels = {key: str(value) for key, value in tags.items()} | {"model_sha256": digest}
    made = handle.create_model_version(name, f"{tracker.artifact_uri()}/{place}", tracker.run_id, tags=labels)
    return _version(made)


def champion(handle: Any, name: str) -> Version | None:
    """The version that carries the alias, or None before the first promotion."""
    models = handle.search_registered_models(f"name = '{name}'")
    number = models[0].aliases.get(CHAMPION) if models else None
    return version(handle, name, str(number)) if number else None


def version(handle: Any, name: str, number: str) -> Version:
    """One version by number. Raises RegistryError if there is none."""
    for found in versions(handle, name):
        if found.number == number:
            return found
    raise RegistryError(f"The registry holds no version {number} of {name}.")


def versions(handle: Any, name: str) -> list[Version]:
    """Every version, oldest first."""
    found = [_version(entry) for entry in handle.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda entry: int(entry.number))


def best_champion(handle: Any, name: str) -> Version | None:
    """The best champion so far: the present one unless an earlier one was noted as better; None before the first."""
    present, past = champion(handle, name), history(handle, name)
    if present is None or not past or past[-1]["version"] != present.number:  # the alias was moved elsewhere
        return present
    return version(handle, name, past[-1].get("best", present.number))


def move_champion(handle: Any, name: str, number: str, reason: str, best: str | None = None) -> None:
    """Points the alias at a version and notes who held it before, when and why, and which champion is the best so far.

    Without `best` it is this version: a move by hand says so.
    """
    version(handle, name, number)
    moved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = {"version": number, "time": moved, "reason": reason, "best": best or number}
    _point(handle, name, number, [*history(handle, name), entry])


def rollback(handle: Any, name: str) -> str:
    """Points the alias at the version that held it before. Raises RegistryError if there was none."""
    past = history(handle, name)
    if len(past) < 2:
        raise RegistryError(f"The registry holds no earlier champion of {name} to roll back to.")
    target = past[-2]["version"]
    version(handle, name, target)
    _point(handle, name, target, past[:-1])
    return target


def history(handle: Any, name: str) -> list[dict[str, str]]:
    """The champions so far with time, reason and the best of then, oldest first, the present one last."""
    models = handle.search_registered_models(f"name = '{name}'")
    return json.loads(models[0].tags.get(HISTORY, "[]")) if models else []


def download(handle: Any, name: str, which: str, folder: Path) -> Path:
    """Fetches a version (number or alias) as `folder`. Raises RegistryError: no version, folder in use."""
    from mlflow.artifacts import download_artifacts

    found = champion(handle, name) if which == CHAMPION else version(handle, name, which)
    if found is None:
        raise RegistryError(f"The model {name} has no champion yet.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RegistryError(f"Version {found.number} of {name} is not written to {folder}: something is there already.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = artifact_place(found.source)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            got = download_artifacts(artifact_uri=place, dst_path=scratch, tracking_uri=handle.tracking_uri)
        except Exception as error:  # MLflow's own, requests' and the file system's
            raise RegistryError(f"Version {found.number} of {name} cannot be fetched from {place}: {error}") from error
        publish(Path(got), folder)
    return folder


def _point(handle: Any, name: str, number: str, past: Sequence[Mapping[str, str]]) -> None:
    """The alias moves last: an interruption leaves it where it was."""
    handle.set_registered_model_tag(name, HISTORY, json.dumps(list(past)))
    handle.set_registered_model_alias(name, CHAMPION, number)


def _version(entry: Any) -> Version:
    return Version(str(entry.version), entry.source, entry.run_id or "", dict(entry.tags))


def _print_versions(handle: Any, name: str) -> None:
    present, best = champion(handle, name), best_champion(handle, name)
    for entry in versions(handle, name):
        mark = f"  <- {CHAMPION}" if present and present.number == entry.number else ""
        mark += "  (best so far)" if best and best.number == entry.number else ""
        print(
            f"{name}/{entry.number}  {entry.model_sha256[:12]}  commit {entry.tags.get('git_commit', '?')[:12]}{mark}"
        )


@program("tasks.tracking.registry")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = Parser(prog="python -m tasks.tracking.registry")
    parser.add_argument("action", choices=("list", "rollback", "promote", "download"))
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--name", default=NAME)
    given = parser.parse_args(argv)
    wanted = {"promote": 1, "download": 2}.get(given.action, 0)
    if len(given.arguments) != wanted:
        parser.error(f"`{given.action}` takes {wanted} arguments, not {len(given.arguments)}")
    _act(client(), given.action, given.arguments, given.name)
    return 0


def _act(handle: Any, action: str, arguments: Sequence[str], name: str) -> None:
    if action == "list":
        _print_versions(handle, name)
    elif action == "rollback":
        print(f"{name}@{CHAMPION} is version {rollback(handle, name)} again.")
    elif action == "promote":
        move_champion(handle, name, arguments[0], "by hand")
        print(f"{name}@{CHAMPION} is version {arguments[0]}.")
    else:
        print(download(handle, name, arguments[0], Path(arguments[1])))


if __name__ == "__main__":
    sys.exit(main())
