"""Overrides mean the same wherever they are given: --set, SET, a profile, a deployment; and what make hands on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import ConfigError, load_config
from tasks.config.overrides import split_set
from tasks.config.reading import read_mapping

ROOT = Path(__file__).parents[3]
PARAMS = ROOT / "params.yaml"
RECORDER = '#!/bin/sh\nprintf "%s\\n" "$*" "$LONGHAUL_SET"\n'


def test_a_section_is_merged_by_key() -> None:
    before, after = load_config(PARAMS), load_config(PARAMS, ["curate={max_bytes: 5000000}"])
    assert (after.curate.max_bytes, after.curate.sources) == (5_000_000, before.curate.sources)
    assert load_config(PARAMS, ["model={hidden_size: 64}"]).model == {**before.model, "hidden_size": 64}


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("reinforce.families={repair: 1.0}", "reinforce", "families", {"repair": 1.0}),
        ("reinforce={families: {repair: 1.0}}", "reinforce", "families", {"repair": 1.0}),
        ("midtrain.families={}", "midtrain", "families", {}),
        ("midtrain.mixture={corpus: 1}", "midtrain", "mixture", {"corpus": 1.0}),
        ("midtrain.agent_mixture={trajectories: 1}", "midtrain", "agent_mixture", {"trajectories": 1.0}),
        ("evaluate.tasks={shell: 3}", "evaluate", "tasks", {"shell": 3}),
        ("reinforce.evaluation={}", "reinforce", "evaluation", {}),
        ("demonstrate.slip_rates={shell: 0.5}", "demonstrate", "slip_rates", {"shell": 0.5}),
    ],
)
def test_a_value_that_is_a_map_is_replaced_whole(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(load_config(PARAMS, [override]), section), key) == value


def test_one_entry_of_a_map_has_a_path_of_its_own() -> None:
    families = load_config(PARAMS, ["reinforce.families.repair=0.5"]).reinforce.families
    assert families == {"shell": 0.8, "chain": 0.1, "repair": 0.5}


def test_a_profile_means_what_the_same_overrides_mean(tmp_path: Path) -> None:
    section = "{families: {repair: 1.0}, updates: 3}"
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text() + f"  mine: {{reinforce: {section}}}\n")
    by_profile = load_config(file, ["profile=mine"]).reinforce
    assert by_profile == load_config(PARAMS, [f"reinforce={section}"]).reinforce
    assert by_profile.families == {"repair": 1.0}


@pytest.mark.parametrize("override", ["profile=gpu", "profile =gpu", " profile = gpu", "profile='gpu'"])
def test_spaces_around_a_key_do_not_count(override: str) -> None:
    config = load_config(PARAMS, [override])
    assert (config.profile, config.pretrain.steps) == ("gpu", 20000)
    with pytest.raises(ConfigError, match="The profile 'moon' does not exist"):
        load_config(PARAMS, [override.replace("gpu", "moon")])


@pytest.mark.parametrize("override", ["=1", "a..b=1", ".seed=1", "seed.=1", "seed", "", "profiles.gpu.seed=1"])
def test_an_override_without_a_key_is_one_sentence(override: str) -> None:
    with pytest.raises(ConfigError, match=r"^The override .*\.$"):
        load_config(PARAMS, [override])


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("", []),
        ("  ", []),
        ("pretrain.steps=10 seed=2", ["pretrain.steps=10", "seed=2"]),
        ("curate.sources=['/my/texts/**/*.md']", ["curate.sources=['/my/texts/**/*.md']"]),
        ("curate.sources=['/a, b.md', \"/c d\"] seed=2", ["curate.sources=['/a, b.md', \"/c d\"]", "seed=2"]),
        ("curate={max_bytes: 5000000}", ["curate={max_bytes: 5000000}"]),
        ("reinforce.families={shell: 1, repair: 1}\nseed=2", ["reinforce.families={shell: 1, repair: 1}", "seed=2"]),
        ("'reinforce.families={repair: 1.0}' \"seed=3\"", ["reinforce.families={repair: 1.0}", "seed=3"]),
        ("profile = gpu seed=2", ["profile = gpu", "seed=2"]),
        ("promote.name=price$5;touch x", ["promote.name=price$5;touch x"]),
        ("promote.name=it's seed=2", ["promote.name=it's", "seed=2"]),
        ("a='it''s x=1' b=\"q\\\" y=2\" c=3", ["a='it''s x=1'", 'b="q\\" y=2"', "c=3"]),
        ("a.b={c=d e=f} g=1", ["a.b={c=d e=f}", "g=1"]),
        ("seed=1 junk", ["seed=1 junk"]),
        ("junk seed=1", ["junk", "seed=1"]),
        ("curate.s3_endpoint_url=http://h/?a=b seed=2", ["curate.s3_endpoint_url=http://h/?a=b", "seed=2"]),
    ],
)
def test_set_is_split_where_the_next_key_begins(text: str, overrides: list[str]) -> None:
    assert split_set(text) == overrides


@pytest.mark.parametrize("text", ["a=[1", "a='x", 'a={b: "}'])
def test_what_is_never_closed_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^SET=.* never closed with .*\.$"):
        split_set(text)


@pytest.mark.parametrize(
    "text",
    [
        "pretrain.steps=10 seed=2",
        "curate.sources=['/a, b.md', \"/c d\"]",
        "promote.name=price$5",
        "promote.name=$(shell touch owned)$$x",
        "seed=1; touch owned",
        "seed=`touch owned` | > owned && # \\ *",
    ],
)
@pytest.mark.parametrize("where", ["command line", "environment"])
def test_make_hands_on_what_was_typed(text: str, where: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(RECORDER)
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-o", "setup", "run", f"PYTHON={python}"]
    given = [f"SET={text}"] if where == "command line" else []
    environment = {**os.environ, **({} if given else {"SET": text})}
    done = subprocess.run([*command, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"-m flows.run\n{text}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_a_run_reads_set_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LONGHAUL_SET": "promote.name='a b'  seed=2"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("The key 'promote.name' in params.yaml is wrong: choose letters")
    assert done.stderr.endswith("not 'a b'.\n")
    assert (tmp_path / "params.yaml").read_text() == PARAMS.read_text()


@pytest.mark.parametrize("action", ["check", "write"])
def test_the_command_takes_set_as_every_program_does(action: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text())
    command = [sys.executable, "-m", "tasks.config", action, "--params", str(file), "seed=3"]
    done = subprocess.run([*command, "--set", "midtrain.families={}"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    raw = read_mapping(file.read_text(), "params.yaml")
    assert (raw["seed"], bool(raw["midtrain"]["families"])) == ((3, False) if action == "write" else (1, True))
