"""Parameter files that hold something else than plain parameters: one sentence each, at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import ConfigError, load_config

PARAMS = Path(__file__).parents[3] / "params.yaml"
TEXT = PARAMS.read_text()
LAUGHS = "a: &a [x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
SEEDS = {
    "a list that holds itself": ("&a [*a]", "'seed'"),
    "a map that holds itself": ("&a {b: *a}", "'seed.b"),
    "a tuple as key": ("{[1, 2]: 3}", "'seed' .* no text"),
    "a number as key": ("{1: 3}", "'seed' .* no text"),
    "nothing as key": ("{~: 3}", "'seed' .* no text"),
    "5,000 digits": ("9" * 5000, "cannot be read as YAML"),
    "many hexadecimal digits": ("0x" + "f" * 5000, "'seed' .* 64 bits"),
    "more than 64 bits": (str(2**63), "'seed' .* 64 bits"),
    "a huge exponent": ("1e999999999", "'seed'"),
    "100,000 brackets": ("[" * 100_000, "nested too deeply"),
    "100,000 closed brackets": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "JSON nested deeply": ('{"a": ' * 60 + "1" + "}" * 60, "'seed.a"),
    "a tag": ('!!int "1"', "line 3 has a tag"),
    "an unknown tag": ("!foo 1", "line 3 has a tag"),
    "a binary tag": ("!!binary aaaa", "line 3 has a tag"),
    "a Python tag": ("!!python/object/apply:os.system [ls]", "line 3 has a tag"),
    "an unknown alias": ("*x", "undefined alias 'x' in line 3"),
    "a tab": ("\t1", "line 3"),
}
WHOLE = {
    "empty": (b"", "holds no sections"),
    "a comment": (b"# nothing\n", "holds no sections"),
    "a list": (b"- a\n", "holds no sections"),
    "text": (b"hello", "holds no sections"),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), "byte order mark"),
    "UTF-16": (TEXT.encode("utf-16"), "not UTF-8: line 1"),
    "bytes": (TEXT.encode() + b"\xff\xfe", "not UTF-8: line 153"),
    "NUL": (TEXT.encode() + b"\0", "cannot be read as YAML"),
    "two documents": (TEXT.encode() + b"---\na: 1\n", "another document"),
    "a directive": (b"%YAML 1.1\n---\n" + TEXT.encode(), "YAML directive"),
    "a key twice": (TEXT.encode() + b"seed: 2\n", 'duplicate key "seed"'),
    "a tuple as section": (TEXT.encode() + b"? [a, b]\n: 1\n", "no text"),
    "a number as section": (TEXT.encode() + b"1: 2\n", "no text"),
    "dashes": (TEXT.encode() + b"z:\n  " + b"- " * 5000 + b"1\n", "nested too deeply"),
    "question marks": (TEXT.encode() + b"? " * 5000 + b"1\n", "nested too deeply"),
    "aliases of aliases": (LAUGHS.encode(), "more than 20000 values"),
    "a megabyte": (b"a: " + b"x" * (1 << 20), "larger than"),
    "profiles as a list": (TEXT[: TEXT.index("profiles:")].encode() + b"profiles: [a]\n", "'profiles' .* must map"),
    "profiles as text": (TEXT[: TEXT.index("profiles:")].encode() + b"profiles: gpu\n", "'profiles' .* must map"),
    "a profile as number": (TEXT.encode() + b"  mine: 3\n", "'profiles.mine' .* must map"),
    "a merged number": (TEXT.encode() + b"z: {<<: 1}\n", "cannot be read as YAML"),
    "a section as nothing": (TEXT.replace("promote:\n", "promote:\nz:\n").encode(), "'promote'"),
}


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 500
    return said


@pytest.mark.parametrize("case", SEEDS)
def test_an_unusual_value_is_one_sentence(case: str, tmp_path: Path) -> None:
    value, sentence = SEEDS[case]
    file = tmp_path / "params.yaml"
    file.write_text(TEXT.replace("seed: 1", f"seed: {value}"))
    said = refusal(file)
    assert re.search(sentence, said), said
    if "line" not in sentence:
        assert "seed" in refusal(PARAMS, f"seed={value}")


@pytest.mark.parametrize("case", WHOLE)
def test_an_unusual_file_is_one_sentence(case: str, tmp_path: Path) -> None:
    data, sentence = WHOLE[case]
    file = tmp_path / "params.yaml"
    file.write_bytes(data)
    said = refusal(file)
    assert re.search(sentence, said), said


@pytest.mark.parametrize("date", ["2020-01-01", "2020-01-01T00:00:00Z", "2020-13-41"])
@pytest.mark.parametrize("key", ["promote.name", "curate.sources", "seed", "model.hidden_size"])
def test_a_date_is_no_text(date: str, key: str) -> None:
    assert key in refusal(PARAMS, f"{key}={date}")
    assert load_config(PARAMS, ["promote.name='2020-01-01'"]).promote.name == "2020-01-01"


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "missing", "unreadable name"])
def test_what_is_no_file_is_one_sentence(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = {
        "folder": tmp_path, "pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "missing": tmp_path / "none",
        "unreadable name": tmp_path / ("x" * 300),
    }[kind]  # fmt: skip
    assert refusal(path).startswith(f"The parameter file {path} ")


def test_the_command_says_so_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tasks.config", "check", "--params", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"The parameter file {tmp_path} cannot be read: it is a folder.\n"


def test_check_looks_at_every_profile(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(TEXT + "  mine: {pretrain: {stepz: 3}}\n")
    load_config(file)
    command = [sys.executable, "-m", "tasks.config", "check", "--params", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("The profile 'mine' cannot be used: The key 'pretrain.stepz' in params.yaml")
