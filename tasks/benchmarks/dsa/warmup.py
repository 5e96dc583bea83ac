"""The indexer's warm-up with Muon on its matrices: as far in 80 steps as AdamW in 160 (docs/log.md).

`tasks.training` warms up with AdamW, which the evidence's layers of widely spread attention learn from too slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model import Muon, Transformer
from model.indexer import Indexer
from tasks.training.data import Mixture, Source, draw_batch
from tasks.training.loop import Report
from tasks.training.schedule import Phase, warmup_stable_decay

MOMENTUM = 0.8  # Muon's; its usual 0.95 averages over a quarter of so short a run
PRINT_EVERY = 10  # steps


def warm_up(transformer: Transformer, phase: Phase, sources: Mapping[str, Source], seed: int, report: Report) -> None:
    """Trains the indexers alone through the phase, with the rates of its optimizer; the backbone stays as it is."""
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(".indexer." in name)
    optimizer = Muon(indexer_groups(transformer, phase), momentum=MOMENTUM)
    peaks = [group["lr"] for group in optimizer.param_groups]
    source = Mixture(sources, phase.mixture, phase.weights)
    for step in range(phase.steps):
        factor = warmup_stable_decay(step, phase.steps, phase.warmup, phase.decay)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        torch.manual_seed(seed * 1_000_003 + step)  # draws the rows that teach
        loss = _step(transformer, optimizer, source, phase, seed, step)
        report(step + 1, {"loss": loss})
        if (step + 1) % PRINT_EVERY == 0:
            print(f"[evidence-dsa] step {step + 1}/{phase.steps} loss {loss:.3f} phase {phase.name}", flush=True)
    transformer.requires_grad_(True)


def indexer_groups(transformer: Transformer, phase: Phase) -> list[dict[str, Any]]:
    """For `Muon`: queries head by head, keys whole; norm and head weights go to AdamW."""
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    rest: list[Tensor] = []
    for indexer in (module for module in transformer.modules() if isinstance(module, Indexer)):
        queries.append(indexer.wq_b.weight)
        keys.append(indexer.wk.weight)
        rest += [*indexer.k_norm.parameters(), *indexer.weights_proj.parameters()]
    rate = phase.optimizer.muon_lr
    return [
        {"name": "muon", "params": queries, "lr": rate, "blocks": (transformer.config.index_head_dim,)},
        {"name": "muon", "params": keys, "lr": rate, "blocks": ()},
        {"name": "indexer", "params": rest, "lr": phase.optimizer.adamw_lr},
    ]


def _step(transformer: Transformer, optimizer: Muon, source: Mixture, phase: Phase, seed: int, step: int) -> float:
    batch = draw_batch(source, seed, step, phase.batch, phase.context)
    loss = transformer.loss(batch.token_ids, batch.loss_weights, batch.document_ids, "warmup").total
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in transformer.parameters() if p.requires_grad], phase.optimizer.clip)
    optimizer.step()
    return float(loss.item())
