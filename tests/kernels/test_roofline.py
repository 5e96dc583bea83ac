"""The roofline's formulas against published ones and against counts made another way."""

import re

import pytest

from kernels import page
from kernels.roofline import others, sparse
from kernels.roofline.__main__ import main, operations
from kernels.roofline.chip import Chip, Product
from kernels.roofline.operation import Launch, Operation
from kernels.roofline.sparse import Shape

CHIP = Chip()
KEY = Shape(tokens=4096, keys=8192, heads=128)  # the shape on which peers publish figures


def test_sparse_attention_is_counted_as_its_peers_count_it() -> None:
    tokens, topk, heads, query, value = 4096, 2048, 128, 576, 512
    assert sparse.forward_flops(KEY) == 2 * tokens * topk * heads * (query + value)
    assert sparse.backward_flops(KEY) == 2 * tokens * topk * heads * (3 * query + 2 * value)


def test_the_other_counts() -> None:
    assert others.indexer_flops(2, 3, 5, 7) == 2 * 2 * 3 * 5 * 7
    assert others.cross_entropy_flops(2, 3, 5) == 3 * (2 * 2 * 3 * 5)
    assert others.experts_flops(2, 3, 5) == 3 * 3 * (2 * 2 * 3 * 5)  # gate, up and down; forward and two gradients


def test_the_forward_kernel_computes_nothing_twice() -> None:
    (launch,) = sparse.forward(KEY).launches
    assert launch.flops == sparse.forward_flops(KEY)


def test_the_backward_kernels_compute_only_the_scores_again() -> None:
    s = Shape(4096, 8192, 64)
    executed = sum(launch.flops for launch in sparse.backward(s).launches)
    assert executed == sparse.backward_flops(s)  # the published count has the scores again in it
    assert executed - sparse.forward_flops(s) == 2 * s.scores * (2 * s.width + s.value_dim)


def test_every_listed_key_gets_one_addition_a_column_and_block_of_heads() -> None:
    latent = sparse.backward(Shape(10, 8192, 128)).launches[1]
    assert latent.additions == 10 * 2 * 2048 * 576


def test_a_product_with_a_narrow_operand_waits_for_shared_memory() -> None:
    narrow = Product(64, 32, 16, split=2)  # two instructions m64n16k16: 2 KB and 512 bytes each
    assert narrow.shared_bytes == 2 * (2048 + 512)
    assert narrow.cycles(CHIP) == narrow.shared_bytes / 128
    wide = Product(64, 512, 16, split=2, registers=True)  # two instructions m64n256k16: 8 KB each
    assert wide.shared_bytes == 2 * 8192
    assert wide.cycles(CHIP) == wide.flops / 4096


def test_on_chip_rates_are_those_of_the_data_sheet() -> None:
    assert CHIP.on_chip(CHIP.tensor_cycle) == pytest.approx(CHIP.tensor, rel=0.05)
    assert CHIP.on_chip(CHIP.special_cycle) == pytest.approx(3.9e12, rel=0.06)  # FlashAttention-3, section 3.1
    assert 770e12 <= CHIP.matmul <= 800e12 < CHIP.tensor
    assert CHIP.copy < CHIP.memory


def test_a_launch_that_does_not_overlap_takes_the_sum() -> None:
    step = [Product(64, 64, 16)]
    apart = Launch("x", step, steps=1e6, special=1e9)
    beside = Launch("x", step, steps=1e6, special=1e9, overlaps=True)
    alone = Launch("x", step, steps=1e6).reach(CHIP)
    assert apart.reach(CHIP) == pytest.approx(alone + 1e9 / CHIP.on_chip(16))
    assert beside.reach(CHIP) == pytest.approx(max(alone, 1e9 / CHIP.on_chip(16)))


def test_programs_that_leave_multiprocessors_idle_take_longer() -> None:
    full, half = (Launch("x", [Product(64, 64, 16)], 1e6, programs=n).reach(CHIP) for n in (132, 66))
    assert half == pytest.approx(2 * full)


def test_the_memory_bound_of_a_copy_is_its_bytes() -> None:
    copy = Operation("copy", "", 0, 4.8e9, [Launch("x", memory=4.8e9)])
    assert copy.floor(CHIP.tensor, CHIP.memory) == pytest.approx(1e-3)
    assert copy.bound(CHIP) == "memory"
    assert copy.share(CHIP) == pytest.approx(4.3 / 4.8)


def test_no_tiling_is_faster_than_its_floor() -> None:
    for operation in operations():
        assert 0 < operation.share(CHIP) < 1, operation.name


def test_decoding_moves_each_listed_row_once() -> None:
    for batch in (1, 128):
        moved = sparse.decode(Shape(batch, 131_072, 64)).bytes
        assert moved == pytest.approx(batch * 2048 * 576 * 2, rel=0.08)


def test_the_table_has_a_line_an_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(operations())
    assert main(["--launches"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"sparse attention backward: latent +\d", printed)


def test_the_page_has_these_tables() -> None:
    written = page.PAGE.read_text()
    assert page.filled(written) == written, "docs/kernels.md is out of date; run `python -m kernels.page`."
    assert "sparse_decode.combine | sm_90" in written
