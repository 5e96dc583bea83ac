"""`python -m tasks.benchmarks.model_speed`: this network's speed next to transformers' `GlmMoeDsaForCausalLM`.

Both hold the same weights (ours are saved and read by theirs), run in one process in fp32 on as many threads, and
take turns. A training step is forward, backward and a step of torch's AdamW in sparse mode. Their indexer has no
gradients, so ours is frozen: both train the same parameters. The MTP layer, which they do not build, is left out.
Training is measured once more with both networks under torch's autocast to bfloat16, over the same fp32 weights and
in the same turns. `gain_bf16` is ours in bfloat16 to ours in fp32; `ratio_bf16` is ours in bfloat16 to transformers in
whichever of the two it is faster in. The two do not round the same: ours keeps all but the operands of matrix products
in fp32 (docs/bf16.md), theirs follows torch's lists of operations.
Decoding is greedy and in fp32, from the prompts to the last token, our engine against their `generate` with a cache.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from model import ModelConfig, Transformer
from model.engine import Engine, Request
from tasks.cli import Parser, program, whole
from tasks.errors import MachineError
from tasks.tracking.metrics import write_metrics

# The 6.5 M parameters that the peers' published figures were measured with
SHAPE = ModelConfig(
    vocab_size=2048, hidden_size=256, intermediate_size=768, moe_intermediate_size=192, num_hidden_layers=4,
    first_k_dense_replace=1, num_attention_heads=8, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1,
    kv_lora_rank=64, q_lora_rank=128, qk_rope_head_dim=16, qk_nope_head_dim=32, v_head_dim=32, index_topk=64,
    index_n_heads=4, index_head_dim=32, max_position_embeddings=4096, num_nextn_predict_layers=0,
)  # fmt: skip
LEARNING_RATE = 1e-4
AGREEMENT = 1e-5  # largest difference of logits, relative to the largest logit, where no tie can decide a selection
Work = Callable[[], None]


class DisagreementError(MachineError):
    """The two networks do not compute the same: their speeds cannot be compared."""


@dataclass(frozen=True)
class Case:
    """`batch` rows of `length` tokens, trained on or, where `new` is not 0, continued by so many."""

    batch: int
    length: int
    new: int = 0

    @property
    def tokens(self) -> int:
        """What a repeat is paid for: tokens trained on, or tokens sampled."""
        return self.batch * (self.new or self.length)


CASES = {
    "decode_32": Case(32, 64, 64),
    "train_8x256": Case(8, 256),
    "train_2x1024": Case(2, 1024),
    "train_1x4096": Case(1, 4096),
}


def their_copy(ours: Transformer) -> Any:
    """transformers' network with the same weights."""
    import transformers

    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def agreement(ours: Transformer, theirs: Any, length: int = 256) -> dict[str, float]:
    """How far the logits of two random rows are apart, relative to the largest.

    `relative_error` is the worst of the tokens that see all keys, where the two must agree. Beyond them plateaus of
    equal index scores let each select other keys, and what follows sees the difference: `later_median_error` is not
    bounded here (tests/model/test_parity.py holds the two together where no tie decides). Raises DisagreementError.
    """
    ids = random_tokens(2, length, ours.config.vocab_size)
    found, expected = ours(ids, mode="sparse").logits, theirs(ids).logits
    errors = (found - expected).abs().amax(-1) / expected.abs().max()  # [B, T]
    early, later = errors[:, : ours.config.index_topk], errors[:, ours.config.index_topk :]
    worst = float(early.max())
    if worst > AGREEMENT:
        raise DisagreementError(
            f"The logits of transformers and ours differ by {worst:.1e} of the largest, more than {AGREEMENT:.0e}, so "
            "their speeds cannot be compared."
        )
    return {"relative_error": worst, "later_median_error": float(later.median())}


def random_tokens(batch: int, length: int, vocabulary: int) -> Tensor:
    """[batch, length], the same at every call."""
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))


def training_works(ours: Transformer, theirs: Any, case: Case) -> dict[str, Work]:
    """One training step each on the same batch, in fp32 and under autocast."""
    ids = random_tokens(case.batch, case.length, ours.config.vocab_size)
    freeze_indexers(theirs)
    theirs.train()
    losses: dict[str, tuple[torch.nn.Module, Callable[[], Tensor]]] = {
        "ours": (ours, training_loss(ours, case)),
        "transformers": (theirs, lambda: theirs(input_ids=ids, labels=ids, use_cache=False).loss),
    }
    plain = {name: step(*pair, autocast=False) for name, pair in losses.items()}
    return plain | {f"{name}_bf16": step(*pair, autocast=True) for name, pair in losses.items()}


def training_loss(ours: Transformer, case: Case) -> Callable[[], Tensor]:
    """The loss of a case's batch; freezes the indexers."""
    freeze_indexers(ours)
    ids = random_tokens(case.batch, case.length, ours.config.vocab_size)
    weights = torch.ones(ids.shape)
    return lambda: ours.loss(ids, weights, mode="sparse").lm


