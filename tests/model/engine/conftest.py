"""Small networks whose every weight matters, and a way to run sessions to their end."""

from collections.abc import Iterable

import pytest
import torch

from model import ModelConfig, Transformer
from model.engine import Completion, Engine, Request

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "moe_intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 3, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 5,
    "num_experts_per_tok": 2, "index_n_heads": 3, "index_head_dim": 16, "index_topk": 6,
    "num_nextn_predict_layers": 0, "max_position_embeddings": 64,
}  # fmt: skip


def build(seed: int, **changes: object) -> Transformer:
    """A transformer with gains, biases and matrices far from their initial values."""
    transformer = Transformer(ModelConfig(**(SMALL | changes)))  # type: ignore[arg-type]
    transformer.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in transformer.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        spread = 0.2 if tensor.dim() == 1 else 1.2 * tensor.shape[-1] ** -0.5
        tensor.copy_(tensor + spread * noise if tensor.dim() == 1 else spread * noise)
        if name == "model.embed_tokens.weight":
            tensor.copy_(noise)
    return transformer.eval()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def transformer() -> Transformer:
    return build(0)


@pytest.fixture(params=["native", "reference"])
def native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "native")


def run(engine: Engine, requests: Iterable[Request]) -> dict[str, Completion]:
    """Submit the requests and step until nothing is left."""
    for request in requests:
        engine.submit(request)
    done: dict[str, Completion] = {}
    while engine.has_work:
        done |= {completion.id: completion for completion in engine.step()}
    return done
