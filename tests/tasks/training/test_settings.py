"""The optimizer's settings as a section of params.yaml gives them."""

from tasks.config import load_config
from tasks.training.settings import OptimizerSettings


def test_a_section_gives_all_that_it_says_of_the_optimizer() -> None:
    ours = ("optimizer=adamw", "muon_lr=0.5", "adamw_lr=0.25", "zero_stage=2", "dtype=bfloat16")
    config = load_config(overrides=[f"{section}.{one}" for section in ("pretrain", "midtrain") for one in ours])
    wanted = OptimizerSettings(name="adamw", muon_lr=0.5, adamw_lr=0.25, zero_stage=2, dtype="bfloat16")
    assert OptimizerSettings.of(config.pretrain) == OptimizerSettings.of(config.midtrain) == wanted


def test_the_indexers_warm_up_has_its_own_rates() -> None:
    section = load_config(overrides=["midtrain.indexer_muon_lr=0.5", "midtrain.indexer_lr=0.25"]).midtrain
    general, found = OptimizerSettings.of(section), OptimizerSettings.of_warmup(section)
    assert (found.muon_lr, found.adamw_lr) == (0.5, 0.25)
    assert found.name == general.name
    assert found.momentum < general.momentum
