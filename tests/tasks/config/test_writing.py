"""What is written into params.yaml is what was validated; everything else in the file stays."""

import errno
from pathlib import Path

import pytest

from tasks.config import ConfigError, load_config, writing
from tasks.config.writing import write_overrides
from tasks.errors import MachineError

PARAMS = Path(__file__).parents[3] / "params.yaml"
SHARED = {
    "a map": (
        ("families: {shell: 0.27, chain: 0.18, repair: 0.55}", "families: &f {shell: 0.27, chain: 0.18, repair: 0.55}"),
        ("families: {shell: 0.8, chain: 0.1, repair: 0.1}", "families: *f"),
    ),
    "a number": (("steps: 200\n", "steps: &n 200\n"), ("copy_steps: 200", "copy_steps: *n")),
    "a section": (
        ("profiles: # only", "profiles: # only\n  one: &o\n    pretrain: {steps: 9}\n  two:\n    <<: *o\n  # only"),
        ("profile: laptop", "profile: two"),
    ),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    copy = tmp_path / "params.yaml"
    copy.write_text(PARAMS.read_text())
    return copy


@pytest.mark.parametrize(
    "overrides",
    [
        ["curate={max_bytes: 5000000}"],
        ["reinforce.families={repair: 1.0}"],
        ["midtrain.families={}"],
        ["midtrain={families: {repair: 1}, context: 512}", "seed=7"],
        ["profile =gpu", "pretrain={steps: 3, muon_lr: 0.1}", "demonstrate.counts.shell=5"],
        ["pretrain.steps=3", "profile=cluster", "profile=gpu"],
        ["curate.sources=['/a, b.md', \"price$5\", 'it''s # none', \"1e5\", 'null', \"tab\\there\"]"],
        ["model={hidden_size: 64}", "model.rope_theta=5e5", "reinforce.reset_optimizer=true"],
        ["reinforce.families.repair=0.5", "reinforce.families.shell=0.25"],
    ],
)
def test_the_file_then_reads_as_what_was_validated(overrides: list[str], file: Path) -> None:
    wanted = load_config(file, overrides)
    write_overrides(file, overrides)
    assert load_config(file) == wanted
    comments = [line.partition("# ")[2] for line in PARAMS.read_text().splitlines() if "# " in line]
    assert all(comment in file.read_text() for comment in comments)
    assert [path.name for path in file.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize(
    "override",
    ["reinforce.families.repair=0.7", "midtrain.families.repair=0.7", "midtrain.families={}", "pretrain.steps=7",
     "pretrain.copy_steps=7"],
)  # fmt: skip
def test_an_alias_does_not_change_the_key_that_it_repeats(case: str, override: str, file: Path) -> None:
    for old, new in SHARED[case]:
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))
    wanted = load_config(file, [override])
    write_overrides(file, [override])
    assert load_config(file) == wanted
    if case == "a section":
        assert load_config(file, ["profile=one"]).pretrain.steps == 9


def test_a_refused_override_leaves_the_file_alone(file: Path) -> None:
    before = file.stat()
    for wrong in (["seed=2", "pretrain.steps=0"], ["curate=5"], ["profile=moon"]):
        with pytest.raises(ConfigError):
            write_overrides(file, wrong)
    assert (file.read_text(), file.stat().st_mtime_ns) == (PARAMS.read_text(), before.st_mtime_ns)


def test_what_would_read_otherwise_is_not_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "edited", lambda text, _: text)
    with pytest.raises(MachineError, match=r"params\.yaml was not changed"):
        write_overrides(file, ["seed=2"])
    assert file.read_text() == PARAMS.read_text()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_the_file_keeps_its_permissions_and_a_link_its_target(mode: int, file: Path, tmp_path: Path) -> None:
    file.chmod(mode)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    write_overrides(link, ["seed=2"])
    assert link.is_symlink()
    assert load_config(file).seed == 2
    assert file.stat().st_mode & 0o777 == mode


def test_a_folder_that_cannot_be_written_is_one_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)  # root, who runs these tests in a container, is refused nothing
    with pytest.raises(MachineError, match=r"params\.yaml cannot be written: Permission denied\.$"):
        write_overrides(file, ["seed=2"])
    assert file.read_text() == PARAMS.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["params.yaml"]
