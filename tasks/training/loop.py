"""Runs the phases of a stage: draws batches, steps, reports, saves, and goes on where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from model import Transformer
from tasks.training import distributed
from tasks.training.data import Batch, Mixture, Source, draw_batch
from tasks.training.engine import Trainer, all_reduce_mean, batch_loss
from tasks.training.resume import ResumeState
from tasks.training.schedule import WINDOW, Phase, locate, total_steps, warmup_stable_decay

Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Run:
    """What the loop needs to know about a stage."""

    stage: str
    phases: Sequence[Phase]
    sources: Mapping[str, Source]
    seed: int
    state: ResumeState
    report: Report
    save_every: int = 25  # steps
    print_every: int = 10  # steps


def train(transformer: Transformer, run: Run) -> list[tuple[int, float]]:
    """Trains through all phases and returns the loss curve as (global step, loss).

    The state saved holds the curve so far, so that a resumed run returns the whole of it, equal bit
    for bit to that of a run that was never killed. Raises CheckpointError on a damaged state.
    """
    found = run.state.newest()
    step, folder = found if found else (0, None)
    curve: list[tuple[int, float]] = []
    last = total_steps(run.phases)
    while step < last:
        index, inner = locate(run.phases, step)
        trainer = Trainer(transformer, run.phases[index].optimizer, run.phases[index].train)
        if folder is not None:
            curve = [(int(s), float(loss)) for s, loss in run.state.load(trainer, folder)["curve"]]
            folder = None
            print(f"[{run.stage}] goes on from the state saved after step {step}", flush=True)
        step = _run_phase(trainer, run, index, step - inner, inner, curve)
    for parameter in transformer.parameters():
        parameter.requires_grad_(True)
    return curve


def _run_phase(trainer: Trainer, run: Run, index: int, first: int, inner: int, curve: list[tuple[int, float]]) -> int:
    """Steps `inner`.. of a phase whose step 0 is the global step `first`; returns the global step after it."""
    phase, last = run.phases[index], total_steps(run.phases)
    source = Mixture(run.sources, phase.mixture, phase.weights)
    clock = _Clock(phase.batch * phase.context)
    for position in range(inner, phase.steps):
        batch = _draw(run, phase, source, first + position)
        torch.manual_seed(_noise_seed(run.seed, first + position))
        trainer.set_lr(warmup_stable_decay(position, phase.steps, phase.warmup, phase.decay))
        metrics = _step(trainer, batch, phase)
        step = first + position + 1
        curve.append((step, metrics["loss"]))
        metrics["tokens_per_second"] = clock.tick()
        run.report(step, metrics)
        if (step % run.print_every == 0 or step == last) and distributed.rank() == 0:
            eta = clock.seconds_left(last - step)
            print(progress_line(run.stage, phase.name, step, last, metrics, eta), flush=True)
        if phase.reached(_recent(curve, first)):
            break
        if step % run.save_every == 0 and position + 1 < phase.steps:
            run.state.save(trainer, step, {"curve": curve})
    if phase.until and distributed.rank() == 0:
        made = sum(at > first for at, _ in curve)
        print(f"[{run.stage}] {ending(phase, made, _recent(curve, first))}", flush=True)
    return first + phase.steps


def _draw(run: Run, phase: Phase, source: Source, step: int) -> Batch:
    rank, ranks = distributed.rank(), distributed.ranks()
    batch = draw_batch(source, run.seed, step, phase.batch, phase.context, rank, ranks)
    return batch.to(distributed.device())


def _noise_seed(seed: int, step: int) -> int:
    """Seeds what the model draws in a step (the rows that teach the indexer), apart for each rank."""
    return (seed * 1_000_003 + step) * distributed.ranks() + distributed.rank()


def _step(trainer: Trainer, batch: Batch, phase: Phase) -> dict[str, float]:
    metrics = trainer.step(batch_loss(batch, phase.mode))
    return {name: all_reduce_mean(value) for name, value in metrics.items()}


def _recent(curve: Sequence[tuple[int, float]], first: int) -> list[float]:
    """The last losses of the phase whose step 0 is the global step `first`."""
    return [loss for at, loss in curve[-WINDOW:] if at > first]


def ending(phase: Phase, made: int, recent: Sequence[float]) -> str:
    """What became of a phase that was to end at a loss."""
    outcome = "reached" if phase.reached(recent) else "NOT reached"
    left_out = f"; the count leaves out its other {phase.steps - made}" if made < phase.steps else ""
    return (
        f"phase {phase.name}: the loss {phase.until} was {outcome} in {made} of {phase.steps} steps "
        f"(mean of the last {len(recent)}: {sum(recent) / len(recent):.2f}){left_out}"
    )


def progress_line(stage: str, phase: str, step: int, last: int, metrics: Mapping[str, Any], eta: float) -> str:
    """The line that flows read progress from."""
    return (
        f"[{stage}] step {step}/{last} loss {metrics['loss']:.3f} phase {phase} "
        f"grad {metrics['grad_norm']:.2f} tok/s {metrics['tokens_per_second']:.0f} eta {eta:.0f}s"
    )


class _Clock:
    """Tokens a second over the last steps, smoothed."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.last, self.seconds = tokens, time.monotonic(), 0.0

    def tick(self) -> float:
        """Call after every step; returns tokens a second."""
        now = time.monotonic()
        elapsed, self.last = now - self.last, now
        self.seconds = elapsed if self.seconds == 0.0 else 0.8 * self.seconds + 0.2 * elapsed
        return self.tokens / self.seconds

    def seconds_left(self, steps: int) -> float:
        """Estimate for a number of steps like these."""
        return self.seconds * steps
