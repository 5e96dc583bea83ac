"""params.yaml: what is accepted, and one sentence for what is not."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.config import ConfigError, load_config
from tasks.config.__main__ import write_overrides
from tasks.config.sections import SECTIONS
from tasks.config.values import FAMILIES
from tasks.environments.registry import families

PARAMS = Path("params.yaml")


def test_default_file_is_valid_and_frozen() -> None:
    config = load_config(PARAMS)
    assert config.profile == "laptop"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("pretrain.stepz=3", r"'pretrain\.stepz' in params\.yaml is unknown; the nearest is 'pretrain\.steps'"),
        ("pretrain.steps=abc", r"'pretrain\.steps' in params\.yaml is wrong: .*integer, not 'abc'"),
        ("pretrain.steps=1.5", r"'pretrain\.steps'"),
        ("nothing=1", "'nothing' in params.yaml is unknown"),
        ("profile=moon", "profile 'moon' does not exist; choose one of laptop"),
        ("pretrain.steps", "not of the form key.path=value"),
        ("pretrain.steps=[1", r"override 'pretrain\.steps=\[1' is not YAML"),
        ("seed=2020-01-01", "'seed' in params.yaml is wrong"),
        ("curate.workers=0", r"'curate\.workers' in params\.yaml is wrong: .*greater than 0"),
        (
            "pretrain.zero_stage=1",
            "section 'pretrain' of params.yaml is wrong: the optimizer 'muon' needs zero_stage 0",
        ),
        ("midtrain.agent_steps=-1", r"'midtrain\.agent_steps' in params\.yaml is wrong"),
        (
            "pretrain.context=2048",
            r"'pretrain\.context' in params\.yaml is 2048, more than model\.max_position_embeddin",
        ),
        ("midtrain.context=1025", r"'midtrain\.context' in params\.yaml is 1025"),
        ("midtrain.agent_context=1025", r"'midtrain\.agent_context'"),
        ("reinforce.max_context=1025", r"'reinforce\.max_context'"),
        ("evaluate.max_context=1025", r"'evaluate\.max_context'"),
        ("model.max_position_embeddings=512", r"'midtrain\.context' in params\.yaml is 1024"),
        (
            "midtrain.mixture={corpsu: 1}",
            r"'midtrain\.mixture\.corpsu' in params\.yaml is unknown: choose one of corpus",
        ),
        ("midtrain.agent_mixture={x: 1}", r"'midtrain\.agent_mixture\.x' in params\.yaml is unknown"),
        (
            "midtrain.families={shel: 1}",
            r"'midtrain\.families\.shel' in params\.yaml is unknown: choose one of shell, cha",
        ),
        ("reinforce.families={web: 1}", r"'reinforce\.families\.web' in params\.yaml is unknown"),
        ("reinforce.evaluation={web: 1}", r"'reinforce\.evaluation\.web' in params\.yaml is unknown"),
        ("demonstrate.counts={web: 1}", r"'demonstrate\.counts\.web' in params\.yaml is unknown"),
        ("evaluate.tasks={web: 1}", r"'evaluate\.tasks\.web' in params\.yaml is unknown"),
        ("midtrain.mixture={corpus: -0.1}", r"'midtrain\.mixture\.corpus' in params\.yaml is wrong: .*not -0\.1"),
        ("reinforce.families={shell: -1}", r"'reinforce\.families\.shell' in params\.yaml is wrong"),
        ("reinforce.families={shell: 0, chain: 0, repair: 0}", r"'reinforce\.families' .*sum to more than 0\.$"),
        ("midtrain.families={shell: 0, chain: 0, repair: 0}", r"'midtrain\.families' .*sum to more than 0"),
        ("midtrain.mixture={corpus: 0, retrieval: 0, trajectories: 0}", r"'midtrain\.mixture' .*sum to more than 0"),
        ("evaluate.tasks={shell: 0}", r"'evaluate\.tasks\.shell' in params\.yaml is wrong: .*greater than 0, not 0"),
        ("demonstrate.counts={shell: -1}", r"'demonstrate\.counts\.shell' in params\.yaml is wrong"),
        ("pretrain.repeat_share=1.5", r"'pretrain\.repeat_share' in params\.yaml is wrong"),
        ("promote.confidence=1.0", r"'promote\.confidence' in params\.yaml is wrong"),
        ("pretrain.copy_context=1025", r"'pretrain\.copy_context' in params\.yaml is 1025"),
        ("seed=-1", r"'seed' in params\.yaml is wrong: .*greater than or equal to 0, not -1"),
        ("evaluate.first_seed=-1", r"'evaluate\.first_seed' in params\.yaml is wrong"),
        ("curate.demonstration_weight=0", r"'curate\.demonstration_weight' .*greater than 0"),
        ("pretrain.muon_lr=0", r"'pretrain\.muon_lr' in params\.yaml is wrong: .*greater than 0, not 0"),
        ("pretrain.adamw_lr=-1e-3", r"'pretrain\.adamw_lr' in params\.yaml is wrong"),
        ("pretrain.adamw_lr=.inf", r"'pretrain\.adamw_lr' in params\.yaml is wrong: .*finite number"),
        ("pretrain.copy_loss=-1", r"'pretrain\.copy_loss' in params\.yaml is wrong"),
        ("midtrain.muon_lr=-1", r"'midtrain\.muon_lr' in params\.yaml is wrong"),
        ("midtrain.adamw_lr=0", r"'midtrain\.adamw_lr' in params\.yaml is wrong"),
        ("midtrain.indexer_lr=0", r"'midtrain\.indexer_lr' in params\.yaml is wrong"),
        ("midtrain.indexer_muon_lr=0", r"'midtrain\.indexer_muon_lr' in params\.yaml is wrong"),
        ("midtrain.trajectory_weight=0", r"'midtrain\.trajectory_weight' in params\.yaml is wrong"),
        ("midtrain.other_weight=-0.1", r"'midtrain\.other_weight' in params\.yaml is wrong"),
        ("midtrain.other_weight=1", r"'midtrain' .*: trajectory_weight must be more than other_weight"),
        ("reinforce.clip_low=0", r"'reinforce\.clip_low' in params\.yaml is wrong"),
        ("reinforce.clip_high=-0.2", r"'reinforce\.clip_high' in params\.yaml is wrong"),
        ("reinforce.icepop_beta=1", r"'reinforce\.icepop_beta' in params\.yaml is wrong: .*greater than 1"),
        ("reinforce.beta2=1", r"'reinforce\.beta2' in params\.yaml is wrong"),
        ("reinforce.gradient_clip=0", r"'reinforce\.gradient_clip' in params\.yaml is wrong"),
    ],
)
def test_wrong_override_names_the_key(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(PARAMS, [override])


def test_unknown_model_key_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden_sizes"):
        load_config(PARAMS, ["model.hidden_sizes=3"]).model_config()


@pytest.mark.parametrize("profile", ["laptop", "gpu", "cluster"])
def test_every_profile_is_valid(profile: str) -> None:
    config = load_config(PARAMS, [f"profile={profile}"])
    assert config.model_config().vocab_size > 256


def test_override_beats_profile() -> None:
    assert load_config(PARAMS, ["profile=gpu", "pretrain.steps=7"]).pretrain.steps == 7


def test_write_keeps_comments_and_other_values(tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    copy.write_text(PARAMS.read_text())
    write_overrides(copy, ["pretrain.steps=7", "seed=3"])
    config = load_config(copy)
    assert (config.pretrain.steps, config.seed) == (7, 3)
    assert "# laptop | gpu | cluster" in copy.read_text()
    assert load_config(copy).reinforce == load_config(PARAMS).reinforce


def test_written_override_beats_the_profile(tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    copy.write_text(PARAMS.read_text())
    write_overrides(copy, ["pretrain.steps=7", "pretrain.muon_lr=0.5", "profile=gpu"])
    config = load_config(copy)
    assert (config.profile, config.pretrain.steps, config.pretrain.muon_lr) == ("gpu", 7, 0.5)
    assert load_config(copy, ["profile=laptop"]).pretrain.steps == load_config(PARAMS).pretrain.steps


def test_known_families_are_those_of_the_registry() -> None:
    assert families() == FAMILIES


def test_families_that_are_left_out_stay_possible() -> None:
    config = load_config(PARAMS, ["reinforce.evaluation={shell: 0, chain: 0, repair: 0}", "midtrain.mixture.corpus=0"])
    assert sum(config.reinforce.evaluation.values()) == 0
    assert config.midtrain.mixture["corpus"] == 0


def test_a_key_that_the_file_does_not_hold_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    copy.write_text(PARAMS.read_text().replace("  clip_low: 0.2", "  # clip_low: 0.2"))
    with pytest.raises(ConfigError, match=r"The key 'reinforce\.clip_low' is missing from params\.yaml\.$"):
        load_config(copy)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_section_has_a_default_that_the_file_could_contradict(section: type) -> None:
    for key in dataclasses.fields(section):
        assert key.default is key.default_factory is dataclasses.MISSING, key.name


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml cannot be read as YAML"):
        load_config(broken)


def test_command_line_exits_2_with_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.config", "check", "pretrain.stepz=1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_threads_read_the_file_side_by_side() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_config(PARAMS, ["seed=3"]).seed, range(24)))
    assert found == [3] * 24
