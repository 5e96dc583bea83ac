"""Overrides written into `params.yaml` itself: comments stay, and what is written is what was validated."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from tasks.config.load import load_config, resolve
from tasks.config.overrides import Override, chosen_profile, parse_overrides
from tasks.config.reading import read_mapping, read_text
from tasks.errors import MachineError

Keys = tuple[str, ...]


def write_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Writes overrides into the file (as `dvc exp run -S` does), so that DVC sees what a run used.

    A key that the chosen profile sets is written there, where it counts. The file is replaced in one step, and only
    by a text that reads as exactly the validated parameters. Raises ConfigError where the overrides are wrong.
    """
    wanted = load_config(path, overrides)
    if not overrides:
        return
    text = edited(read_text(path), parse_overrides(overrides))
    if resolve(read_mapping(text, str(path)), (), str(path)) != wanted:
        raise MachineError(
            f"The file {path} was not changed: these overrides cannot be written into it so that they read the same; "
            "edit it by hand."
        )
    _replace(path, text)


def edited(text: str, overrides: Sequence[Override]) -> str:
    """The text of a parameter file with the overrides in it."""
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000  # lines stay as they are
    document = editor.load(text)
    profile = chosen_profile(document, overrides)
    if any(override.path == ("profile",) for override in overrides):
        document["profile"] = profile
    for path, value in _leaves(document, overrides):
        _set(document, _place(document, profile, path), value)
    stream = io.StringIO()
    editor.dump(document, stream)
    return stream.getvalue()


def _leaves(document: Mapping[str, Any], overrides: Sequence[Override]) -> Iterator[tuple[Keys, Any]]:
    """(path, value) of every key that the overrides replace: a section's mapping stands for its keys."""
    for override in overrides:
        section = len(override.path) == 1 and isinstance(document.get(override.path[0]), Mapping)
        if section and isinstance(override.value, Mapping):
            yield from (((*override.path, key), value) for key, value in override.value.items())
        elif override.path != ("profile",):
            yield override.path, override.value


def _place(document: Mapping[str, Any], profile: str, path: Keys) -> Keys:
    """Where the key counts: in the chosen profile if that sets it, else in its section."""
    found: Any = (document.get("profiles") or {}).get(profile)
    for key in path[:2]:
        if not isinstance(found, Mapping) or key not in found:
            return path
        found = found[key]
    return ("profiles", profile, *path)


def _set(document: MutableMapping[str, Any], path: Keys, value: Any) -> None:
    """Sets a value by its path. A mapping that an alias shares is copied first: the other place stays as it is."""
    shared = _shared(document)
    place: MutableMapping[str, Any] = document
    for key in path[:-1]:
        inner = place.get(key)
        if not isinstance(inner, MutableMapping) or id(inner) in shared:
            place[key] = copy.deepcopy(inner) if isinstance(inner, MutableMapping) else CommentedMap()
        place = place[key]
    place[path[-1]] = _flow(value)


def _shared(document: Any) -> set[int]:
    """Identities of the mappings that stand in more than one place, and of all inside them."""
    counts: Counter[int] = Counter()

    def visit(value: Any, times: int) -> None:
        if isinstance(value, Mapping):
            counts[id(value)] += times
            for inner in value.values():
                visit(inner, times)

    visit(document, 1)
    return {identity for identity, count in counts.items() if count > 1}


def _flow(value: Any) -> Any:
    """Maps and lists on one line, as an override spells them."""
    if isinstance(value, Mapping):
        mapping = CommentedMap({key: _flow(inner) for key, inner in value.items()})
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        sequence = CommentedSeq(_flow(inner) for inner in value)
        sequence.fa.set_flow_style()
        return sequence
    return value


def _replace(path: Path, text: str) -> None:
    """Puts a text in the place of a file in one step; the file keeps its permissions, and a link its target."""
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(target, draft)
        with contextlib.suppress(OSError):  # only its owner and root may give a file away
            shutil.chown(draft, target.stat().st_uid, target.stat().st_gid)
        draft.replace(target)
    except OSError as error:
        raise MachineError(f"The parameter file {path} cannot be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)
