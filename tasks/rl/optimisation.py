"""One learner step: a few optimizer steps of a policy-gradient objective on one batch of trajectories.

The indexers, the routers' bias and the multi-token-prediction layer are frozen (GLM-5, section 4: a top-k that
moves or is not deterministic collapses RL).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import AdamW

from model import Transformer
from tasks.config.sections import ReinforceConfig
from tasks.rl.batch import Example, MicroBatch, micro_batches, split_examples
from tasks.rl.objectives import NEEDS_PROXIMAL, ObjectiveSettings, objective_by_name

MODE = "sparse"
FROZEN = (".indexer.", "mtp.")


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
) -> dict[str, float] | None:
    """Trains version `step` into `step + 1`; its statistics, or None if `keep_going` turned false on the way."""
    totals: Counter[str] = Counter()
    norms: list[float] = []
    parts = split_examples(examples, settings.optimizer_steps, seed)
    proximal = [_proximal(model, part, settings) for part in parts]
    for part, references in zip(parts, proximal, strict=True):
        tokens = max(1, sum(example.trajectory.sampled_tokens for example in part))
        for batch, reference in zip(micro_batches(part, settings.micro_batch_tokens), references, strict=True):
            if not keep_going():
                optimizer.zero_grad(set_to_none=True)
                return None
            totals.update(_backward(model, batch, reference, settings, step, tokens, first=not norms))
        norms.append(_optimizer_step(optimizer, settings.gradient_clip))
    if settings.reset_optimizer:
        optimizer.state.clear()
    return _statistics(totals, norms)


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
    loss = (result.loss * batch.mask).sum() / tokens
    loss.backward()
    difference = (log_probs.detach() - batch.rollout) * batch.mask
    fresh = batch.mask * (batch.versions == step) * first  # sampled by exactly the weights that are trained here
    return {
        "tokens": float(batch.mask.sum()),
        "loss": float(loss.detach()),
        "masked": float((result.masked * batch.mask).sum()),
        "surprise": -float((batch.rollout * batch.mask).sum()),
        "ratio": float((difference.exp() * batch.mask).sum()),
        "fresh": float(fresh.sum()),
        "mismatch": float((difference.abs() * fresh).sum()),
    }


def _optimizer_step(optimizer: AdamW, clip: float) -> float:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _statistics(totals: Mapping[str, float], norms: Sequence[float]) -> dict[str, float]:
    tokens = max(1.0, totals.get("tokens", 0.0))
    return {
        "loss": totals.get("loss", 0.0),
        "tokens": totals.get("tokens", 0.0),
        "entropy": totals.get("surprise", 0.0) / tokens,  # nats a token, estimated on the sampled tokens
        "masked_fraction": totals.get("masked", 0.0) / tokens,
        "ratio": totals.get("ratio", 0.0) / tokens,
        "mismatch": totals.get("mismatch", 0.0) / max(1.0, totals.get("fresh", 0.0)),
        "gradient_norm": max(norms, default=0.0),
    }
