"""Set-up's uv is told what the user told pip, or pip installs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

INFRA = Path(__file__).parents[2] / "infra"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, INFRA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pip_settings = load("pip_settings")
downloads = load("downloads")


def test_what_the_environment_says_overrides_the_file() -> None:
    listing = "global.index-url='https://team/simple'\ninstall.find-links='/a'\n:env:.find-links='/b /c'\n"
    found = pip_settings.variables(pip_settings.settings(listing))
    assert found["UV_DEFAULT_INDEX"] == "https://team/simple"
    assert found["UV_FIND_LINKS"] == "/b,/c"


def test_lines_of_a_file_become_several_values() -> None:
    listing = "global.extra-index-url='\\nhttps://one/simple\\nhttps://two/simple'\nglobal.proxy='http://p:3128'\n"
    found = pip_settings.variables(pip_settings.settings(listing))
    assert found["UV_INDEX"] == "https://one/simple https://two/simple"
    assert found["HTTPS_PROXY"] == found["HTTP_PROXY"] == "http://p:3128"


@pytest.mark.parametrize(("said", "expected"), [("true", "true"), ("0", None), ("no", None)])
def test_a_switch_counts_only_when_it_is_on(said: str, expected: str | None) -> None:
    assert pip_settings.variables({"no-index": said}).get("UV_NO_INDEX") == expected


def test_a_setting_without_a_word_of_uv_is_named_and_pip_installs() -> None:
    with pytest.raises(KeyError, match="require-hashes"):
        pip_settings.variables({"require-hashes": "true"})


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(INFRA / "pip_settings.py")]
    return subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_shell_reads_the_lines_whatever_a_value_holds() -> None:
    done = run(PIP_INDEX_URL="https://user:a'b$c@team/simple", PIP_CONFIG_FILE=os.devnull)
    shell = subprocess.run(
        ["bash", "-c", 'eval "$1"; printf %s "$UV_DEFAULT_INDEX"', "-", done.stdout], capture_output=True, text=True
    )
    assert shell.stdout == "https://user:a'b$c@team/simple"


def test_the_program_says_which_setting_it_cannot_hand_on() -> None:
    done = run(PIP_REQUIRE_HASHES="1", PIP_CONFIG_FILE=os.devnull)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "require-hashes\n")


def test_the_size_of_a_lock_counts_wheels_archives_and_files_of_this_disk(tmp_path: Path) -> None:
    here = tmp_path / "torch.whl"
    here.write_bytes(b"x" * 3_000_000)
    packages = [
        {"name": "torch", "wheels": [{"url": here.as_uri()}]},
        {"name": "triton", "wheels": [{"url": "https://index/t.whl", "size": 2_000_000_000}]},
        {"name": "deepspeed", "sdist": {"url": "https://index/d.tar.gz", "size": 1_000_000}},
        {"name": "longhaul", "directory": {"path": "."}},
    ]
    assert downloads.total_bytes(packages) == 2_004_000_000
    assert downloads.summary(packages).startswith("4 packages, 2.0 GB less what is cached (the largest: triton 2.0 GB")
