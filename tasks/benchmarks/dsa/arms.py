"""The arms: which network, which keys. All had the same extra tokens behind the same base of their seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.benchmarks.dsa.networks import Networks
from tasks.benchmarks.dsa.parts import Part
from tasks.benchmarks.dsa.plan import topks
from tasks.benchmarks.dsa.scoring import score
from tasks.benchmarks.dsa.selections import Make, half_split_rope, random_choice, raw_queries, replaced, resized, window
from tasks.training.data import Mode

CONTROL = "dense"


@dataclass(frozen=True)
class Arm:
    """`network` finds the weights for a top-k; `make` puts other indexers into them, None keeps their own."""

    title: str
    network: Callable[[Networks, int], Part]
    make: Make | None = None
    mode: Mode = "sparse"


ARMS: Mapping[str, Arm] = {
    CONTROL: Arm("dense (control)", lambda n, k: n.dense, mode="dense"),
    "joint": Arm("DSA: warm-up, then trained sparse (joint)", lambda n, k: n.joint(k)),
    "warmup_only": Arm("DSA switched on after warm-up only", lambda n, k: n.tuned),
    "window": Arm("sliding window, trained with it", lambda n, k: n.window(k), window),
    "window_untrained": Arm("sliding window, not trained with it", lambda n, k: n.dense, window),
    "random": Arm("random keys", lambda n, k: n.dense, random_choice),
    "untrained": Arm("indexer as initialised", lambda n, k: n.dense),
    "wrong_rope": Arm("joint, indexer rotated half-split", lambda n, k: n.joint(k), half_split_rope),
    "no_query_norm": Arm("joint, index queries not normalised", lambda n, k: n.joint(k), raw_queries),
}


@dataclass(frozen=True)
class Score:
    """One arm at one length and top-k under one seed; `topk` 0 for the control, which selects nothing."""

    seed: int
    length: int
    topk: int
    arm: str
    found: Mapping[str, Any]  # as `scoring.score` returns it, and `masses` of every layer


def scores(networks: Networks) -> Iterator[Score]:
    """Every arm of one seed at one length, trained where it is not there yet."""
    yield _score(networks, CONTROL, 0)
    for topk in topks(networks.length):
        for name in ARMS:
            if name != CONTROL:
                yield _score(networks, name, topk)


def _score(networks: Networks, name: str, topk: int) -> Score:
    arm, bench, scale = ARMS[name], networks.bench, networks.bench.plan.scale
    weights = arm.network(networks, topk)
    sizes = {"documents": scale.document_tokens, "text": scale.text_tokens, "mass": scale.mass_tokens}
    definition = bench.definition(weights=weights.key, arm=name, topk=topk, length=networks.length, tokens=sizes)

    def work() -> Mapping[str, Any]:
        transformer = resized(weights.network(), **({"index_topk": topk} if topk else {}))
        documents = bench.material.documents(scale.document_tokens, networks.length)
        text = bench.material.text(scale.text_tokens, networks.length)
        with replaced(transformer, arm.make):
            masses = networks.masses(transformer, arm.mode) if topk else []
            return score(transformer, documents, text, arm.mode) | {"masses": masses}

    label = f"seed-{networks.seed}/length-{networks.length}/score-{name}" + (f"-{topk}" if topk else "")
    return Score(networks.seed, networks.length, topk, name, bench.parts.measured(label, definition, work).result)
