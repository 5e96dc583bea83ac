"""Where tracked runs are kept: MLFLOW_TRACKING_URI, or a SQLite file of this folder, and whether it can be read."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote

from tasks.addresses import shown
from tasks.errors import MachineError

STATE = Path(".longhaul/mlflow")


class TrackingError(MachineError):
    """The tracking server or file cannot be used; the message names it."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in this folder's .longhaul."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or database_uri(STATE.resolve() / "mlflow.db")


def shown_uri() -> str:
    """The tracking URI for a sentence: no user's name, no password."""
    return shown(tracking_uri())


def database_uri(file: Path) -> str:
    """SQLAlchemy's address of a SQLite file, whatever letters the folder we work in has."""
    special = re.search(r"[?#%]", str(file))  # the address would end there, or take it for an escape
    return f"sqlite:///{os.path.relpath(file) if special else file}"


def database_file(uri: str) -> Path | None:
    """The file of a SQLite address; None where it has none."""
    place = uri.partition(":///")[2].partition("?")[0]
    place = unquote(place.removeprefix("file:")) if place.startswith("file:") else place
    return Path(place) if place and place != ":memory:" else None


def check_database(file: Path) -> None:
    """Raises TrackingError where something stands there that SQLite cannot read. A missing file is made in time."""
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return
    try:
        connection = sqlite3.connect(f"file:{quote(os.fsencode(file.resolve()))}?mode=ro", uri=True, timeout=1)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        if "locked" not in str(error):
            raise TrackingError(
                f"The database {file} cannot be read ({error}); move it away, and a new one is made in its place."
            ) from error
