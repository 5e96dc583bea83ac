"""`python -m model.engine.bench`: sampled tokens a second of the decode engine on this machine.

Each sequence starts from a random prompt and samples to the same length; prefill and sampling are timed apart, the
compiled and the reference step beside each other.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from model.config import ModelConfig
from model.engine.engine import Engine
from model.engine.request import Request
from model.presets import PRESETS
from model.transformer import Transformer


@dataclass(frozen=True)
class Speed:
    """Tokens a second."""

    prefill: float
    decode: float


def measure(engine: Engine, sequences: int, prompt: int, new: int, clock: Callable[[], float]) -> Speed:
    """Fill `sequences` slots with prompts of `prompt` tokens, then sample `new` tokens in each of them."""
    vocabulary = engine.config.vocab_size
    prompts = torch.randint(vocabulary, (sequences, prompt), generator=torch.Generator().manual_seed(0))
    for number, ids in enumerate(prompts.tolist()):
        engine.submit(Request(str(number), str(number), ids, new + 1, seed=number))
    begin = clock()
    while bool((engine.sessions.length <= prompt).any()):  # until every session has sampled its first token
        engine.step()
    filled = clock()
    before = int(engine.sessions.length.sum())
    while engine.has_work:
        engine.step()
    sampled = int(engine.sessions.length.sum()) - before
    for number in range(sequences):
        engine.release(str(number))
    return Speed(sequences * prompt / (filled - begin), sampled / (clock() - filled))


def _whole(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:10]) < 2**31 or len(text) > 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {2**31 - 1}")
    return int(text)


def main() -> None:
    """Print the speeds of the compiled and the reference step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="laptop")
    parser.add_argument("--sequences", type=_whole, default=96)
    parser.add_argument("--prompt", type=_whole, default=150)
    parser.add_argument("--new", type=_whole, default=150)
    parser.add_argument("--threads", type=_whole, default=1)
    parser.add_argument("--repeats", type=_whole, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="count this process's CPU time, not the wall clock's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformer = Transformer(ModelConfig.preset(arguments.preset))
    transformer.init_weights(0)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for name, native in (("compiled", None), ("reference", False)):
        engine = Engine(transformer, arguments.sequences, arguments.prompt + arguments.new + 2, native=native)
        for _ in range(arguments.repeats):
            speed = measure(engine, arguments.sequences, arguments.prompt, arguments.new, clock)
            print(f"{name} step: prefill {speed.prefill:.0f} tok/s, sampling {speed.decode:.0f} tok/s", flush=True)


if __name__ == "__main__":
    main()
