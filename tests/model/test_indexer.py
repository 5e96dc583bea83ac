"""The indexer's loss block by block against the formula."""

import pytest
import torch
from torch import Tensor

from kernels.lightning_indexer import index_scores
from model import indexer
from model.indexer import IndexInputs, indexer_loss


@pytest.mark.parametrize("block", [3, 8, 128])
def test_the_loss_and_its_gradients_are_the_formulas_whatever_the_block(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "TEACHING_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 8, 3, 4), (2, 11, 4), (2, 8, 3))
    leaves = IndexInputs(*(torch.randn(s, generator=generator).requires_grad_() for s in shapes))
    mask = torch.rand(2, 8, 11, generator=generator) < 0.5
    mask[..., 0] = True
    teacher = torch.rand(2, 8, 11, generator=generator) * mask
    teacher = teacher / teacher.sum(-1, keepdim=True)

    def target(rows: slice) -> tuple[Tensor, Tensor]:
        return teacher[:, rows], mask[:, rows]

    log_student = index_scores(*leaves).masked_fill(~mask, -torch.inf).log_softmax(-1).masked_fill(~mask, 0.0)
    expected = (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1).mean()
    found = indexer_loss(leaves, target)
    assert torch.allclose(found, expected, atol=1e-6)
    ours, theirs = (torch.autograd.grad(3 * loss, leaves) for loss in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))
    with torch.no_grad():
        assert torch.allclose(indexer_loss(leaves, target), expected, atol=1e-6)
