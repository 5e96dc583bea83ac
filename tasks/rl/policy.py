"""The policy store: numbered weight folders that appear whole or not at all.

A policy is prepared in a hidden sibling folder, hashed into `manifest.json`, and renamed to its number. The newest
number is the latest policy, so there is no pointer to fall out of step. The learner's optimizer state lies in the same
folder: weights and optimizer of version v are published by one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model import Transformer
from model.checkpoint import CheckpointError, save_tensors
from tasks.rl.errors import NotFinite, RunStopped
from tasks.rl.finite import not_finite

MANIFEST = "manifest.json"
LEARNER = "learner.safetensors"
METRICS = "step.json"


class PolicyError(RunStopped):
    """A policy folder is missing, truncated or altered."""


class PolicyStore:
    """Policies under `root`, the newest `keep` of them."""

    def __init__(self, root: str | Path, keep: int = 4) -> None:
        self.root = Path(root)
        self.keep = keep
        self.root.mkdir(parents=True, exist_ok=True)

    def folder(self, version: int) -> Path:
        """Where policy `version` lies, published or not."""
        return self.root / f"{version:06d}"

    def versions(self) -> list[int]:
        """The published versions that are still kept, oldest first."""
        return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdigit())

    def latest(self) -> int:
        """The newest published version. Raises PolicyError if there is none."""
        versions = self.versions()
        if not versions:
            raise PolicyError(f"The policy store {self.root} holds no published policy.")
        return versions[-1]

    def publish(
        self,
        model: Transformer,
        version: int,
        learner: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Path:
        """Publishes weights as `version` (a number not yet used), the learner's state and step metrics beside them.

        Raises NotFinite, and publishes nothing, if a weight or a number of the learner's state is NaN or infinite.
        """
        target = self.folder(version)
        if target.exists():
            raise PolicyError(f"The policy {target} is already published.")
        _refuse_not_finite(f"The policy {target} was not published", {**dict(model.state_dict()), **(learner or {})})
        self._sweep()
        draft = self.root / f".draft-{version:06d}"
        model.save_pretrained(draft)
        if learner is not None:
            save_tensors(learner, draft / LEARNER)
        (draft / METRICS).write_text(json.dumps(dict(metrics or {}), allow_nan=False), encoding="utf-8")
        _write_manifest(draft, version)
        os.rename(draft, target)
        self._discard_old()
        return target

    def verify(self, version: int) -> Path:
        """The folder of `version` after its sizes and hashes were checked. Raises PolicyError naming the file."""
        folder = self.folder(version)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PolicyError(f"The policy {folder} was never published or is no longer kept.") from None
        except ValueError as error:
            raise PolicyError(f"The file {folder / MANIFEST} is not JSON: {error}.") from error
        for name, expected in manifest["files"].items():
            if not (folder / name).is_file() or _sha256(folder / name) != expected:
                raise PolicyError(f"The file {folder / name} is missing or was altered after it was published.")
        return folder

    def load(self, version: int) -> Transformer:
        """The model of `version`, verified: its files are those published and all its weights are finite."""
        try:
            model = Transformer.from_pretrained(self.verify(version))
        except CheckpointError as error:
            raise PolicyError(f"The policy {self.folder(version)} cannot be read: {error}") from error
        _refuse_not_finite(f"The policy {self.folder(version)} is not used", model.state_dict())
        return model

    def load_latest(self) -> tuple[int, Transformer]:
        """The newest policy. One that is discarded while it is read, for newer ones came, is no error."""
        while True:
            version = self.latest()
            try:
                return version, self.load(version)
            except (PolicyError, OSError, ValueError):
                if self.folder(version).exists() or self.latest() == version:
                    raise

    def load_learner(self, version: int) -> dict[str, Tensor]:
        """The learner's state of `version`, empty if it was published without one."""
        path = self.verify(version) / LEARNER
        try:
            return load_file(path) if path.exists() else {}
        except SafetensorError as error:
            raise PolicyError(f"The file {path} cannot be read: {error}.") from error

    def metrics(self, version: int) -> dict[str, Any]:
        """The metrics of the step that made `version`."""
        content: dict[str, Any] = json.loads((self.verify(version) / METRICS).read_text(encoding="utf-8"))
        return content

    def _sweep(self) -> None:
        for leftover in self.root.glob(".*-*"):  # of a learner that was killed; only one learner publishes at a time
            shutil.rmtree(leftover)

    def _discard_old(self) -> None:
        for version in self.versions()[: -self.keep]:
            trash = self.root / f".trash-{version:06d}"
            os.rename(self.folder(version), trash)  # a half-deleted folder must not look published
            shutil.rmtree(trash, ignore_errors=True)


def _refuse_not_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    if broken := not_finite(tensors):
        raise NotFinite(f"{what}: {len(broken)} of its tensors are not finite, {broken[0]} among them.")


def _write_manifest(folder: Path, version: int) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    content = json.dumps({"version": version, "files": files}, indent=1)
    (folder / MANIFEST).write_text(content, encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
