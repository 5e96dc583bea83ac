"""A decoding step's sparse attention: the kernels (by Triton's interpreter) against the formula in float64."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.sparse_attention import sparse_mla
from kernels.sparse_decode import operator, reference, sparse_decode, triton
from kernels.sparse_decode.share import steps_of
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
SCALE = 0.2
pytestmark = pytest.mark.usefixtures("poisoned")


class Problem(NamedTuple):
    """query [B, H, D], pages [P, page, D], page_table [B, N], index [B, K]."""

    query: Tensor
    pages: Tensor
    page_table: Tensor
    index: Tensor


def problem(
    batch: int = 3, heads: int = 5, topk: int = 150, page: int = 16, columns: int = 12, seed: int = 0, fewest: int = 1
) -> Problem:
    """Lists of different lengths, in no order: the last one empty. Every page and row nobody lists holds NaN."""
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, 80, generator=draw)
    page_table = torch.randperm(batch * columns + 3, generator=draw)[: batch * columns].view(batch, columns).int()
    index = torch.full((batch, topk), -1, dtype=torch.int32)
    for row in index[: max(1, batch - 1)]:
        most = min(topk, columns * page)
        count = int(torch.randint(min(fewest, most), most + 1, (), generator=draw))
        row[:count] = torch.randperm(columns * page, generator=draw)[:count]
    pages = torch.full((batch * columns + 3, page, 80), torch.nan)
    sequence, place = torch.nonzero(index >= 0, as_tuple=True)
    position = index[sequence, place].long()
    slots = page_table[sequence, position // page].long(), position % page
    pages[slots] = torch.randn(len(position), 80, generator=draw)
    return Problem(query, pages, page_table, index)


def check(kernels, p: Problem | None = None, multiprocessors: int = 6) -> None:
    """`multiprocessors` decides how many shares a list is cut into."""
    p = p or problem()
    out, lse = kernels.forward(*p, SCALE, 64, multiprocessors)
    wanted, wanted_lse = reference.sparse_decode(p.query.double(), p.pages.double(), *p[2:], SCALE, 64)
    some = wanted_lse > -torch.inf
    assert relative_error(out, wanted) <= TOLERANCE
    assert relative_error(lse[some], wanted_lse[some]) <= TOLERANCE
    assert (lse[~some] == -torch.inf).all()


def check_whole(kernels) -> None:
    check(kernels, multiprocessors=1)


def check_many_shares(kernels) -> None:
    check(kernels, problem(batch=1, topk=380, columns=24, fewest=380), multiprocessors=132)


@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.sampled_from([1, 3, 16, 17, 66]),
    topk=st.sampled_from([1, 7, 64, 65, 130]),
    page=st.sampled_from([1, 3, 16, 64]),
    multiprocessors=st.sampled_from([1, 4, 132]),
    seed=st.integers(0, 99),
)
def test_any_shape(batch: int, heads: int, topk: int, page: int, multiprocessors: int, seed: int) -> None:
    check(triton, problem(batch, heads, topk, page, seed=seed), multiprocessors)


@pytest.mark.parametrize(("programs", "steps"), [(1, 1), (8, 2), (66, 16), (400, 32)])
def test_shares_get_smaller_where_the_chip_is_emptier(programs: int, steps: int) -> None:
    assert steps_of(2048, programs, 132) == steps


def test_a_share_with_nothing_in_it_counts_for_nothing() -> None:
    p = problem(batch=1, topk=192)
    p.index[:, 3:] = -1
    check(triton, p, multiprocessors=3)


def test_both_ends_of_every_page_are_read() -> None:
    p = problem(batch=1, page=16, columns=4)
    edges = torch.tensor([[0, 15, 16, 31, 32, 47, 48, 63]], dtype=torch.int32)
    check(triton, p._replace(index=edges, pages=torch.randn_like(p.pages.nan_to_num())))


def test_rows_past_two_to_the_thirty_first_element_are_found() -> None:
    try:
        room = np.zeros((27_000_000, 1, 80), dtype=np.float32)  # 8.6 GB of addresses, a few pages of memory
    except MemoryError:
        pytest.skip("This machine does not lend 8.6 GB of addresses.")
    pages = torch.from_numpy(room)
    page_table = torch.tensor([[3, 26_999_999]], dtype=torch.int32)
    pages[page_table[0].long()] = torch.randn(2, 1, 80)
    query, index = torch.ones(1, 2, 80), torch.tensor([[1, 0]], dtype=torch.int32)
    near = pages[page_table[0].long()], torch.tensor([[0, 1]], dtype=torch.int32)
    wanted, _ = triton.forward(query, *near, index, SCALE, 64)
    far, _ = triton.forward(query, pages, page_table, index, SCALE, 64)
    assert torch.equal(wanted, far)


def test_it_is_sparse_attention_of_one_token() -> None:
    p = problem(batch=2, columns=3)
    p = p._replace(pages=torch.randn_like(p.pages.nan_to_num()))
    latent = p.pages[p.page_table.long()].flatten(1, 2)
    wanted, wanted_lse = sparse_mla(p.query.unsqueeze(1), latent, p.index.unsqueeze(1), SCALE, 64)
    out, lse = sparse_decode(*p, SCALE, 64)
    torch.testing.assert_close(out, wanted.squeeze(1))
    torch.testing.assert_close(lse, wanted_lse.squeeze(1))


MUTANTS = [  # check, kernel, what stands there, what breaks it
    (check, "_slots", "position // PAGE", "position % PAGE"),
    (check, "_slots", "position % PAGE, -1", "position % 8, -1"),
    (check, "_slots", "row * columns", "0"),
    (check, "_slots", "page * PAGE + position % PAGE, -1", "page * PAGE + position % PAGE, 0"),
    (check, "_shares", "* steps * BK", "* BK"),
    (check, "_shares", "begin + steps * BK, K", "begin + BK, K"),
    (check, "_shares", "tl.dot(q_rotary", "tl.dot(q_rotary * 0"),
    (check, "_shares", "place += tl.program_id(2).to(tl.int64) * batch * H", "place += tl.program_id(2) * H"),
    (check, "_shares", "(head < H)", "(head < H - 1)"),
    (check_whole, "_shares", "shrink = tl.exp2(top - safe)", "shrink = tl.exp2(safe - safe)"),
    (check_many_shares, "_combine", "shrink = tl.exp2(top - safe)", "shrink = tl.exp2(safe - safe)"),
    (check_many_shares, "_combine", "weight = tl.exp2(norm - safe)", "weight = tl.exp2(norm - norm)"),
    (check_many_shares, "_combine", "(number < shares)[:, None]", "(number < shares - 1)[:, None]"),
]


@pytest.mark.parametrize(("check", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    assert_caught(check, triton, kernel, old, new, tmp_path)


def test_the_operator_is_well_behaved() -> None:
    p = problem(batch=2, heads=2, topk=5)
    torch.library.opcheck(operator.sparse_decode, (*p, SCALE, 64))


def test_wrong_shapes_are_refused() -> None:
    p = problem()
    with pytest.raises(ValueError, match="needs \\[B, H, D\\]"):
        sparse_decode(p.query, p.pages, p.page_table[:1], p.index, SCALE, 64)
    with pytest.raises(ValueError, match="int32"):
        sparse_decode(p.query, p.pages, p.page_table, p.index.long(), SCALE, 64)
