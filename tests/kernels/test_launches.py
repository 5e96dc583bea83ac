"""What is launched is what the gate compiles: all launchers at GLM-5's shapes, with kernels that only note the call."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import compile_gate, launch
from kernels.cases import SM80, SM90, SM100
from kernels.grouped_experts import triton as grouped_experts
from kernels.lightning_indexer import listed, scores, teacher
from kernels.linear_cross_entropy import triton as linear_cross_entropy
from kernels.rms_norm import triton as rms_norm
from kernels.rope import triton as rope
from kernels.sparse_attention import triton as sparse_attention
from kernels.sparse_decode import triton as sparse_decode
from kernels.topk import triton as topk

TENSORS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
TYPES = {**TENSORS, int: "i32", float: "fp32"}
Note = tuple[Any, dict[str, str], dict[str, Any]]  # kernel, type by argument, constants and options


def tensor(*shape: int, kind: torch.dtype = torch.bfloat16) -> Tensor:
    """Without memory: nothing computes."""
    return torch.empty(shape, dtype=kind, device="meta")


def whole(*shape: int) -> Tensor:
    return tensor(*shape, kind=torch.int32)


def wide(*shape: int) -> Tensor:
    return tensor(*shape, kind=torch.float32)


def attend() -> None:
    sparse_attention.forward(tensor(1, 2, 128, 576), tensor(1, 4096, 576), whole(1, 2, 2048), 0.1, 512)
    inputs = tensor(1, 2, 64, 576), tensor(1, 4096, 576), whole(1, 2, 2048), tensor(1, 2, 64, 512), wide(1, 2, 64)
    sparse_attention.backward(*inputs, tensor(1, 2, 64, 512), 0.1)
    for multiprocessors in 1, 132:
        paged = tensor(8, 64, 576), tensor(512, 64, 576), whole(8, 64), whole(8, 2048)
        sparse_decode.forward(*paged, 0.1, 512, multiprocessors)


def index() -> None:
    indexer, limits = (tensor(1, 64, 32, 128), tensor(1, 4096, 128), wide(1, 64, 32)), (whole(1, 64), whole(1, 64))
    attention = tensor(1, 64, 64, 576), tensor(1, 4096, 576), wide(1, 64, 64)
    scores.forward(*indexer, *limits)
    scores.backward(*indexer, wide(1, 64, 4096), *limits)
    topk.select_keys(wide(1, 64, 4096), *limits, 2048)
    topk.select_keys_fused(*indexer, *limits, 2048)
    teacher.attention_lse(*attention[:2], *limits, 0.1)
    teacher.dense_loss(indexer, attention, *limits, 0.1, True)
    listed.listed_loss(indexer, attention, whole(1, 64, 2048), 0.1, True)


def others() -> None:
    targets = tensor(2, kind=torch.int64)
    linear_cross_entropy.weighted(tensor(2, 16), tensor(154_880, 16), targets, wide(2), -100, 0.0)
    for width in 512, 6144, 8192:
        rms_norm.forward(tensor(2, width), tensor(width), 1e-5)
        rms_norm.backward(tensor(2, width), tensor(width), wide(2), tensor(2, width))
    for inverse in False, True:
        rope.rotate(tensor(2, 64, 64), tensor(2, 1, 32, kind=torch.complex64), inverse)
    grouped_experts.weighted_swiglu(tensor(2, 4096), wide(2))
    grouped_experts.weighted_swiglu_gradients(tensor(2, 4096), wide(2), tensor(2, 2048))
    grouped_experts.clear_empty(tensor(32, 6144, 2048), whole(32))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[Note]:
    """The launches so far; no kernel runs."""
    found: list[Note] = []

    def launched(kernel: Any, _: Any) -> Any:
        def note(*args: Any, **settings: Any) -> None:
            values = zip(kernel.arg_names, args, strict=False)
            types = {name: TYPES[x.dtype if isinstance(x, Tensor) else type(x)] for name, x in values}
            found.append((kernel, types, settings))

        return note

    monkeypatch.setattr(type(topk._fused), "__getitem__", launched)
    return found


@pytest.mark.parametrize("chip", [SM80, SM90, SM100])
def test_the_gate_compiles_what_is_launched(chip: int, notes: list[Note], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "chip", lambda x: chip)
    for launches in attend, index, others:
        launches()
    cases = compile_gate.cases()
    assert {id(kernel) for kernel, *_ in notes} == {id(case.kernel) for case in cases}
    for case in cases:
        if chip in case.targets:
            wanted = dict(case.arguments), case.settings(chip)
            assert wanted in [note[1:] for note in notes if note[0] is case.kernel], case.name


@pytest.mark.parametrize(
    ("capability", "chip"),
    [((8, 0), SM80), ((8, 9), SM80), ((9, 0), SM90), ((10, 0), SM100), ((10, 3), SM100), ((12, 0), SM80)],
)
def test_a_chip_takes_the_settings_of_its_generation(
    capability: tuple[int, int], chip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnGpu:
        is_cuda, device = True, "cuda:0"

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert launch.chip(OnGpu()) == chip  # type: ignore[arg-type]
    assert launch.settings(OnGpu(), {"BK": 64, "BH": 1}, {SM100: {"BK": 32}})["BK"] == (32 if chip == SM100 else 64)  # type: ignore[arg-type]


def test_without_a_gpu_the_settings_are_those_of_hopper() -> None:
    assert launch.chip(torch.zeros(1)) == SM90
