"""Index scores and the indexer's loss: the kernels (by Triton's interpreter) against the formulas in float64."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.lightning_indexer import (
    index_scores,
    indexer_loss_listed,
    indexer_loss_visible,
    operator,
    reference,
)
from kernels.lightning_indexer import listed as listed_kernels
from kernels.lightning_indexer import scores as score_kernels
from kernels.lightning_indexer import teacher as teacher_kernels
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
SCALE = 0.3
pytestmark = pytest.mark.usefixtures("poisoned", "small_tiles")


SMALL = {  # tiles and buffers so small that a few queries and keys fill several
    score_kernels: {n: {"BT": 16, "BS": 16, "STAGES": 1} for n in ("FORWARD", "BY_QUERY", "BY_KEY")},
    teacher_kernels: {
        "TEACHER": {"BT": 16, "BS": 16, "STAGES": 1}, "DIVERGENCE": {"BN": 16}, "BUFFER_BYTES": 8 * 2 * 37 * 11,
    },
    listed_kernels: {n: {"BK": 16, "STAGES": 1} for n in ("SCORES", "TEACHER", "BACKWARD")},
}  # fmt: skip


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, sizes in SMALL.items():
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)


def shrink(mutant, original) -> None:
    """A mutant has a module of its own, whose tiles the fixture does not reach."""
    for name, value in SMALL[original].items():
        setattr(mutant, name, value)


class Problem(NamedTuple):
    """The inputs of `index_scores` and of the losses; slope [B, T, S] is NaN where no key is visible."""

    index: tuple[Tensor, Tensor, Tensor]
    first: Tensor
    last: Tensor
    slope: Tensor
    attention: tuple[Tensor, Tensor]
    listed: Tensor


def problem(batch: int = 2, tokens: int = 17, keys: int = 37, heads: int = 2, seed: int = 0) -> Problem:
    """Ragged ranges and lists; the last query sees nothing and lists nothing."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (batch, tokens), generator=draw)

    index = normal(batch, tokens, heads, 16), normal(batch, keys, 16), normal(batch, tokens, heads)
    first = integers(0, keys)
    last = (first + integers(1, keys + 1)).clamp(max=keys)
    first[-1, -1] = last[-1, -1] = keys // 2
    slope = normal(batch, tokens, keys).masked_fill(~visible(first, last, keys), float("nan"))
    attention = normal(batch, tokens, heads + 1, 32), normal(batch, keys, 32)
    order = torch.rand(batch, tokens, keys, generator=draw).argsort(-1)[..., :21].int()
    listed = order.masked_fill(torch.arange(order.shape[-1]) >= integers(1, 22).unsqueeze(-1), -1)
    listed[-1, -1] = -1
    return Problem(index, first, last, slope, attention, listed)


def packed(tokens: int = 40, cut: int = 21) -> Problem:
    """Two documents in a row, causal in each."""
    p = problem(1, tokens, tokens)
    last = torch.arange(1, tokens + 1).unsqueeze(0)
    return p._replace(first=torch.where(last > cut, cut, 0), last=last, slope=torch.ones(1, tokens, tokens))


def visible(first: Tensor, last: Tensor, keys: int) -> Tensor:
    key = torch.arange(keys)
    return (key >= first.unsqueeze(-1)) & (key < last.unsqueeze(-1))


def exact_scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    products = torch.einsum("bthd,bsd->bths", query, key).relu()
    return (products * weights.unsqueeze(-1)).sum(2) * query.shape[-1] ** -0.5


def wide(p: Problem) -> tuple[Tensor, ...]:
    return tuple(x.double().requires_grad_() for x in p.index)


