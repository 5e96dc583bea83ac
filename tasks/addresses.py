"""Addresses of servers: this machine's own are never asked for through a proxy, and a password is never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PASSWORD = re.compile(r"(?<=://)[^/\s?#]*@")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def bypass_proxies(hosts: Iterable[str] = ()) -> dict[str, str]:
    """Lets this process and those it starts reach loopback and `hosts` directly, whatever proxy the environment names.

    Returns what it set in the environment. Libraries read no_proxy or NO_PROXY: both hold the entries of both.
    """
    given = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    entries = [_bare(entry) for text in given for entry in re.split(r"[,\s]+", text)]
    joined = ",".join(dict.fromkeys(entry for entry in (*entries, *LOOPBACK, *hosts) if entry))
    changes = {"no_proxy": joined, "NO_PROXY": joined} | dict.fromkeys(_unusable(), "")
    os.environ.update(changes)
    return changes


def shown(text: str) -> str:
    """An address, or a text that holds some, with `***@` where it has a user's name or password."""
    return _PASSWORD.sub("***@", text)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine's loopback."""
    try:
        return (urlsplit(url).hostname or "") in LOOPBACK
    except ValueError:
        return False


def _bare(entry: str) -> str:
    """The entry as Prefect's HTTP library takes it; nothing where it would refuse it and thereby every address."""
    bare = entry.strip("[]")
    network = "/" in bare and bare.count(":") > 1 and "://" not in bare  # of IPv6: none of our libraries reads one
    return "" if network or not bare.isascii() else bare


def _unusable() -> list[str]:
    """Proxies that no library here can use (SOCKS needs one more): their mere name would end every HTTP client."""
    socks = bool(find_spec("socksio") and find_spec("socks"))
    named = [name for lower in _PROXIES for name in (lower, lower.upper())]
    return [name for name in named if os.environ.get(name) and not _is_proxy(os.environ[name], socks)]


def _is_proxy(text: str, socks: bool) -> bool:
    try:
        address = urlsplit(text if "://" in text else f"http://{text}")
        _ = address.port
    except ValueError:  # its port or its brackets
        return False
    return address.scheme in ("http", "https") or (socks and address.scheme in ("socks5", "socks5h"))
