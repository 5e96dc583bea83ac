"""`Trainer`: a DeepSpeed engine around the transformer, with the model's own Muon + AdamW.

The loss is a function given at each step, so that pretraining and reinforcement learning share it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model import Transformer
from model.layers import Linear
from model.muon import Muon, indexer_groups, parameter_groups
from tasks.training import distributed, snapshot
from tasks.training.data import Batch, Mode
from tasks.training.errors import DivergenceError
from tasks.training.settings import OptimizerSettings, Trained

LossFunction = Callable[[Transformer], tuple[Tensor, dict[str, Any]]]
LOAD = "expert_load"  # a loss that reports it asks for the routers' biases to be moved after the step


class _LossModule(nn.Module):
    """Runs the loss inside `forward`, where DeepSpeed's hooks and autocast are active."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, loss_function: LossFunction) -> tuple[Tensor, dict[str, Any]]:
        return loss_function(self.transformer)


class Trainer:
    """One optimizer over one transformer.

    `train="indexer"` freezes everything but the lightning indexers (DSA warm-up);
    `train="backbone"` freezes the indexers (reinforcement learning).
    """

    def __init__(
        self,
        transformer: Transformer,
        settings: OptimizerSettings,
        train: Trained = "all",
    ) -> None:
        distributed.start_process_group()
        deepspeed = distributed.import_deepspeed()
        self.device = distributed.device()
        self.transformer = transformer.to(self.device)
        _freeze(self.transformer, train)
        self.optimizer = build_optimizer(self.transformer, settings, train)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.settings = settings
        self.engine, _, _, _ = deepspeed.initialize(
            model=_LossModule(self.transformer),
            optimizer=self.optimizer,
            config=_engine_config(settings, distributed.ranks()),
            dist_init_required=False,
        )

    def step(self, *losses: LossFunction) -> dict[str, float]:
        """One optimizer step on the mean of the losses; several of them accumulate gradients.

        A loss function takes the transformer and returns (scalar loss, metrics). Returns the mean
        metrics with `loss` and `grad_norm` (before clipping). Raises DivergenceError where the loss is
        not finite, before the weights change.
        """
        metrics: dict[str, float] = {}
        loads: list[Tensor] = []
        for index, loss_function in enumerate(losses):
            self.engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
            loss, extra = self.engine(loss_function)
            if not bool(torch.isfinite(loss.detach())):
                raise DivergenceError(f"The loss is {loss.item()}, so training cannot go on from these weights.")
            self.engine.backward(loss / len(losses))
            loads.extend([extra.pop(LOAD)] if LOAD in extra else [])
            for name, value in {"loss": loss.detach(), **extra}.items():
                metrics[name] = metrics.get(name, 0.0) + float(value) / len(losses)
        metrics["grad_norm"] = self._clip()
        self.engine.step()
        self._balance(loads)
        return metrics

    def set_lr(self, factor: float) -> None:
        """Sets every group's learning rate to its peak times `factor`."""
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor

    def reset_optimizer(self) -> None:
        """Forgets momentum and second moments (after a policy push in reinforcement learning)."""
        self.optimizer.state.clear()

    def save(self, folder: Path, client_state: dict[str, Any]) -> None:
        """Weights, optimizer, generator state and `client_state`, complete or not at all."""
        state = {"client": client_state, "torch_rng": torch.get_rng_state()}
        with snapshot.writing(folder) as temporary:
            self.engine.save_checkpoint(str(temporary), tag="engine", client_state=state, save_latest=False)

    def load(self, folder: Path) -> dict[str, Any]:
        """The inverse of `save`: returns `client_state`. Raises CheckpointError if a file is damaged."""
        snapshot.verify(folder)
        _, state = self.engine.load_checkpoint(str(folder), tag="engine")
        torch.set_rng_state(state["torch_rng"].cpu())
        client: dict[str, Any] = state["client"]
        return client

    def _balance(self, loads: list[Tensor]) -> None:
        """Moves the routers' biases by the load of all micro-batches and ranks together."""
        if loads:
            load = torch.stack(loads).sum(0)
            if distributed.ranks() > 1:
                dist.all_reduce(load)
            self.transformer.update_router_bias(load)

    def _clip(self) -> float:
        """Gradient norm over all parameters; clips here at ZeRO 0, where DeepSpeed does not tell the norm."""
        if self.settings.zero_stage:
            return 0.0  # known only after the step: sharded gradients are reduced there
        norm = nn.utils.clip_grad_norm_(self.transformer.parameters(), self.settings.clip)
        return float(norm)


def build_optimizer(transformer: Transformer, settings: OptimizerSettings, train: Trained) -> torch.optim.Optimizer:
    """Muon + AdamW in one object, or AdamW over all trainable parameters; Muon takes indexers where they are alone."""
    if settings.name == "adamw":
        trainable = [p for p in transformer.parameters() if p.requires_grad]
        betas = (settings.beta1, settings.beta2)
        return torch.optim.AdamW(trainable, lr=settings.adamw_lr, betas=betas, weight_decay=settings.weight_decay)
    grouped = indexer_groups if train == "indexer" else parameter_groups
    return Muon(grouped(transformer, settings.muon_lr, settings.adamw_lr), momentum=settings.momentum)


def batch_loss(batch: Batch, mode: Mode) -> LossFunction:
    """The language-model loss (with MTP and indexer terms) of a batch.

    Its expert load balances the router, except in warm-up, which leaves everything but the indexer as it is.
    """

    def loss_function(transformer: Transformer) -> tuple[Tensor, dict[str, Any]]:
        losses = transformer.loss(batch.token_ids, batch.loss_weights, batch.document_ids, mode)
        parts = {"lm": losses.lm, "mtp": losses.mtp, "indexer": losses.indexer}
        load = {} if mode == "warmup" else {LOAD: losses.expert_load}
        return losses.total, {name: value.detach() for name, value in parts.items()} | load

    return loss_function


def _freeze(transformer: Transformer, train: Trained) -> None:
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(train == "all" or (".indexer." in name) == (train == "indexer"))


def _engine_config(settings: OptimizerSettings, ranks: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_batch_size": ranks,  # rows are counted by our own data; DeepSpeed only divides these
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": settings.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "gradient_clipping": settings.clip if settings.zero_stage else 0.0,
    }
    if settings.dtype == "bfloat16":
        # What ranks exchange is rounded for these too, and for nothing else: an indexer's linear layers stay exact.
        rounded = [f"{Linear.__module__}.{Linear.__qualname__}"]
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": rounded}
    return config


def all_reduce_mean(value: float) -> float:
    """The mean of a number over the ranks."""
    if distributed.ranks() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=distributed.device())
    dist.all_reduce(tensor)
    return float(tensor) / distributed.ranks()