def attend(p: Problem, mask: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """(what the losses take, the teacher) of attention over the mask and keys beyond it: a mass less than 1."""
    query, latent = (x.double() for x in p.attention)
    logits = (torch.einsum("bthd,bsd->bths", query, latent) * SCALE).masked_fill(~mask.unsqueeze(2), -torch.inf)
    lse = logits.logsumexp(-1) + 0.25
    teacher = (logits - lse.nan_to_num(neginf=0.0).unsqueeze(-1)).exp().mean(2)
    return (*p.attention, lse.float()), teacher


def exact_loss(p: Problem, mask: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    """The mean divergence and the gradients of the index inputs."""
    inputs = wide(p)
    scores = exact_scores(*inputs).masked_fill(~mask, -1e30)
    log_student = scores.log_softmax(-1).masked_fill(~mask, 0.0)
    loss = (torch.xlogy(teacher, teacher) - teacher * log_student).sum() / mask[..., 0].numel()
    return loss.detach(), *torch.autograd.grad(loss, inputs)


def list_mask(p: Problem) -> Tensor:
    mask = torch.zeros(*p.listed.shape[:2], p.index[1].shape[1] + 1, dtype=torch.bool)
    columns = torch.where(p.listed < 0, mask.shape[-1] - 1, p.listed).long()
    return mask.scatter_(-1, columns, True)[..., :-1]


def check_forward(kernels, p: Problem | None = None) -> None:
    shrink(kernels, score_kernels)
    p = p or problem()
    wanted, seen = exact_scores(*wide(p)).detach(), visible(p.first, p.last, p.index[1].shape[1])
    found = kernels.forward(*p.index, p.first, p.last)
    assert relative_error(found[seen], wanted[seen]) <= TOLERANCE
    assert (found[~seen] == -torch.inf).all()
    assert relative_error(kernels.forward(*p.index, None, None), wanted) <= TOLERANCE


def check_backward(kernels, p: Problem | None = None) -> None:
    shrink(kernels, score_kernels)
    p = p or problem()
    inputs, seen = wide(p), visible(p.first, p.last, p.index[1].shape[1])
    (exact_scores(*inputs) * p.slope.double().masked_fill(~seen, 0.0)).sum().backward()
    found = kernels.backward(*p.index, p.slope, p.first, p.last)
    for gradient, x in zip(found, inputs, strict=True):
        assert relative_error(gradient, x.grad, 1e-3) <= TOLERANCE


def compare(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other, 1e-2) <= TOLERANCE


def check_visible_loss(kernels, p: Problem | None = None) -> None:
    shrink(kernels, teacher_kernels)
    p = p or problem()
    mask = visible(p.first, p.last, p.index[1].shape[1])
    attention, teacher = attend(p, mask)
    compare(kernels.dense_loss(p.index, attention, p.first, p.last, SCALE, True), exact_loss(p, mask, teacher))


def check_lse(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    found = kernels.attention_lse(*p.attention, p.first, p.last, SCALE)
    wanted = reference.attention_lse(*(x.double() for x in p.attention), p.first, p.last, SCALE)
    some = wanted > -torch.inf
    assert relative_error(found[some], wanted[some]) <= TOLERANCE
    assert (found[~some] == -torch.inf).all()


def check_listed_loss(kernels, p: Problem | None = None) -> None:
    shrink(kernels, listed_kernels)
    p = p or problem()
    attention, teacher = attend(p, list_mask(p))
    found = kernels.listed_loss(p.index, attention, p.listed, SCALE, True)
    compare(found, exact_loss(p, list_mask(p), teacher))


SHAPES = {
    "batch": st.integers(1, 2), "tokens": st.integers(1, 18), "keys": st.integers(1, 40),
    "heads": st.sampled_from([1, 2, 17]), "seed": st.integers(0, 99),
}  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(**SHAPES)
def test_scores_of_any_shape(batch: int, tokens: int, keys: int, heads: int, seed: int) -> None:
    p = problem(batch, tokens, keys, heads, seed)
    check_forward(score_kernels, p)
    check_backward(score_kernels, p)


@settings(max_examples=6, deadline=None)
@given(**SHAPES)
def test_losses_of_any_shape(batch: int, tokens: int, keys: int, heads: int, seed: int) -> None:
    p = problem(batch, tokens, keys, heads, seed)
    check_visible_loss(teacher_kernels, p)
    check_listed_loss(listed_kernels, p)


def test_packed_documents() -> None:
    check_forward(score_kernels, packed())
    check_backward(score_kernels, packed())
    check_visible_loss(teacher_kernels, packed())


def test_attention_heads_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed_kernels, "head_rows", lambda query: 16)
    check_listed_loss(listed_kernels, problem(1, 3, 30, heads=39))


def test_gradients_are_the_same_bits_in_every_run() -> None:
    p = problem()
    runs = [score_kernels.backward(*p.index, p.slope, p.first, p.last) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


MUTANTS = [  # check, module, kernel, what stands there, what breaks it
    (check_lse, teacher_kernels, "_lse", "score = tl.where(seen, score", "score = tl.where(seen | True, score"),
    (check_lse, teacher_kernels, "_lse", "tl.exp2(top - safe)", "tl.exp2(top - top)"),
    (check_forward, score_kernels, "score_tile", "tl.maximum(product, 0.0)", "product"),
    (check_forward, score_kernels, "_forward", "tl.where(seen, score", "tl.where(seen | True, score"),
    (check_forward, score_kernels, "_forward", "base = batch * tokens + begin", "base = batch * keys + begin"),
    (check_backward, score_kernels, "_backward_query", "product > 0", "product > -9"),
    (check_backward, score_kernels, "_backward_query", "tl.max(high)", "tl.min(high)"),
    (check_backward, score_kernels, "_backward_query", "mask=seen", "mask=inside[:, None] & (number < keys)[None, :]"),
    (check_backward, score_kernels, "_backward_key", "factor[None, :]", "factor[None, :] * 0 + pull"),
    (check_backward, score_kernels, "_backward_key", "before + sums", "sums * 2"),
    (check_backward, score_kernels, "_backward_key", "< begin + BS", "< begin"),
    (check_visible_loss, teacher_kernels, "_teacher", "total / H", "total / (H + 1)"),
    (check_visible_loss, teacher_kernels, "_teacher", "tl.dot(q_rotary,", "tl.dot(q_rotary * 0,"),
    (check_visible_loss, teacher_kernels, "_divergence", "* whole - p", "- p"),
    (check_visible_loss, teacher_kernels, "_divergence", "total * tl.exp(top - safe) +", "total +"),
    (check_visible_loss, teacher_kernels, "dense_loss", "total += divergence", "total = divergence"),
    (check_listed_loss, listed_kernels, "_scores", "* weight[None, :]", ""),
    (check_listed_loss, listed_kernels, "_listed", "number < K, other=-1", "number < K - 1, other=-1"),
    (check_listed_loss, listed_kernels, "_teacher", "(row // tokens)", "0"),
    (check_listed_loss, listed_kernels, "_backward", "at, to_key", "at, to_key - tl.load(grad_key + at)"),
    (check_listed_loss, listed_kernels, "_backward", "product > 0", "product < 0"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "module", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, module, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    assert_caught(check, module, kernel, old, new, tmp_path)


def test_the_operators_are_well_behaved() -> None:
    p = problem(1, 3, 9, 2)
    index = tuple(x.requires_grad_() for x in p.index)
    attention, _ = attend(p, visible(p.first, p.last, 9))
    torch.library.opcheck(operator.index_scores, (*index, p.first, p.last))
    torch.library.opcheck(operator.index_scores, (*index, None, None))
    torch.library.opcheck(operator.indexer_loss_visible, (*index, *attention, p.first, p.last, SCALE, True))
    attention, _ = attend(p, list_mask(p))
    torch.library.opcheck(operator.indexer_loss_listed, (*index, *attention, p.listed, SCALE, True))


@pytest.mark.parametrize("interpreted", [True, False])
def test_the_losses_teach_the_index_inputs_alone(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.launch.INTERPRETED", interpreted)
    p = problem()
    kinds = (
        (indexer_loss_visible, visible(p.first, p.last, 37), (p.first, p.last)),
        (indexer_loss_listed, list_mask(p), (p.listed,)),
    )
    for loss_of, mask, keys in kinds:
        taken, teacher = attend(p, mask)
        attention = tuple(x.clone().requires_grad_() for x in taken)
        index = tuple(x.clone().requires_grad_() for x in p.index)
        loss = loss_of(index, attention, *keys, SCALE)
        (loss * 3).backward()
        compare((loss.detach(), *(x.grad / 3 for x in index)), exact_loss(p, mask, teacher))
        assert all(x.grad is None for x in attention)


def test_scores_learn_through_the_public_function() -> None:
    p = problem()
    index = tuple(x.clone().requires_grad_() for x in p.index)
    seen = visible(p.first, p.last, 37)
    (index_scores(*index, p.first, p.last)[seen] * p.slope[seen]).sum().backward()
    wanted = score_kernels.backward(*p.index, p.slope, p.first, p.last)
    compare(tuple(x.grad for x in index), wanted)


def test_wrong_arguments_are_refused() -> None:
    p = problem()
    attention, _ = attend(p, list_mask(p))
    with pytest.raises(ValueError, match="both or neither"):
        index_scores(*p.index, p.first)
    with pytest.raises(ValueError, match="but ranges"):
        index_scores(*p.index, p.first[:1], p.last)
    with pytest.raises(ValueError, match=r"\[B, R, Ha\]"):
        indexer_loss_visible(p.index, (*attention[:2], attention[2][:1]), p.first, p.last, SCALE)
    with pytest.raises(ValueError, match="int32"):
        indexer_loss_listed(p.index, attention, p.listed.long(), SCALE)
