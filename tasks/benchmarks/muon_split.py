"""`python -m tasks.benchmarks.muon_split`: Muon Split next to Muon on whole matrices.

The same network, data and steps twice; only what the optimizer orthogonalises together differs (GLM-5, arXiv
2602.15763, section 2.2: the per-head blocks of the MLA up-projections, or each up-projection whole). Writes
docs/muon-split.md, docs/muon-split.json and docs/muon-split.png: the largest attention logit of each layer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import Muon, Transformer, parameter_groups
from model.attention import Attention, AttentionContext
from tasks.benchmarks.dsa.material import Material
from tasks.benchmarks.dsa.scoring import mean_loss
from tasks.benchmarks.dsa.selections import resized
from tasks.benchmarks.markdown import table
from tasks.cli import Parser, program, whole
from tasks.config import Config, load_config
from tasks.tracking.metrics import write_json
from tasks.training.data import Mixture, Row, draw_batch, stack
from tasks.training.schedule import warmup_stable_decay

CORPUS = Path("data/corpus")
VARIANTS = {"split": "Muon Split, head by head", "whole": "Muon, matrices whole"}
CLIP = 1.0  # gradient norm, as in training
HELDOUT_ROWS = 32
PROBE_ROWS = 4  # of the held-out rows, on which logits are looked at


@dataclass(frozen=True)
class Settings:
    """One comparison; sizes and rates are those of the section `pretrain`, the learning rate stays at its peak."""

    config: Config
    seed: int
    steps: int
    every: int  # steps between two looks at the logits


def run(settings: Settings, material: Material) -> dict[str, list[dict[str, Any]]]:
    """{variant: points}, a point {step, largest: [layer], loss}; loss is the held-out one, at the last point only."""
    return {name: _curve(settings, material, name) for name in VARIANTS}


def _curve(settings: Settings, material: Material, variant: str) -> list[dict[str, Any]]:
    config = settings.config
    network = Transformer(replace(config.model_config(), num_nextn_predict_layers=0))
    network.init_weights(settings.seed)
    rates = (config.pretrain.muon_lr, config.pretrain.adamw_lr)
    optimizer = Muon(parameter_groups(network, *rates, split=variant == "split"))
    peaks = [group["lr"] for group in optimizer.param_groups]
    source = _mixture(settings, material)
    heldout = material.text(HELDOUT_ROWS * config.pretrain.context, config.pretrain.context)
    points = [{"step": 0, "largest": largest_logits(network, heldout[:PROBE_ROWS])}]
    for step in range(settings.steps):
        factor = warmup_stable_decay(step, settings.steps, warmup=0.02, decay=0.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = _step(network, optimizer, source, settings, step)
        if (step + 1) % settings.every == 0:
            points.append({"step": step + 1, "largest": largest_logits(network, heldout[:PROBE_ROWS])})
            worst = max(points[-1]["largest"])  # type: ignore[call-overload]
            print(
                f"[muon-split] {variant} step {step + 1}/{settings.steps} loss {loss:.3f} logit {worst:.1f}", flush=True
            )
    points[-1]["loss"] = mean_loss(resized(network), heldout, "dense")
    return points


def _mixture(settings: Settings, material: Material) -> Mixture:
    """What pretraining draws its text phase from."""
    repeats = settings.config.pretrain.repeat_share / 2
    shares = {"corpus": 1.0 - 2 * repeats, "letters": repeats, "tokens": repeats}
    return Mixture(material.sources(settings.config.pretrain.context), shares)


def _step(network: Transformer, optimizer: Muon, source: Mixture, settings: Settings, step: int) -> float:
    section = settings.config.pretrain
    batch = draw_batch(source, settings.seed, step, section.batch, section.context)
    losses = network.loss(batch.token_ids, batch.loss_weights, batch.document_ids, "dense")
    optimizer.zero_grad()
    losses.total.backward()
    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    network.update_router_bias(losses.expert_load)
    return float(losses.lm.item())


@torch.no_grad()
def largest_logits(network: Transformer, rows: Sequence[Row]) -> list[float]:
    """Of each layer: the largest q . k * scale of any head and any pair of a query and a key that it may see."""
    found: list[float] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        found.append(_largest(module, inputs[0], inputs[1]))

    hooks = [layer.self_attn.register_forward_pre_hook(look) for layer in network.model.layers]
    try:
        batch = stack(list(rows))
        network.log_probs(batch.token_ids, batch.document_ids, "dense")
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _largest(attention: Attention, x: Tensor, context: AttentionContext) -> float:
    query = attention._queries(attention.q_a_layernorm(attention.q_a_proj(x)), context.rope)
    key, _ = attention._keys_values(x, context.rope)
    logits = torch.matmul(query * attention.scale, key.transpose(-1, -2))  # [B, H, T, T]
    visible = context.packing.visible(torch.arange(x.shape[1]))
    return float(logits.masked_fill(~visible.unsqueeze(1), -torch.inf).max())


def write(
    found: Mapping[int, Mapping[str, list[dict[str, Any]]]], settings: Settings, minutes: float, docs: Path
) -> None:
    """The page, the picture and the raw figures, seed by seed."""
    docs.mkdir(parents=True, exist_ok=True)
    draw(found, docs / "muon-split.png")
    write_json(docs / "muon-split.json", {str(seed): points for seed, points in found.items()})
    section = settings.config.pretrain
    text = (
        "# Muon Split against whole-matrix Muon\n\n"
        f"Written by `python -m tasks.benchmarks.muon_split` in {minutes:.0f} minutes. The same initial network, data "
        f"and {settings.steps} steps of {section.batch} x {section.context} tokens at Muon's rate {section.muon_lr:g}, "
        f"with no decay; looked at every {settings.every} steps on held-out text.\n\n"
        f"![largest attention logit](muon-split.png)\n\n{_table(found)}{_said(found)}"
    )
    (docs / "muon-split.md").write_text(text, encoding="utf-8")


def _table(found: Mapping[int, Mapping[str, list[dict[str, Any]]]]) -> str:
    layers = range(len(next(iter(found.values()))["split"][0]["largest"]))
    rows = []
    for seed, variants in found.items():
        for name, points in variants.items():
            ends = [f"{points[-1]['largest'][layer]:.1f}" for layer in layers]
            highest = max(max(point["largest"]) for point in points)
            rows.append([str(seed), VARIANTS[name], *ends, f"{highest:.1f}", f"{points[-1]['loss']:.4f}"])
    head = ["seed", "optimizer", *(f"layer {layer}, at the end" for layer in layers), "largest ever", "held-out loss"]
    return table(head, rows)


def _said(found: Mapping[int, Mapping[str, list[dict[str, Any]]]]) -> str:
    """Which one ended with the larger logit, seed by seed."""
    said = []
    for seed, variants in found.items():
        split, whole = (max(variants[name][-1]["largest"]) for name in VARIANTS)
        which = "smaller" if split < whole else "not smaller"
        said.append(f"Seed {seed}: with Muon Split the largest logit ends {which} ({split:.1f} against {whole:.1f}).")
    return " ".join(said) + "\n"


def draw(found: Mapping[int, Mapping[str, list[dict[str, Any]]]], path: Path) -> None:
    """A panel a layer, a line a variant and seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = len(next(iter(found.values()))["split"][0]["largest"])
    figure, axes = pyplot.subplots(1, layers, figsize=(3.6 * layers, 3.2), sharey=True, squeeze=False)
    for layer, axis in enumerate(axes[0]):
        for number, variants in enumerate(found.values()):
            for color, (name, points) in enumerate(variants.items()):
                steps, values = [p["step"] for p in points], [p["largest"][layer] for p in points]
                axis.plot(steps, values, color=f"C{color}", label=None if number else VARIANTS[name])
        axis.set_title(f"layer {layer}")
        axis.set_xlabel("step")
    axes[0][0].set_ylabel("largest attention logit")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


@program("tasks.benchmarks.muon_split")
def main(argv: Sequence[str] | None = None) -> int:
    """Measures every seed and writes the page after each."""
    parser = Parser(prog="python -m tasks.benchmarks.muon_split")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[11])
    parser.add_argument("--steps", type=whole(1), default=300)
    parser.add_argument("--every", type=whole(1), default=5)
    parser.add_argument("--threads", type=whole(1, 4096), default=1)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    started = time.monotonic()
    found = {}
    config, material = load_config(a.params, a.overrides), Material.read(CORPUS)
    for seed in a.seeds:
        settings = Settings(config, seed, a.steps, a.every)
        found[seed] = run(settings, material)
        write(found, settings, (time.monotonic() - started) / 60, a.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
