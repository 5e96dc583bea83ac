"""The network with the kernels of a GPU, run by Triton's interpreter, next to the CPU's own."""

import pytest
import torch
from torch import Tensor

from kernels import launch
from kernels.topk import triton as topk
from model.engine import Engine, Request
from tests.kernels.errors import relative_error
from tests.model.engine.conftest import build, run
from tests.model.shapes import small_transformer, tokens

FITTING = {"kv_lora_rank": 64, "qk_rope_head_dim": 16, "index_head_dim": 16}  # what the kernels of attention take

PROMPTS = (("short", 3), ("long", 9))
SHARED = FITTING | {"indexer_types": ("full", "shared", "full")}


def training_step(mode: str, sizes: dict[str, object]) -> dict[str, Tensor]:
    """Losses, log-probabilities and the gradient of every parameter that has one."""
    network, ids = small_transformer(**sizes), tokens(2, 14)
    documents = (torch.arange(14) > 3).long().expand(2, -1)
    losses = network.loss(ids, torch.rand(2, 14, generator=torch.Generator().manual_seed(1)), documents, mode)
    losses.total.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    with torch.no_grad():
        found["log-probabilities"] = network.log_probs(ids, documents, mode)
    return found | {"lm": losses.lm.detach(), "mtp": losses.mtp.detach(), "indexer": losses.indexer.detach()}


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [("dense", {}), ("warmup", FITTING), ("sparse", SHARED)],
)
def test_a_training_step_has_the_same_losses_and_gradients(
    mode: str, sizes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = training_step(mode, sizes)
    monkeypatch.setattr(topk, "FUSED", {"BT": 16, "BS": 16, "BR": 1, "STAGES": 1})  # the interpreter is slow
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    on_gpu = training_step(mode, sizes)
    assert on_gpu.keys() == on_cpu.keys()
    for name, wanted in on_cpu.items():
        assert relative_error(on_gpu[name], wanted, floor=1e-3) <= 1e-4, name


def test_the_cpu_keeps_its_own_kernels() -> None:
    assert not launch.on_gpu(torch.zeros(1))


def decoded() -> tuple[list[int], Tensor]:
    """Greedy continuations of two prompts, one within topk and one beyond it, and their log-probabilities."""
    engine = Engine(build(1, num_nextn_predict_layers=0, **SHARED), 2, 20, native=False)
    requests = [Request(name, name, tokens(1, length)[0].tolist(), 4, temperature=0.0) for name, length in PROMPTS]
    done = run(engine, requests)
    found = [done[name] for name, _ in PROMPTS]
    log_probs = torch.tensor([value for c in found for value in c.log_probs])
    return [token for c in found for token in c.token_ids], log_probs


def test_decoding_continues_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, log_probs = decoded()
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    found, found_log_probs = decoded()
    assert found == ids
    assert relative_error(found_log_probs, log_probs) <= 1e-5
