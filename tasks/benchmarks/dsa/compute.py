"""Held-out loss against training compute: dense MLA next to DSA, from the same network at the same length.

Both go on from `long`, one row a step at an even learning rate. DSA pays for its indexer's warm-up first, a short
one of the smaller indexer of params.yaml. Seconds are of this process's CPU, evaluations left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from model import Transformer
from tasks.benchmarks.dsa.bench import SEED_STEP
from tasks.benchmarks.dsa.flops import step_flops
from tasks.benchmarks.dsa.meter import Meter
from tasks.benchmarks.dsa.networks import Networks
from tasks.benchmarks.dsa.parts import Part
from tasks.benchmarks.dsa.plan import topks
from tasks.benchmarks.dsa.scoring import mean_loss
from tasks.benchmarks.dsa.selections import resized
from tasks.training.data import Mode, Row

DATA = 10  # the number of this phase's data, the same for both curves


def curves(networks: Networks) -> dict[str, Any]:
    """{"dense": curve, "dsa-k": curve}: each a list of points {step, flops, seconds, loss}, warm-up included.

    k is the smaller selection: the one that saves most.
    """
    topk = topks(networks.length)[-1]
    found = {
        "dense": _curve(networks, networks.long, 0).result,
        f"dsa-{topk}": _curve(networks, networks.quick, topk).result,
    }
    return {name: _shifted(networks, result) for name, result in found.items()}


def _curve(networks: Networks, start: Part, topk: int) -> Part:
    """Steps from the network of `start`; figures count from there."""
    bench, scale = networks.bench, networks.bench.plan.scale
    mode: Literal["dense", "sparse"] = "sparse" if topk else "dense"
    phase = bench.plan.curve(networks.length, mode)
    every, tokens = scale.curve_every, scale.curve_tokens
    definition = bench.definition(
        start=start.key, phase=str(phase), seed=networks.seed, topk=topk, every=every, tokens=tokens
    )

    def work() -> Mapping[str, Any]:
        transformer = resized(start.network(), **({"index_topk": topk} if topk else {}))
        documents = [d.row for d in bench.material.documents(tokens, networks.length)]
        each = step_flops(transformer.config, phase.batch, networks.length, mode)
        points = [_point(transformer, documents, mode, 0, 0.0, 0.0)]
        meter = Meter()

        def report(step: int, metrics: Mapping[str, float]) -> None:
            seconds = meter.seconds
            if step % every == 0:
                with meter.paused():
                    points.append(_point(transformer, documents, mode, step, step * each, seconds))

        bench.train(transformer, [phase], networks.seed * SEED_STEP + DATA, report)
        return {"points": points, "topk": topk}

    name = f"dsa-{topk}" if topk else "dense"
    return bench.parts.measured(f"seed-{networks.seed}/length-{networks.length}/curve-{name}", definition, work)


def _point(
    transformer: Transformer, documents: Sequence[Row], mode: Mode, step: int, flops: float, seconds: float
) -> dict[str, float]:
    """Evaluates a copy, which scoring may freeze."""
    loss = mean_loss(resized(transformer), documents, mode)
    return {"step": step, "flops": flops, "seconds": round(seconds, 3), "loss": loss}


def _shifted(networks: Networks, result: Mapping[str, Any]) -> list[dict[str, float]]:
    """The points with the warm-up's compute in front, where there was one."""
    flops, seconds = warmup_cost(networks) if result["topk"] else (0.0, 0.0)
    return [p | {"flops": p["flops"] + flops, "seconds": p["seconds"] + seconds} for p in result["points"]]


def warmup_cost(networks: Networks) -> tuple[float, float]:
    """FLOPs and seconds of the indexer's warm-up."""
    phase, config = networks.bench.plan.quick_warmup(networks.length), networks.quick.network().config
    each = step_flops(config, phase.batch, networks.length, "warmup")
    return phase.steps * each, networks.quick.result["seconds"]
