"""Mixture of experts: sigmoid router with bias correction, shared expert (DeepSeek-V3, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.grouped_experts import grouped_experts
from kernels.precision import exact
from model.config import ModelConfig
from model.layers import MLP


class Router(nn.Module):
    """Chooses experts by sigmoid score plus bias and weighs them by the score alone."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, hidden] -> (experts [N, k] int64, weights [N, k] fp32); in fp32 under autocast too."""
        config = self.config
        with exact(x):
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choice = scores.detach() + self.e_score_correction_bias
        experts = choice.topk(config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(1, experts)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return experts, weights * config.routed_scaling_factor

    @torch.no_grad()
    def balance(self, load: Tensor) -> None:
        """Moves the bias towards experts that got too few tokens (Wang et al., arXiv 2408.15664). load [E]."""
        step = self.config.router_bias_update_rate
        self.e_score_correction_bias += step * torch.sign(load.mean() - load).to(self.e_score_correction_bias)


class Experts(nn.Module):
    """The routed experts' weights, stacked: gate and up [E, 2F, D], down [E, D, F]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """x [N, hidden], experts and weights [N, k] -> [N, hidden]."""
        return grouped_experts(x, experts, weights, self.gate_up_proj, self.down_proj)


class MoE(nn.Module):
    """Routed experts plus the shared expert, which every token passes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, hidden] -> (output, tokens routed to each expert [E])."""
        flat = x.flatten(0, 1)
        experts, weights = self.gate(flat)
        routed = self.experts(flat, experts, weights)
        chosen = experts.flatten()  # not for bincount, which makes the host wait for a GPU
        load = chosen.new_zeros(self.gate.config.n_routed_experts).scatter_add_(0, chosen, torch.ones_like(chosen))
        return routed.view_as(x) + self.shared_experts(x), load