def freeze_indexers(network: torch.nn.Module) -> None:
    """All other parameters are trained."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".indexer." not in name)


def step(network: torch.nn.Module, loss: Callable[[], Tensor], autocast: bool) -> Work:
    """Forward, backward and a step of the optimizer."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return work


def decoding_works(ours: Transformer, theirs: Any, case: Case) -> dict[str, Work]:
    """The same prompts continued greedily, in fp32. Reading the weights in is not part of the work."""
    prompts = random_tokens(case.batch, case.length, ours.config.vocab_size)
    engine = Engine(ours, case.batch, case.length + case.new + 1, prefill_rows=case.batch * case.length)
    theirs.eval()

    def our_work() -> None:
        for number, ids in enumerate(prompts.tolist()):
            engine.submit(Request(str(number), str(number), ids, case.new, temperature=0.0))
        while engine.has_work:
            engine.step()
        for number in range(case.batch):
            engine.release(str(number))

    def their_work() -> None:
        found = theirs.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=case.new, min_new_tokens=case.new,
            do_sample=False, use_cache=True, pad_token_id=0,
        )  # fmt: skip
        assert found.shape[1] == case.length + case.new

    return {"ours": our_work, "transformers": their_work}


def compare(works: Mapping[str, Work], tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of each work by the median of `repeats`, taken in turns after one call each to warm up.

    `ratio_spread` are the smallest and the largest ratio within a turn, `seconds` all that was measured.
    """
    for work in works.values():
        work()
    turns = [{name: timed(work) for name, work in works.items()} for _ in range(repeats)]
    middle = {name: median(turn[name] for turn in turns) for name in works}
    ratios = [turn["transformers"] / turn["ours"] for turn in turns]
    return {
        **{name: round(tokens / seconds, 1) for name, seconds in middle.items()},
        "ratio": round(middle["transformers"] / middle["ours"], 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        **_in_bfloat16(middle),
        "seconds": {name: [round(turn[name], 4) for turn in turns] for name in works},
    }


def _in_bfloat16(seconds: Mapping[str, float]) -> dict[str, float]:
    """How our step under autocast compares with theirs, in whichever they are faster, and with our own in fp32."""
    if "ours_bf16" not in seconds:
        return {}
    theirs = min(seconds["transformers"], seconds["transformers_bf16"])
    return {
        "ratio_bf16": round(theirs / seconds["ours_bf16"], 3),
        "gain_bf16": round(seconds["ours"] / seconds["ours_bf16"], 3),
    }


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def run(config: ModelConfig, cases: Mapping[str, Case], repeats: int) -> dict[str, Any]:
    """The content of metrics/bench_model.json: what was compared and where, and the figures of every case."""
    ours = Transformer(config)
    ours.init_weights(0)
    theirs = their_copy(ours)
    agreed = agreement(ours, theirs, min(256, config.max_position_embeddings))
    results: dict[str, Any] = {}
    for name, case in cases.items():  # decoding first: training changes the weights
        works = decoding_works if case.new else training_works
        results[name] = compare(works(ours, theirs, case), case.tokens, repeats) | {"shape": asdict(case)}
        print(_line(name, results[name]), flush=True)
    return results | {"agreement": agreed, "setting": _setting(ours, repeats)}


def _setting(ours: Transformer, repeats: int) -> dict[str, Any]:
    import transformers

    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
        "dtype": "float32; *_bf16 under autocast to bfloat16 over the same weights",
        "repeats": repeats,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "config": ours.config.to_hugging_face(),
        "training": "sparse mode, torch AdamW (fused) on both sides, indexers frozen on both sides",
    }


def machine() -> str:
    """What figures were measured on: architecture, processor, number of CPUs."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()}, {next(named, 'unknown processor')}, {os.cpu_count()} CPUs"


def _line(name: str, found: Mapping[str, Any]) -> str:
    low, high = found["ratio_spread"]
    speeds = f"{found['ours']:12,.0f}{found['transformers']:14,.0f}"
    line = f"{name:18}{speeds}{found['ratio']:9.2f}x  ({low:.2f} to {high:.2f})"
    if "ours_bf16" not in found:
        return line
    speeds = f"{found['ours_bf16']:12,.0f}{found['transformers_bf16']:14,.0f}"
    bfloat16 = f"{name + '_bf16':18}{speeds}{found['ratio_bf16']:9.2f}x  (to their faster one)"
    return f"{line}\n{bfloat16}"


@program("tasks.benchmarks.model_speed")
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and writes the metrics."""
    parser = Parser(prog="python -m tasks.benchmarks.model_speed")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=whole(1), default=5)
    parser.add_argument("--threads", type=whole(1, 4096), default=2)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_model.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print(f"{'tokens/s':18}{'ours':>12}{'transformers':>14}{'ratio':>10}  (within a turn)", flush=True)
    found = run(SHAPE, {name: CASES[name] for name in CASES if name in arguments.cases}, arguments.repeats)
    write_metrics(arguments.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
