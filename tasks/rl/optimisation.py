"""One learner step: a few optimizer steps of a policy-gradient objective on one batch of trajectories.

The indexers, the routers' bias and the multi-token-prediction layer are frozen (GLM-5, section 4: a top-k that
moves or is not deterministic collapses RL).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import AdamW

from model import Transformer
from tasks.config.sections import ReinforceConfig
from tasks.rl.batch import Example, MicroBatch, micro_batches, split_examples
from tasks.rl.errors import NotFinite
from tasks.rl.finite import not_finite
from tasks.rl.objectives import NEEDS_PROXIMAL, ObjectiveSettings, bounded_ratio, objective_by_name

MODE = "sparse"
FROZEN = (".indexer.", "mtp.")
MOST_SKIPPED = 3  # optimizer steps in a row


@dataclass
class Skipped:
    """Optimizer steps in a row that were not applied: their gradient was not finite, or there was none."""

    in_a_row: int = 0

    def count(self, applied: bool, settings: ReinforceConfig, step: int) -> None:
        """Raises NotFinite after MOST_SKIPPED that were not applied."""
        self.in_a_row = 0 if applied else self.in_a_row + 1
        if self.in_a_row >= MOST_SKIPPED:
            raise NotFinite(
                f"At learner step {step} the last {MOST_SKIPPED} optimizer steps had no finite gradient other than 0"
                f" ({_recipe(settings)}); policy {step} is the last one published; lower the learning rate."
            )


def _recipe(settings: ReinforceConfig) -> str:
    return f"reinforce.objective {settings.objective}, reinforce.learning_rate {settings.learning_rate:g}"


def trainable_parameters(model: Transformer) -> dict[str, torch.nn.Parameter]:
    """Freezes what RL must not move and returns the rest by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in f".{name}" for part in FROZEN))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(model: Transformer, settings: ReinforceConfig) -> AdamW:
    """AdamW without weight decay over the trainable parameters."""
    parameters = trainable_parameters(model).values()
    return AdamW(parameters, lr=settings.learning_rate, betas=(0.9, settings.beta2), weight_decay=0.0)


def optimizer_tensors(model: Transformer, optimizer: AdamW) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors named `<parameter>|<field>`, for safetensors."""
    named = trainable_parameters(model)
    return {
        f"{name}|{key}": value.detach().contiguous().clone()
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: Transformer, optimizer: AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` took; nothing for an empty mapping."""
    named = trainable_parameters(model)
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("|", 1)
        optimizer.state[named[name]][key] = value.clone()


def train_step(
    model: Transformer,
    optimizer: AdamW,
    examples: Sequence[Example],
    settings: ReinforceConfig,
    step: int,
    seed: int,
    keep_going: Callable[[], bool] = lambda: True,
    skipped: Skipped | None = None,
) -> dict[str, float] | None:
    """Trains version `step` into `step + 1`; its statistics, or None if `keep_going` turned false on the way.

    An optimizer step whose loss or gradient is not finite, or whose gradient is 0 throughout, is not applied: weights
    and optimizer stay. `applied_steps` and `skipped_steps` count both kinds; the other statistics are of the applied.
    Raises NotFinite after MOST_SKIPPED skipped ones in a row, and when a step leaves weights that are not finite.
    """
    skipped = skipped or Skipped()
    totals: Counter[str] = Counter()
    norms: list[float] = []
    parts = [part for part in split_examples(examples, settings.optimizer_steps, seed) if _sampled(part)]
    proximal = [_proximal(model, part, settings) for part in parts]
    for part, references in zip(parts, proximal, strict=True):
        found = _accumulate(model, part, references, settings, step, not norms, keep_going)
        if found is None:
            optimizer.zero_grad(set_to_none=True)
            return None
        norm = _optimizer_step(optimizer, settings.gradient_clip, math.isfinite(found["loss"]))
        skipped.count(norm is not None, settings, step)
        if norm is not None:
            _check_weights(model, settings, step)
            norms.append(norm)
            totals.update(found)
    if settings.reset_optimizer:
        optimizer.state.clear()
    return _statistics(totals, norms, len(parts) - len(norms))


