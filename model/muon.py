"""Muon with Muon Split for matrices and AdamW for the rest, in one optimizer.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) orthogonalises the momentum of each matrix. Muon Split
(GLM-5, arXiv 2602.15763, section 2.2) does so separately for each head's block of the MLA up-projections, which keeps
attention logits bounded without clipping.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.indexer import Indexer
from model.transformer import Transformer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic of Jordan et al.: maps singular values into about [0.7, 1.2]


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a stack [N, R, C], approximately: singular values within [0.6, 1.3]."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)  # cheaper than adding a * x, which would be copied first
        x = torch.bmm(polynomial, x)
    return x


def row_blocks(name: str, config: ModelConfig) -> tuple[int, ...]:
    """The row heights that repeat down a parameter and are orthogonalised apart; () for the whole matrix.

    One query block a head; a key and a value block a head; the gate and up halves of an expert.
    """
    if name.endswith("q_b_proj.weight"):
        return (config.qk_head_dim,)
    if name.endswith("kv_b_proj.weight"):
        return (config.qk_nope_head_dim, config.v_head_dim)
    if name.endswith("experts.gate_up_proj"):
        return (config.moe_intermediate_size,)
    return ()


def parameter_groups(
    transformer: Transformer,
    muon_lr: float,
    adamw_lr: float,
    indexer_lr: float | None = None,
    weight_decay: float = 0.0,
    split: bool = True,
) -> list[dict[str, Any]]:
    """Groups for `Muon`: one per pattern of blocks ("muon"), then "adamw" and "indexer"; empty groups are left out.

    Embedding, head, norms and routers go to AdamW, and so do the indexers (at indexer_lr, by default adamw_lr); where
    they learn alone, `indexer_groups` are theirs.
    `split=False` orthogonalises the MLA up-projections whole, for comparison. Frozen parameters are left out.
    """
    matrices: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    rest: dict[str, list[Tensor]] = {"adamw": [], "indexer": []}
    for name, parameter in transformer.named_parameters():
        if not parameter.requires_grad:
            continue
        if _is_muon(name, parameter):
            blocks = row_blocks(name, transformer.config)
            matrices[blocks if split or "experts" in name else ()].append(parameter)
        else:
            rest["indexer" if ".indexer." in name else "adamw"].append(parameter)
    common = {"weight_decay": weight_decay}
    groups = [{"name": "muon", "params": p, "lr": muon_lr, "blocks": b, **common} for b, p in matrices.items()]
    rates = {"adamw": adamw_lr, "indexer": adamw_lr if indexer_lr is None else indexer_lr}
    return groups + [{"name": name, "params": p, "lr": rates[name], **common} for name, p in rest.items() if p]


def indexer_groups(transformer: Transformer, muon_lr: float, adamw_lr: float) -> list[dict[str, Any]]:
    """Groups for `Muon` of a warm-up, in which the indexers alone learn: queries head by head, keys whole, rest AdamW.

    In one measured case as far in 80 steps as AdamW on all of them in 160 (docs/log.md).
    """
    indexers = [module for module in transformer.modules() if isinstance(module, Indexer)]
    rest = [p for indexer in indexers for part in (indexer.k_norm, indexer.weights_proj) for p in part.parameters()]
    heads = (transformer.config.index_head_dim,)
    return [
        {"name": "muon", "params": [i.wq_b.weight for i in indexers], "lr": muon_lr, "blocks": heads},
        {"name": "muon", "params": [i.wk.weight for i in indexers], "lr": muon_lr, "blocks": ()},
        {"name": "indexer", "params": rest, "lr": adamw_lr},
    ]


def _is_muon(name: str, parameter: Tensor) -> bool:
    outside = ("embed_tokens", "lm_head", ".indexer.", "mlp.gate.")
    return parameter.dim() >= 2 and not any(part in name for part in outside)


class Muon(torch.optim.Optimizer):
    """Steps the groups named "muon" with Muon and all others with AdamW; state is plain tensors, saved exactly."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        newton_schulz_steps: int = 5,
    ) -> None:
        """groups as `parameter_groups` makes them; ValueError when a "muon" group holds a vector."""
        defaults = {
            "name": "adamw", "blocks": (), "lr": 1e-3, "weight_decay": 0.0, "momentum": momentum, "betas": betas,
            "eps": eps, "newton_schulz_steps": newton_schulz_steps,
        }  # fmt: skip
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["name"] == "muon" and any(p.dim() < 2 for p in group["params"]):
                raise ValueError("A Muon group holds a vector, but Muon orthogonalises matrices: use AdamW for it.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon_step([g for g in self.param_groups if g["name"] == "muon"])
        for group in self.param_groups:
            if group["name"] != "muon":
                self._adamw_step(group)
        return loss

    def _muon_step(self, groups: list[dict[str, Any]]) -> None:
        """Blocks of one shape, from whichever parameter, are orthogonalised together in one stack."""
        stacks: dict[tuple[int, int, int], list[tuple[Tensor, Tensor, dict[str, Any]]]] = defaultdict(list)
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                for target, source in _blocks(parameter, self._nesterov(parameter, group), group["blocks"]):
                    rows, columns = sorted(source.shape[1:])
                    stacks[rows, columns, group["newton_schulz_steps"]].append((target, source, group))
        for (_, _, steps), members in stacks.items():
            _apply_stack(members, steps)

    def _nesterov(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"])

    def _adamw_step(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        states = [self._adamw_state(p) for p in parameters]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        steps = [s["step"] for s in states]
        beta1, beta2 = group["betas"]
        torch._foreach_add_(steps, 1)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        counts = [float(s) for s in steps]
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, [(1 - beta2**n) ** 0.5 for n in counts])
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(parameters, first, roots, [-group["lr"] / (1 - beta1**n) for n in counts])

    def _adamw_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def _blocks(parameter: Tensor, update: Tensor, heights: tuple[int, ...]) -> Iterable[tuple[Tensor, Tensor]]:
    """Views (target, source) of the blocks, each [n, rows, columns]."""
    columns = parameter.shape[-1]
    period = sum(heights) or parameter.shape[-2]
    target, source = parameter.view(-1, period, columns), update.view(-1, period, columns)
    start = 0
    for height in heights or (period,):
        yield target[:, start : start + height], source[:, start : start + height]
        start += height


def _apply_stack(members: list[tuple[Tensor, Tensor, dict[str, Any]]], steps: int) -> None:
    """Orthogonalises all sources of one shape (tall ones transposed) and applies them to their targets."""
    wide = [s.transpose(1, 2) if s.shape[1] > s.shape[2] else s for _, s, _ in members]
    updates = orthogonalise(torch.cat(wide), steps).split([s.shape[0] for s in wide])
    for (target, source, group), update in zip(members, updates, strict=True):
        tall = source.shape[1] > source.shape[2]
        scale = max(1.0, source.shape[1] / source.shape[2]) ** 0.5
        target.mul_(1 - group["lr"] * group["weight_decay"])
        target.add_(update.transpose(1, 2) if tall else update, alpha=-group["lr"] * scale)
