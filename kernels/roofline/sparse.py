"""Sparse attention as `kernels.sparse_attention.triton` and `kernels.sparse_decode.triton` compute it."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.roofline.chip import Product
from kernels.roofline.operation import Launch, Operation

SOFTMAX = 6  # fp32 instructions a score: scale, mask, largest, subtract, add, round
GROUPS = 2  # warpgroups of a program
L2_BYTES = 50 << 20


@dataclass(frozen=True)
class Shape:
    """tokens (or sequences of a batch) that attend to `topk` of `keys` latents of value_dim + rotary columns."""

    tokens: int
    keys: int
    heads: int
    topk: int = 2048
    value_dim: int = 512
    rotary: int = 64

    @property
    def width(self) -> int:
        """Columns of a query and of a key."""
        return self.value_dim + self.rotary

    @property
    def scores(self) -> int:
        """How many scores there are."""
        return self.tokens * self.topk * self.heads

    @property
    def rows(self) -> int:
        """Heads of a program."""
        return min(64, self.heads)

    @property
    def programs(self) -> int:
        """One a token and block of heads."""
        return self.tokens * -(-self.heads // self.rows)

    @property
    def gathered(self) -> int:
        """Bytes of the latents that all programs gather, through L2."""
        return self.programs * self.topk * self.width * 2

    @property
    def missed(self) -> float:
        """Of these, what L2 does not hold where every token lists keys at random: the worst case."""
        return self.gathered * max(0.0, 1 - L2_BYTES / (self.keys * self.width * 2))


def forward_flops(s: Shape) -> int:
    """2 S topk H (Dqk + Dv)."""
    return 2 * s.scores * (s.width + s.value_dim)


def backward_flops(s: Shape) -> int:
    """2 S topk H (3 Dqk + 2 Dv)."""
    return 2 * s.scores * (3 * s.width + 2 * s.value_dim)


def forward_bytes(s: Shape) -> int:
    """Query, latent and index in, output and log-sum-exp out."""
    per_head = s.width * 2 + s.value_dim * 2 + 4
    return s.tokens * s.heads * per_head + s.keys * s.width * 2 + s.tokens * s.topk * 4


def backward_bytes(s: Shape) -> int:
    """The same, with the output's gradient in and those of query and latent out."""
    return forward_bytes(s) + s.tokens * s.heads * (s.width + s.value_dim) * 2 + s.keys * s.width * 2


def forward(s: Shape) -> Operation:
    """64 heads x 64 keys a step; the weights are the second product's register operand."""
    step = (Product(s.rows, 64, s.width, GROUPS), Product(s.rows, s.value_dim, 64, GROUPS, registers=True))
    launch = Launch(
        "forward", step, s.programs * s.topk / 64, forward_bytes(s) + s.missed, s.gathered, s.scores,
        s.scores * (SOFTMAX + s.value_dim / 64), programs=s.programs,
    )  # fmt: skip
    return Operation("sparse attention forward", _name(s), forward_flops(s), forward_bytes(s), [launch])


def backward(s: Shape) -> Operation:
    """The gradient of the latents and the slopes, then the gradient of the queries."""
    slopes, grads = s.scores * 2, s.tokens * s.heads * (2 * s.width + 2 * s.value_dim) * 2
    latent = (  # 32 keys a step: scores, slopes of the weights, then four quarters of the columns and the rotary part
        Product(s.rows, 32, s.width, GROUPS),
        Product(s.rows, 32, s.value_dim, GROUPS),
        *[Product(s.value_dim // 4, 32, s.rows)] * 8,
        Product(s.rotary, 32, s.rows, GROUPS),
    )
    query = Product(s.rows, s.value_dim, 32, GROUPS), Product(s.rows, s.rotary, 32, GROUPS)
    steps, cache = s.programs * s.topk / 32, s.keys * s.width
    rows = s.tokens * s.heads * s.value_dim
    launches = [
        Launch("mean slope", memory=4 * rows, lanes=2 * rows),
        Launch(
            "latent", latent, steps, slopes + grads + cache * 10 + s.missed, s.gathered + slopes, s.scores,
            s.scores * SOFTMAX, s.programs * s.topk * s.width, s.programs,
        ),
        Launch(
            "query", query, steps, slopes + grads / 2 + cache * 2 + s.missed, s.gathered + slopes, programs=s.programs
        ),
    ]  # fmt: skip
    return Operation("sparse attention backward", _name(s), backward_flops(s), backward_bytes(s), launches)


def decode(s: Shape, multiprocessors: int = 132) -> Operation:
    """One token of each of `tokens` sequences; every sequence has its own keys, so nothing is gathered twice."""
    from kernels.sparse_decode.share import BLOCK, steps_of

    shares = -(-s.topk // (steps_of(s.topk, s.programs, multiprocessors) * BLOCK))
    step = (Product(s.rows, BLOCK, s.width, GROUPS), Product(s.rows, s.value_dim, BLOCK, GROUPS, registers=True))
    moved = s.tokens * (s.topk * (s.width * 2 + 4) + s.heads * (2 * s.width + 2 * s.value_dim + 4))
    parts = 0 if shares == 1 else s.tokens * s.heads * (s.value_dim + 1) * 4 * shares
    launches = [
        Launch("slots", memory=s.tokens * s.topk * 8),
        Launch(
            "shares", step, s.programs * s.topk / BLOCK, moved, s.gathered + parts, s.scores,
            s.scores * (SOFTMAX + s.value_dim / BLOCK), programs=s.programs * shares,
        ),
        Launch("combine", l2=parts),
    ]  # fmt: skip
    return Operation("sparse decode", f"B {s.tokens} H {s.heads} topk {s.topk}", forward_flops(s), moved, launches)


def _name(s: Shape) -> str:
    return f"S {s.tokens} SKV {s.keys} H {s.heads} topk {s.topk}"
