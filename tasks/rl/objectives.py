"""Policy-gradient objectives, chosen by name in `params.yaml`. All are losses to minimise.

Log-ratios are bounded before they are exponentiated, so that a token whose two log-probabilities lie hundreds of
nats apart gives a finite loss and gradient; no ratio below e^20 is changed by that.

Every function gets four tensors of one shape: log p of the sampled tokens under the policy being trained
(`log_probs`, the only one with a gradient), under the policy that sampled them (`rollout`), under the policy
at the start of the batch (`proximal`, recomputed by the learner where `NEEDS_PROXIMAL` says so), and the
advantage. They return the loss of every token, unreduced, and which tokens were masked or clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class ObjectiveSettings:
    """Bounds of the importance ratios: `1 - clip_low < r < 1 + clip_high` and `1/beta <= rho <= beta`."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    icepop_beta: float = 2.0


@dataclass(frozen=True)
class TokenLosses:
    """Loss of each token, and 1.0 where the objective gave the token no gradient (a mask or a clip)."""

    loss: Tensor
    masked: Tensor


Objective = Callable[[Tensor, Tensor, Tensor, Tensor, ObjectiveSettings], TokenLosses]


class UnknownObjective(ValueError):
    """The name in `reinforce.objective` is not one of the registry."""


def glm5_agentic(
    log_probs: Tensor, rollout: Tensor, proximal: Tensor, advantages: Tensor, settings: ObjectiveSettings
) -> TokenLosses:
    """`-sg[f(r) A] log pi`, `r = pi / pi_rollout`, f(r) = r inside the bounds and 0 outside (GLM-5, section 4).

    The ratio is a weight, not a path for the gradient, hence the explicit stop-gradient on `f(r) A`.
    """
    ratio = bounded_ratio(log_probs.detach(), rollout)
    inside = (ratio > 1 - settings.clip_low) & (ratio < 1 + settings.clip_high)
    zero = torch.zeros_like(ratio)
    weight = torch.where(inside, ratio, zero) * advantages
    kept = torch.where(inside, log_probs, zero)  # else 0 times an infinity would be NaN, here and in the gradient
    return TokenLosses(-weight.detach() * kept, (~inside).to(log_probs.dtype))


def grpo_icepop(
    log_probs: Tensor, rollout: Tensor, proximal: Tensor, advantages: Tensor, settings: ObjectiveSettings
) -> TokenLosses:
    """PPO's clipped surrogate times `pop(rho, 1/beta, beta)`, `rho = pi_proximal / pi_rollout`.

    `pop` keeps rho where trainer and sampler agree and is 0 where they do not; no gradient goes through it.
    """
    mismatch = bounded_ratio(proximal, rollout).detach()
    agree = (mismatch >= 1 / settings.icepop_beta) & (mismatch <= settings.icepop_beta)
    pop = torch.where(agree, mismatch, torch.zeros_like(mismatch))
    surrogate, clipped = _clipped_surrogate(log_probs, proximal, advantages, settings)
    return TokenLosses(-pop * surrogate, (clipped | ~agree).to(log_probs.dtype))


def decoupled_ppo(
    log_probs: Tensor, rollout: Tensor, proximal: Tensor, advantages: Tensor, settings: ObjectiveSettings
) -> TokenLosses:
    """AReaL's decoupled objective: clip around the proximal policy, correct for the behaviour policy.

    `-sg[pi_proximal / pi_rollout] * min(u A, clip(u) A)`, `u = pi / pi_proximal` (arXiv 2505.24298, section 5.2).
    """
    correction = bounded_ratio(proximal, rollout).detach()
    surrogate, clipped = _clipped_surrogate(log_probs, proximal, advantages, settings)
    return TokenLosses(-correction * surrogate, clipped.to(log_probs.dtype))


def bounded_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """exp(numerator - denominator) of two log-probabilities, at most e^MAX_LOG_RATIO."""
    return torch.exp((numerator - denominator).clamp(max=MAX_LOG_RATIO))


def _clipped_surrogate(
    log_probs: Tensor, proximal: Tensor, advantages: Tensor, settings: ObjectiveSettings
) -> tuple[Tensor, Tensor]:
    ratio = bounded_ratio(log_probs, proximal.detach())
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    surrogate = torch.minimum(ratio * advantages, bounded * advantages)
    capped = log_probs - proximal >= MAX_LOG_RATIO  # no gradient goes through the bound
    return surrogate, (bounded * advantages < ratio * advantages) | capped


OBJECTIVES: dict[str, Objective] = {
    "glm5_agentic": glm5_agentic,
    "grpo_icepop": grpo_icepop,
    "decoupled_ppo": decoupled_ppo,
}
NEEDS_PROXIMAL = frozenset({"grpo_icepop", "decoupled_ppo"})


def objective_by_name(name: str) -> Objective:
    """Raises UnknownObjective with the known names."""
    if name not in OBJECTIVES:
        raise UnknownObjective(
            f"The objective {name!r} of reinforce.objective is unknown; choose one of {', '.join(OBJECTIVES)}."
        )
    return OBJECTIVES[name]
