"""The other operations: fused indexer and top-k, output layer, experts, normalisation, rotary embedding."""

from __future__ import annotations

from kernels.roofline.chip import Product
from kernels.roofline.operation import Launch, Operation


def indexer_flops(tokens: int, keys: int, heads: int, dim: int) -> int:
    """2 T S H D."""
    return 2 * tokens * keys * heads * dim


def indexer(tokens: int, keys: int, heads: int = 32, dim: int = 128, topk: int = 2048) -> Operation:
    """Scores that are never stored, and the selection: a program owns 64 queries and takes all keys, 128 at a time.

    A head's queries come from L2 again for every tile. Each of the T S H products costs a ReLU and a multiply-add,
    each of the T S scores about 8 instructions of selection.
    """
    products = tokens * keys * heads
    moved = tokens * heads * (dim * 2 + 4) + keys * dim * 2 + tokens * topk * 4
    launch = Launch(
        "scores and top-k", [Product(64, 128, dim)], products / (64 * 128), moved,
        products / 128 * dim * 2, lanes=2 * products + 8 * tokens * keys, programs=-(-tokens // 64),
    )  # fmt: skip
    shape = f"T {tokens} S {keys} H {heads} x {dim} topk {topk}"
    return Operation("indexer + top-k", shape, indexer_flops(tokens, keys, heads, dim), moved, [launch])


def cross_entropy_flops(tokens: int, hidden: int, vocabulary: int) -> int:
    """Forward and backward: three products of 2 M H V."""
    return 6 * tokens * hidden * vocabulary


def cross_entropy(tokens: int, hidden: int, vocabulary: int, chunk_bytes: int = 1 << 30) -> Operation:
    """Logits in chunks, in fp32: made by a library's product, read by two element-wise passes, never kept.

    The first pass reads them, the second reads them and writes their slopes in bf16, which two products read; the
    weight's gradient is read and written in fp32 by every chunk.
    """
    count, chunks = tokens * vocabulary, -(-tokens * vocabulary * 4 // chunk_bytes)
    tile, weights = Product(128, 256, 64, split=2), hidden * vocabulary
    steps = 3 * count * hidden / (128 * 256 * 64)
    traffic = count * (4 + 2 + 2) + weights * (2 * 2 + 8) * chunks + tokens * hidden * 8
    moved = tokens * hidden * 4 + weights * 4 + tokens * 8
    launches = [
        Launch("three products", [tile], steps, traffic, overlaps=True),
        Launch("losses", memory=4 * count, special=count, lanes=4 * count, overlaps=True),
        Launch("slopes", memory=6 * count, special=count, lanes=6 * count, overlaps=True),
    ]
    shape = f"M {tokens} H {hidden} V {vocabulary} fwd+bwd"
    return Operation("linear + cross-entropy", shape, cross_entropy_flops(tokens, hidden, vocabulary), moved, launches)


def experts_flops(rows: int, width: int, inner: int) -> int:
    """Forward and backward of rows (tokens times chosen experts): three matrices, three products each."""
    return 18 * rows * width * inner


def experts(tokens: int, width: int, inner: int, experts: int, chosen: int) -> Operation:
    """A library's grouped products, and between them passes that read and write rows."""
    rows, matrices = tokens * chosen, 3 * experts * width * inner
    tile = Product(128, 256, 64, split=2)
    steps = 9 * rows * width * inner / (128 * 256 * 64)
    moved = 4 * tokens * width * 2 + matrices * 2 * 3
    traffic = moved + rows * 2 * (6 * width + 8 * inner)
    launches = [
        Launch("products", [tile], steps, traffic, overlaps=True),
        Launch("gates", memory=2 * rows * 8 * inner, special=2 * rows * inner, lanes=20 * rows * inner, overlaps=True),
    ]
    shape = f"N {tokens} x {chosen} of {experts}, {width} x {inner} fwd+bwd"
    return Operation("experts", shape, experts_flops(rows, width, inner), moved, launches)


def rms_norm(rows: int, width: int) -> Operation:
    """Forward and backward: x in, y out; x and the slope of y in, the slope of x out."""
    count = rows * width
    launches = [Launch("forward", memory=4 * count, lanes=4 * count), Launch("backward", memory=6 * count)]
    return Operation("RMS norm", f"{rows} x {width} fwd+bwd", 0, 10 * count, launches)


def rope(rows: int, heads: int, dim: int) -> Operation:
    """Forward: x in, the rotated x out; the table is shared by the heads."""
    count = rows * heads * dim
    moved = 4 * count + rows * dim * 4
    return Operation("RoPE", f"{rows} x {heads} x {dim}", 0, moved, [Launch("forward", memory=moved, lanes=3 * count)])
