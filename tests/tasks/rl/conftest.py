"""Made-up trajectories for the tests of this folder."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model import ModelConfig, Transformer
from tasks.rl.trajectory import NOT_SAMPLED, Trajectory


def _make_trajectory(group=0, sample=0, version=0, error=None, tokens=(2, 11, 3, 20, 4, 30, 3, 0)):
    mask = [0, 0, 0, 1, 1, 0, 0, 1][: len(tokens)]
    versions = [version if bit else NOT_SAMPLED for bit in mask]
    log_probs = [-0.5 if bit else 0.0 for bit in mask]
    return Trajectory(
        f"shell-train-{group}", "shell", group, "train", group, sample, list(tokens), mask, log_probs, versions,
        {"a.txt": b"one\n"}, 1, 0, "stop", error,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_trajectory() -> Callable[..., Trajectory]:
    return _make_trajectory


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A checkpoint folder of a tiny untrained model whose tokenizer knows single bytes."""
    config = ModelConfig(
        vocab_size=288, hidden_size=32, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, n_routed_experts=4, index_n_heads=2, index_head_dim=16, index_topk=64,
        max_position_embeddings=512,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "midtrain"
    model.save_pretrained(folder, {"tokenizer.json": _byte_tokenizer().encode()})
    return folder


def _byte_tokenizer():
    special = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=288, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the file a.txt holds the words"] * 4, trainer)
    return tokenizer.to_str()
