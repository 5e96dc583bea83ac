"""Initial weights."""

from __future__ import annotations

import math

import torch
from torch import nn

# As large as what the layers add; at 0.02 their first outputs drown the tokens and learning starts late.
EMBEDDING_DEVIATION = 0.5
# A direction that all tokens share: without biases it is the only one from which a head can tell positions apart
# whatever the tokens are. Heads that look at the token before, and then copying, form on it (docs/log.md).
EMBEDDING_OFFSET = 1.0


@torch.no_grad()
def initialise(module: nn.Module, seed: int, initializer_range: float) -> None:
    """Matrices normal with deviation fan_in^-1/2, the head narrower, the embedding wider and off its centre.

    Norms are one and biases zero.
    """
    generator = torch.Generator("cpu").manual_seed(seed)  # the same weights on every device
    layers = sum(name.endswith("o_proj.weight") for name, _ in module.named_parameters())
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        values = torch.randn(parameter.shape, generator=generator, device="cpu")
        parameter.copy_(values * _deviation(name, parameter.shape[-1], layers, initializer_range))
        if name.endswith("embed_tokens.weight"):
            offset = torch.randn(parameter.shape[-1], generator=generator, device="cpu")
            parameter.add_((EMBEDDING_OFFSET * offset).to(parameter.device))
    for name, buffer in module.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()


def _deviation(name: str, fan_in: int, layers: int, initializer_range: float) -> float:
    """Projections back into the residual stream shrink with depth (GPT-2's rule)."""
    if name.endswith("embed_tokens.weight"):
        return EMBEDDING_DEVIATION
    if name.endswith("lm_head.weight"):
        return initializer_range
    shrink = math.sqrt(2 * layers) if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")) else 1.0
    return 1.0 / (math.sqrt(fan_in) * shrink)