def check_outputs(model: Transformer, examples: Sequence[Example], settings: ReinforceConfig, step: int) -> None:
    """Raises NotFinite if the trained weights give log-probabilities that are not: one forward, the shortest row."""
    shortest = min(examples, key=lambda example: len(example.trajectory.token_ids))
    (batch,) = micro_batches([shortest], settings.micro_batch_tokens)
    with torch.no_grad():
        log_probs = model.log_probs(batch.token_ids, mode=MODE)
    if not bool(torch.isfinite(log_probs).all()):
        raise NotFinite(
            f"Learner step {step} left weights that give log-probabilities which are not finite"
            f" ({_recipe(settings)}); policy {step} is the last one published; lower the learning rate."
        )


def _sampled(part: Sequence[Example]) -> int:
    return sum(example.trajectory.sampled_tokens for example in part)


def _check_weights(model: Transformer, settings: ReinforceConfig, step: int) -> None:
    if broken := not_finite(trainable_parameters(model)):
        raise NotFinite(
            f"Learner step {step} left {len(broken)} tensors that are not finite, {broken[0]} among them"
            f" ({_recipe(settings)}); policy {step} is the last one published; lower the learning rate."
        )


def _accumulate(
    model: Transformer,
    part: Sequence[Example],
    references: Sequence[Tensor],
    settings: ReinforceConfig,
    step: int,
    first: bool,
    keep_going: Callable[[], bool],
) -> Counter[str] | None:
    """Adds up the gradient of one optimizer step; its sums, or None if `keep_going` turned false."""
    found: Counter[str] = Counter()
    for batch, reference in zip(micro_batches(part, settings.micro_batch_tokens), references, strict=True):
        if not keep_going():
            return None
        found.update(_backward(model, batch, reference, settings, step, _sampled(part), first))
    return found


def _proximal(model: Transformer, part: Sequence[Example], settings: ReinforceConfig) -> list[Tensor]:
    """log p under the policy at the start of the batch; where no objective reads it, the sampling policy's."""
    batches = micro_batches(part, settings.micro_batch_tokens)
    if settings.objective not in NEEDS_PROXIMAL:
        return [batch.rollout for batch in batches]
    with torch.no_grad():
        return [model.log_probs(batch.token_ids, mode=MODE) for batch in batches]


def _backward(
    model: Transformer,
    batch: MicroBatch,
    proximal: Tensor,
    settings: ReinforceConfig,
    step: int,
    tokens: int,
    first: bool,
) -> dict[str, float]:
    """Adds the micro-batch's gradient of the mean loss over `tokens` sampled tokens."""
    bounds = ObjectiveSettings(settings.clip_low, settings.clip_high, settings.icepop_beta)
    log_probs = model.log_probs(batch.token_ids, mode=MODE)
    result = objective_by_name(settings.objective)(log_probs, batch.rollout, proximal, batch.advantages, bounds)
    loss = torch.where(batch.mask > 0, result.loss, torch.zeros_like(result.loss)).sum() / tokens
    loss.backward()
    difference = (log_probs.detach() - batch.rollout) * batch.mask
    ratio = bounded_ratio(log_probs.detach(), batch.rollout)
    fresh = batch.mask * (batch.versions == step) * first  # sampled by exactly the weights that are trained here
    return {
        "tokens": float(batch.mask.sum()),
        "loss": float(loss.detach()),
        "masked": float((result.masked * batch.mask).sum()),
        "surprise": -float((batch.rollout * batch.mask).sum()),
        "ratio": float((ratio * batch.mask).sum()),
        "fresh": float(fresh.sum()),
        "mismatch": float((difference.abs() * fresh).sum()),
    }


def _optimizer_step(optimizer: AdamW, clip: float, finite: bool) -> float | None:
    """The gradient's norm; None, and nothing changed but the gradients gone, where no step can be taken."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip))
    applied = finite and math.isfinite(norm) and norm > 0.0
    if applied:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm if applied else None


def _statistics(totals: Mapping[str, float], norms: Sequence[float], skipped: int) -> dict[str, float]:
    tokens = max(1.0, totals.get("tokens", 0.0))
    return {
        "loss": totals.get("loss", 0.0),
        "tokens": totals.get("tokens", 0.0),
        "entropy": totals.get("surprise", 0.0) / tokens,  # nats a token, estimated on the sampled tokens
        "masked_fraction": totals.get("masked", 0.0) / tokens,
        "ratio": totals.get("ratio", 0.0) / tokens,
        "mismatch": totals.get("mismatch", 0.0) / max(1.0, totals.get("fresh", 0.0)),
        "gradient_norm": max(norms, default=0.0),
        "applied_steps": float(len(norms)),
        "skipped_steps": float(skipped),
    }
