"""Servers that are somebody's already, as the environment names them: whether they can be used, in one sentence."""

from __future__ import annotations

import base64
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from flows.settings import VARIABLES, AddressError, ServerError
from tasks.addresses import shown
from tasks.tracking.store import TrackingError, check_database, database_file

SECONDS = 10.0
STORES = ("file", "sqlite", "postgresql", "mysql", "mssql", "databricks", "uc")  # of MLflow, beside http; "" is a path
QUESTIONS = {  # what each server is asked: a page of its own interface, so that no other server passes
    "Prefect": ("/health", None),
    "MLflow": ("/api/2.0/mlflow/experiments/search", {"max_results": 1}),
}
REFUSED = {
    "Prefect": "PREFECT_API_KEY or PREFECT_API_AUTH_STRING",
    "MLflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,",
}


def check(name: str, uri: str) -> None:
    """Returns where the server answers as it should. Raises AddressError: no such address; ServerError: no answer."""
    scheme = _scheme(name, uri)
    if scheme in ("http", "https"):
        _ask(name, uri)
    elif scheme == "sqlite" and (file := database_file(uri)):
        try:
            check_database(file)
        except TrackingError as error:
            raise ServerError(f"{error} {VARIABLES[name]} names it.") from error


def _scheme(name: str, uri: str) -> str:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise _wrong(name, uri) from None
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("http", "https"):
        if not parts.hostname or any(letter.isspace() or not letter.isprintable() for letter in uri):
            raise _wrong(name, uri)
    elif name == "Prefect" or (scheme not in STORES and "://" in uri):
        raise _wrong(name, uri)
    return scheme


def _wrong(name: str, uri: str) -> AddressError:
    kind = "http(s)://host:port/api" if name == "Prefect" else "http(s)://host:port, or a file: or sqlite: address"
    return AddressError(f"{VARIABLES[name]} is {shown(uri)!r}, which is no address of a server: it must be {kind}.")


def _ask(name: str, uri: str) -> None:
    place = f"{VARIABLES[name]} names the {name} server at {shown(uri)}, which"
    try:
        status = _status(name, uri)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ServerError(
            f"{place} does not answer ({shown(str(reason)) or type(error).__name__}); "
            f"start it, or unset {VARIABLES[name]} to have one started here."
        ) from None
    if status in (401, 403):
        raise AddressError(f"{place} lets nobody in with these credentials ({status}): {REFUSED[name]} must be set.")
    if status != 200:
        hint = "; Prefect's address ends in /api" if name == "Prefect" else ""
        raise AddressError(f"{place} is no {name} server: it answers {status} instead of its own words{hint}.")


def _status(name: str, uri: str) -> int:
    """The HTTP status of its answer; 404 for one that is no JSON, as any other server's page."""
    path, question = QUESTIONS[name]
    parts = urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path)
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(
        address.geturl(), body, {"Content-Type": "application/json", **_headers(name, uri)}
    )
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_trust(name)))
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            json.loads(answer.read(1 << 20))
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except ValueError:
        return 404


def _headers(name: str, uri: str) -> dict[str, str]:
    """The credentials that Prefect's and MLflow's own clients would send."""
    read = os.environ.get
    parts = urlsplit(uri)
    if name == "Prefect":
        pair, token = read("PREFECT_API_AUTH_STRING"), read("PREFECT_API_KEY")
    else:
        pair, token = None, read("MLFLOW_TRACKING_TOKEN")
        if read("MLFLOW_TRACKING_USERNAME"):
            pair = f"{read('MLFLOW_TRACKING_USERNAME')}:{read('MLFLOW_TRACKING_PASSWORD', '')}"
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    if pair:
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}", **_custom(name)}
    return {**({"Authorization": f"Bearer {token}"} if token else {}), **_custom(name)}


def _custom(name: str) -> dict[str, str]:
    try:
        headers = json.loads(os.environ.get("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}") if name == "Prefect" else {}
    except ValueError:  # Prefect itself says so
        return {}
    return {str(key): str(value) for key, value in headers.items()} if isinstance(headers, Mapping) else {}


def _trust(name: str) -> ssl.SSLContext:
    """The certificates that the environment tells the server's clients to trust."""
    own, switch = {
        "Prefect": ("PREFECT_API_SSL_CERT_FILE", "PREFECT_API_TLS_INSECURE_SKIP_VERIFY"),
        "MLflow": ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"),
    }[name]
    if os.environ.get(switch, "").lower() in ("1", "true"):
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=os.environ.get(own) or os.environ.get("REQUESTS_CA_BUNDLE") or None)
