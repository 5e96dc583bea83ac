"""The order and the material of the laptop's phases, and what copying needs of the first weights."""

from pathlib import Path

from model import Transformer
from tasks import midtrain, pretrain
from tasks.config import load_config
from tasks.training.settings import OptimizerSettings

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"


def test_copying_comes_before_the_text_and_stays_in_it() -> None:
    config = load_config(PARAMS)
    copy, text = pretrain.phases(config)
    assert (copy.name, copy.mixture, copy.until) == ("copy", {"letters": 1.0}, config.pretrain.copy_loss)
    assert set(text.mixture) == {"corpus", "letters", "tokens"}
    assert min(text.mixture.values()) > 0
    assert text.decay > 0


def test_sparse_attention_comes_last_in_midtraining() -> None:
    config = load_config(PARAMS)
    plan = midtrain.phases(config)
    assert [(phase.name, phase.mode, phase.train) for phase in plan] == [
        ("dense", "dense", "all"),
        ("agent", "dense", "all"),
        ("indexer", "warmup", "indexer"),
        ("sparse", "sparse", "all"),
    ]
    assert [phase.decay > 0 for phase in plan] == [False, False, False, True]
    assert plan[1].weights["corpus"] < 1
    assert plan[2].optimizer == OptimizerSettings.of_warmup(config.midtrain)


def test_embeddings_share_a_direction_from_which_positions_can_be_told() -> None:
    transformer = Transformer(load_config(PARAMS).model_config())
    transformer.init_weights(1)
    embedding = transformer.model.embed_tokens.weight.detach()
    assert embedding.mean(0).norm() > embedding.std(0).norm()
