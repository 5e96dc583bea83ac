"""Compiling on first use, on machines that make it hard."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from kernels import native
from kernels.topk import reference, select_keys

FLAGS = ("-O1",)
PROGRAM = "int answer(void) { return VALUE; }\n"
MISSING = "does the work of compiled code here because there is no C and C"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of the test's own; cache and temporary files lie in its folder, and no warning was given yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("LONGHAUL_NATIVE", raising=False)
    native._warn.cache_clear()
    path = tmp_path / "answer.c"
    path.write_text(PROGRAM)
    return path


def answer(source: Path, value: int) -> int:
    found = native.library(source, VALUE=value)
    assert found is not None
    return int(found.answer())


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so"))


def test_a_library_is_built_once_and_found_again(source: Path, tmp_path: Path) -> None:
    assert answer(source, 3) == 3
    (built,) = libraries(tmp_path)
    assert built.parent == tmp_path / "cache/longhaul/native"
    assert [path.name for path in built.parent.iterdir()] == [built.name]
    before = built.stat().st_mtime_ns
    native.library.cache_clear()
    native.build.cache_clear()
    assert answer(source, 3) == 3
    assert built.stat().st_mtime_ns == before


def test_everything_the_library_depends_on_names_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tmp_path / "answer.h"

    def name() -> str:
        return native._plan(source, FLAGS, ("-DVALUE=1",), (header,))[1]

    header.write_text("")
    names = [name()]
    header.write_text("// changed\n")
    names.append(name())
    source.write_text(PROGRAM + "\n")
    names.append(name())
    monkeypatch.setattr(native.torch, "__version__", "9.9")
    names.append(name())
    monkeypatch.setattr(native, "_processor", lambda: ("another machine",))
    names.append(name())
    names.append(native._plan(source, ("-O2",), ("-DVALUE=1",), (header,))[1])
    names.append(native._plan(source, FLAGS, ("-DVALUE=2",), (header,))[1])
    assert len(set(names)) == 7


@pytest.mark.parametrize("cache", ["/proc/nowhere", ""], ids=["not writable", "empty and no home"])
def test_without_a_cache_a_private_folder_serves(
    cache: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert answer(source, 4) == 4
    (built,) = libraries(tmp_path)
    assert built.parent == tmp_path / f"longhaul-native-{os.geteuid()}"
    assert built.parent.stat().st_mode & 0o777 == 0o700


def test_an_empty_xdg_cache_home_means_the_home(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert answer(source, 5) == 5
    assert [path.parent for path in libraries(tmp_path)] == [tmp_path / ".cache/longhaul/native"]


@pytest.mark.parametrize("squatter", ["link", "open to others", "another's"])
def test_a_folder_that_is_not_private_is_never_loaded_from(
    squatter: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    folder = tmp_path / f"longhaul-native-{os.geteuid()}"
    if squatter == "link":
        (tmp_path / "trap").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "trap")
    else:
        folder.mkdir(mode=0o777 if squatter == "open to others" else 0o700)
        folder.chmod(0o777 if squatter == "open to others" else 0o700)
    if squatter == "another's":
        if os.geteuid() != 0:
            pytest.skip("Only root can give a folder away.")
        os.chown(folder, 12345, 12345)
    with pytest.warns(RuntimeWarning, match="is not private to this user"):
        assert native.library(source, VALUE=6) is None
    assert libraries(tmp_path) == []


MOUNTS = {
    "a cache whose file system runs nothing": 'mount -t tmpfs -o noexec tmpfs "$CACHE"',
    "a full cache": 'mount -t tmpfs -o size=4k tmpfs "$CACHE"; echo >"$CACHE/filling"',
    "a full folder for temporary files": 'mount -t tmpfs -o size=4k tmpfs "$TMPDIR"; echo >"$TMPDIR/filling"',
    "a read-only cache": 'mount -t tmpfs -o ro tmpfs "$CACHE"',
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS)
def test_another_place_serves_where_one_does_not(mount: str, source: Path, tmp_path: Path) -> None:
    places = {"XDG_CACHE_HOME": tmp_path / "cache", "CACHE": tmp_path / "cache", "TMPDIR": tmp_path / "scratch"}
    for folder in places.values():
        folder.mkdir(exist_ok=True)
    call = f"native.library(Path({str(source)!r}), VALUE=4)"
    code = f"from kernels import native; from pathlib import Path; print({call}.answer())"
    words = ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {name: str(folder) for name, folder in places.items()}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr


def test_a_damaged_library_is_built_anew(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache/longhaul/native"
    folder.mkdir(parents=True)
    (folder / native._plan(source, native.FLAGS, ("-DVALUE=11",), ())[1]).write_text("cut off")
    assert answer(source, 11) == 11


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ('cc "', "the variable CC of the environment is no command"),
        ("cc -caf\u00e9", "the compiler .* failed with code"),
    ],
)
def test_a_compiler_that_is_named_wrongly_is_a_warning(
    compiler: str, reason: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.warns(RuntimeWarning, match=reason):
        assert native.library(source, VALUE=12) is None


def test_a_compilers_words_need_not_be_of_the_locale(source: Path) -> None:
    code = (
        f"from kernels import native; from pathlib import Path; print(native.library(Path({str(source)!r}), VALUE=4))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "CC": "cc -caf\u00e9"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | locale, capture_output=True, check=True)
    assert done.stdout == b"None\n"
    assert b"does the work of compiled code here because the compiler" in done.stderr


def test_without_a_compiler_one_warning_and_plain_pytorch(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "other.cpp").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert native.library(source, VALUE=7) is None
        assert native.library(source, VALUE=8) is None
        assert native.build(tmp_path / "other.cpp", FLAGS) is None
    assert [MISSING in str(warning.message) for warning in caught] == [True]


def test_a_program_without_a_compiler_warns_once_and_computes_the_same() -> None:
    code = (
        "import torch\nfrom kernels.topk import select_keys\n"
        "scores, last = torch.arange(8.0).repeat(2, 3, 1), torch.full((2, 3), 8)\n"
        "for _ in range(3): found = select_keys(scores, torch.zeros_like(last), last, 4)\nprint(found.tolist())"
    )
    environment = {**os.environ, "CC": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    scores, last = torch.arange(8.0).repeat(2, 3, 1), torch.full((2, 3), 8)
    assert done.stdout.strip() == str(reference.select_keys(scores, torch.zeros_like(last), last, 4).tolist())
    assert done.stderr.count("there is no C and C++ compiler") == 1
    assert "Traceback" not in done.stderr


def test_a_source_that_does_not_compile_is_a_warning_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    source.write_text("not C\n")
    with pytest.warns(RuntimeWarning, match=r"cc failed with code \d+: .*answer\.c"):
        assert native.library(source, VALUE=9) is None
    assert list((tmp_path / "cache/longhaul/native").iterdir()) == []


def test_switched_off_is_silent(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library(source, VALUE=10) is None


def test_the_kernels_go_through_it() -> None:
    last = torch.tensor([[2, 3]])
    assert select_keys(torch.zeros(1, 2, 3), torch.zeros_like(last), last, 2).tolist() == [[[0, 1], [0, 1]]]
