"""Runs inside the judge's box: loads the candidate's module, calls its function, sends the values out as JSON.

It knows the inputs of the tests and never what is expected: whatever the candidate does to this process, it can
only say values, and they are compared elsewhere. Started as `python -I -S candidate.py <module> <function> <nonce>
<level>`, so no site-packages, .pth file, sitecustomize or environment variable takes part. What it imports is
what it costs: `typing` alone would be a tenth of a verdict, so two functions go without annotations.
"""

import json
import math
import os
import sys
import types

REPORT = 9


def send(line: str) -> None:
    """Write one line to the report descriptor."""
    data = line.encode(errors="replace") + b"\n"
    while data:
        data = data[os.write(REPORT, data) :]


def plain(value):  # type: ignore[no-untyped-def]
    """`value` if it is made of exact built-in types and finite numbers, tuples as lists; TypeError otherwise."""
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind in (list, tuple):
        return [plain(item) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: plain(item) for key, item in value.items()}
    raise TypeError(f"a result of type {kind.__name__} is no plain finite value")


def call(function, inputs, dumps):  # type: ignore[no-untyped-def]
    """The JSON of function(*inputs), or the reason why there is none."""
    try:
        return "value " + dumps(plain(function(*json.loads(inputs))), allow_nan=False)
    except Exception as error:
        return "error " + repr(f"{type(error).__name__}: {error}"[:200])


def main() -> None:
    """Say `start` before any of the candidate's code runs, `static` once it parses, then every case."""
    path, name, nonce, level = sys.argv[1:]
    dumps, say = json.dumps, send
    with open("/tests/inputs.json") as file:
        inputs = [json.dumps(arguments) for arguments in json.load(file)]
    say(f"{nonce} start")
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    say(f"{nonce} static")
    if level == "runtime":
        sys.path.append("/work")  # behind the standard library, which it therefore cannot shadow
        module = types.ModuleType("candidate")
        module.__file__ = path
        sys.modules["candidate"] = module
        exec(code, module.__dict__)  # noqa: S102 - this is what the box is for
        function = getattr(module, name)
        for number, arguments in enumerate(inputs):
            say(f"{nonce} case_{number} {call(function, arguments, dumps)}")
    say(f"{nonce} end")


if __name__ == "__main__":
    main()
