"""The network with the kernels of a GPU, run by Triton's interpreter, next to the CPU's own."""

import pytest
import torch
from torch import Tensor

from kernels import launch
from tests.kernels.errors import relative_error
from tests.model.shapes import small_transformer, tokens

FITTING = {"kv_lora_rank": 64, "qk_rope_head_dim": 16, "index_head_dim": 16}  # what the kernels of attention take

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
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    on_gpu = training_step(mode, sizes)
    assert on_gpu.keys() == on_cpu.keys()
    for name, wanted in on_cpu.items():
        assert relative_error(on_gpu[name], wanted, floor=1e-3) <= 1e-4, name


def test_the_cpu_keeps_its_own_kernels() -> None:
    assert not launch.on_gpu(torch.zeros(1))
