"""`python -m tasks.benchmarks.sampler [FOLDER]`: the decode engine on a trained checkpoint.

Continues held-out text with 0 to `--drafts` tokens drafted by the MTP layer: the mean number of tokens a step adds to
a sequence (the accept length), and how far the log-probabilities that it reports are from the trainer's, in fp32 and
in bf16 autocast, at every sampled token.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model import Transformer
from model.engine import Completion, Engine, Request
from tasks.benchmarks.parity import read_windows
from tasks.cli import Parser, program, whole

BOUND = 1e-5  # nats, in fp32


@dataclass(frozen=True)
class Measurement:
    """Of one run of the engine: see the module's text.

    speed: tokens a second of CPU time, prefill included. fp32_over: sampled tokens that are off by more than `BOUND`;
    behind a selection of keys or experts that rounding decides, the two may differ (see `Engine`).
    """

    accept_length: float
    speed: float
    fp32_largest: float
    fp32_over: int
    bf16_mean: float
    bf16_largest: float


def measure(transformer: Transformer, prompts: Tensor, new: int, temperature: float, drafts: int) -> Measurement:
    """Samples `new` tokens behind each of the prompts [N, T] with the engine. Raises EngineError without MTP layer."""
    engine = Engine(transformer, len(prompts), prompts.shape[1] + new + 1, speculate=drafts)
    for number, ids in enumerate(prompts.tolist()):
        engine.submit(Request(str(number), str(number), ids, new, temperature, seed=number))
    start, done = time.process_time(), dict[str, Completion]()
    while engine.has_work:
        done |= {completion.id: completion for completion in engine.step()}
    seconds = time.process_time() - start
    answers = [done[str(number)] for number in range(len(prompts))]
    off = _off(transformer, prompts, answers, temperature, torch.float32)
    rounded = _off(transformer, prompts, answers, temperature, torch.bfloat16)
    return Measurement(
        accept_length=engine.drafter.accept_length if engine.drafter else 1.0,
        speed=len(prompts) * new / seconds,
        fp32_largest=float(off.max()),
        fp32_over=int((off > BOUND).sum()),
        bf16_mean=float(rounded.mean()),
        bf16_largest=float(rounded.max()),
    )


@torch.no_grad()
def _off(
    transformer: Transformer, prompts: Tensor, answers: Sequence[Completion], temperature: float, dtype: torch.dtype
) -> Tensor:
    """[N, new]: the distance of the engine's log-probabilities from the trainer's."""
    sampled = torch.tensor([answer.token_ids for answer in answers])
    ids = torch.cat([prompts, sampled], dim=1)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = transformer(ids, mode="sparse").logits[:, prompts.shape[1] - 1 : -1].float()
    log_probs = (logits / (temperature or 1.0)).log_softmax(-1).gather(-1, sampled[..., None])[..., 0]
    return (log_probs - torch.tensor([answer.log_probs for answer in answers])).abs()


@program("tasks.benchmarks.sampler")
def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line a temperature and number of drafts."""
    parser = Parser(prog="python -m tasks.benchmarks.sampler", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("checkpoints/midtrain"))
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--sequences", type=whole(1), default=24)
    parser.add_argument("--prompt", type=whole(1), default=192, help="tokens of held-out text")
    parser.add_argument("--new", type=whole(1), default=96, help="tokens sampled behind each prompt")
    parser.add_argument("--drafts", type=whole(0), default=3, help="the most tokens drafted a step")
    arguments = parser.parse_args(argv)
    prompts = read_windows(arguments.corpus, arguments.prompt, arguments.sequences)
    transformer = Transformer.from_pretrained(arguments.folder).eval()
    print(f"{arguments.folder}: {len(prompts)} prompts of {prompts.shape[1]} tokens, {arguments.new} sampled")
    print("     T  drafts  accept length  tok/CPU-s  fp32 largest  over 1e-5  bf16 mean  bf16 largest")
    for temperature in (1.0, 0.0):
        for drafts in range(arguments.drafts + 1):
            found = measure(transformer, prompts, arguments.new, temperature, drafts)
            print(
                f"{temperature:6.1f}{drafts:8d}{found.accept_length:15.2f}{found.speed:11.0f}"
                f"{found.fp32_largest:14.1e}{found.fp32_over:11d}{found.bf16_mean:11.1e}{found.bf16_largest:14.1e}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
