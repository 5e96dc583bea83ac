"""Prints, as shell `export` lines, the user's own pip settings in uv's words, so that uv installs from the same places.

    eval "$(python infra/pip_settings.py)"     # with the interpreter whose pip is asked

Run by set-up before anything of ours is installed: the standard library alone. Values go through the environment
and not through arguments, since an index's address may hold a password and every user may read a command line.
Exit status 3, and the setting's name, where pip was told something that uv cannot be told: pip then installs.
"""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from collections.abc import Mapping

JOINED_BY = {  # pip's setting: uv's variable, and what stands between several values
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "retries": ("UV_HTTP_RETRIES", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "pre": ("UV_PRERELEASE", " "),
}
WORDS = {"UV_NO_INDEX": "true", "UV_PRERELEASE": "allow"}  # of a switch that is on
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY")
HARMLESS = (  # where files are kept, what is printed, and how old programs are asked
    "disable-pip-version-check", "no-color", "no-input", "quiet", "verbose", "progress-bar", "cache-dir",
    "no-cache-dir", "config-file", "no-python-version-warning", "root-user-action", "break-system-packages",
    "require-virtualenv", "log", "debug", "prefer-binary", "no-warn-script-location", "no-warn-conflicts",
    "no-compile", "compile", "exists-action",
)  # fmt: skip
SECTIONS = ("global", "install", ":env:")  # a later one overrides an earlier one, as in pip


def settings(listing: str) -> dict[str, str]:
    """Setting -> value from the lines of `pip config list`."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def variables(pip: Mapping[str, str]) -> dict[str, str]:
    """uv's environment for these settings of pip. Raises KeyError with the name of one that uv has no word for."""
    result = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # pip takes the best version of all indexes
    for name, value in pip.items():
        if name == "proxy":
            result |= dict.fromkeys(PROXIES, value)
        elif name in JOINED_BY:
            variable, between = JOINED_BY[name]
            word = WORDS.get(variable)
            if word and not _is_on(value):
                continue
            result[variable] = word or between.join(value.split())
        elif name not in HARMLESS:
            raise KeyError(name)
    return result


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on")


def main() -> int:
    """Prints the lines; 3 where uv cannot stand in for pip."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    try:
        found = variables(settings(listing))
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 3
    print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
