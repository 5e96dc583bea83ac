"""The networks of one seed at one length. Each is trained once, from the one before it, and kept as a part.

base      random weights, copying, text at short context (one for all lengths)
long      base, dense at the full length until it retrieves; its indexers are new and of the evidence's size
dense     long + the extra tokens, dense: the control
warmed    long, indexer warm-up; every top-k starts from it
raw       long, indexer warm-up on index queries whose latent is not normalised
quick     long, a short warm-up of the smaller indexers of params.yaml: where the curve of a sparse training begins
joint-k   warmed + the extra tokens, sparse
window-k  long + the extra tokens through a sliding window
tuned     dense, indexer warm-up: the network of `warmup_only`, whose backbone never saw a sparse selection
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from model import ModelConfig, Transformer
from tasks.benchmarks.dsa.bench import SEED_STEP, Bench
from tasks.benchmarks.dsa.mass import captured
from tasks.benchmarks.dsa.meter import Meter
from tasks.benchmarks.dsa.parts import Part
from tasks.benchmarks.dsa.plan import topks
from tasks.benchmarks.dsa.scoring import score
from tasks.benchmarks.dsa.selections import Make, fitted, raw_queries, replaced, resized, window
from tasks.training.data import Mode
from tasks.training.loop import Report
from tasks.training.schedule import Phase


@dataclass(frozen=True)
class Networks:
    """See the module's text."""

    bench: Bench
    seed: int
    length: int

    @cached_property
    def base(self) -> Part:
        """Copying and text at short context."""
        phases = self.bench.plan.base()
        config = self.bench.configured(phases[-1].context)
        definition = self.bench.definition(seed=self.seed, model=config.to_hugging_face(), phases=_plain(*phases))

        def work() -> tuple[Transformer, Mapping[str, Any]]:
            transformer = Transformer(config)
            transformer.init_weights(self.seed)
            return transformer, {"steps": self.bench.train(transformer, phases, self.seed * SEED_STEP)}

        return self.bench.parts.trained(f"seed-{self.seed}/base", definition, work)

    @cached_property
    def long(self) -> Part:
        """Rounds of dense training at the full length, until the held-out strings are found again."""
        plan, config = self.bench.plan, self.bench.model_config(self.length)
        phase, good, limit = plan.long(self.length), plan.good_retrieval, plan.scale.long_rounds
        rule = {"good": good, "rounds": limit, "document_tokens": plan.scale.document_tokens}

        def work(transformer: Transformer) -> Mapping[str, Any]:
            accuracies: list[float] = []
            while len(accuracies) < limit and (not accuracies or accuracies[-1] < good):
                self._run(transformer, phase, 1 + len(accuracies))
                accuracies.append(self._retrieval(transformer))
            return {"retrieval_after_each_round": accuracies}

        return self._grown("long", self.base, phase, work, config, rule)

    @cached_property
    def dense(self) -> Part:
        """The control: the extra tokens, dense."""
        phase = self.bench.plan.extra(self.length, "dense")
        return self._grown("dense", self.long, phase, lambda transformer: self._extra(transformer, phase))

    @cached_property
    def warmed(self) -> Part:
        """The indexer's warm-up on the network that the joint arms start from."""
        return self._warm_up("warmed", self.long)

    @cached_property
    def tuned(self) -> Part:
        """The indexer's warm-up on the control, which had its extra tokens dense."""
        return self._warm_up("tuned", self.dense)

    @cached_property
    def raw(self) -> Part:
        """The indexer's warm-up with queries of the latent before its norm."""
        return self._warm_up("raw", self.long, make=raw_queries)

    @cached_property
    def quick(self) -> Part:
        """A short warm-up of smaller indexers, of which few rows teach: the cheap way into sparse training."""
        plan = self.bench.plan
        small = self.bench.configured(self.length, indexer_loss_rows=min(self.length, plan.scale.curve_rows))
        return self._warm_up("quick", self.long, plan.quick_warmup(self.length), small)

    def joint(self, topk: int) -> Part:
        """Sparse training of backbone and indexer, from the warmed-up indexer."""
        return self._sparse(f"joint-{topk}", self.warmed, topk, None)

    def window(self, topk: int) -> Part:
        """Training through a sliding window of the last topk keys."""
        return self._sparse(f"window-{topk}", self.long, topk, window)

    def _sparse(self, name: str, start: Part, topk: int, make: Make | None) -> Part:
        phase = self.bench.plan.extra(self.length, "sparse")
        config = self.bench.model_config(self.length, index_topk=topk)

        def work(transformer: Transformer) -> Mapping[str, Any]:
            with replaced(transformer, make):
                return self._extra(transformer, phase)

        return self._grown(name, start, phase, work, config, {"selection": make.__name__ if make else "indexer"})

    def _warm_up(
        self,
        name: str,
        start: Part,
        phase: Phase | None = None,
        config: ModelConfig | None = None,
        make: Make | None = None,
    ) -> Part:
        phase = phase or self.bench.plan.warmup(self.length)
        marks = {phase.steps // 4, phase.steps // 2, phase.steps}
        rule = {"mass_tokens": self.bench.plan.scale.mass_tokens}

        def work(transformer: Transformer) -> Mapping[str, Any]:
            found, meter = dict[str, Any](), Meter()

            def report(step: int, metrics: Mapping[str, float]) -> None:
                with meter.paused():
                    if step in marks:
                        found[str(step)] = self._masses_by_topk(transformer, make)

            with replaced(transformer, make):
                self._run(transformer, phase, 8, report)
            return {"masses": found, "seconds": round(meter.seconds, 2)}

        queries = {"selection": make.__name__} if make else {}
        return self._grown(name, start, phase, work, config, rule | queries)

    def _grown(
        self,
        name: str,
        start: Part,
        phase: Phase,
        work: Callable[[Transformer], Mapping[str, Any]],
        config: ModelConfig | None = None,
        rule: Mapping[str, Any] | None = None,
    ) -> Part:
        """A part that starts from the network of another, fitted to `config` where that is given."""
        sizes = config.to_hugging_face() if config else None
        definition = self.bench.definition(
            seed=self.seed, start=start.key, model=sizes, phases=_plain(phase), rule=rule or {}
        )

        def trained() -> tuple[Transformer, Mapping[str, Any]]:
            transformer = start.network()
            grown = fitted(transformer, config, self.seed) if config else transformer
            return grown, work(grown)

        return self.bench.parts.trained(f"seed-{self.seed}/length-{self.length}/{name}", definition, trained)

    def _extra(self, transformer: Transformer, phase: Phase) -> Mapping[str, Any]:
        self._run(transformer, phase, 9)
        return {}

    def _run(self, transformer: Transformer, phase: Phase, number: int, report: Report | None = None) -> None:
        self.bench.train(transformer, [phase], self.seed * SEED_STEP + number, report)

    def masses(self, transformer: Transformer, mode: Mode = "dense") -> list[dict[str, float]]:
        """Of every layer: what its selection captures, on held-out documents."""
        documents = self.bench.material.documents(self.bench.plan.scale.mass_tokens, self.length)
        return [asdict(mass) for mass in captured(transformer, [d.row for d in documents], mode)]

    def _masses_by_topk(self, transformer: Transformer, make: Make | None) -> dict[str, Any]:
        found = {}
        for topk in topks(self.length):
            with replaced(resized(transformer, index_topk=topk), make) as copy:
                found[str(topk)] = self.masses(copy)
        return found

    def _retrieval(self, transformer: Transformer) -> float:
        documents = self.bench.material.documents(self.bench.plan.scale.document_tokens // 4, self.length)
        found = score(resized(transformer), documents, [documents[0].row], "dense")["retrieval"].values()
        return sum(sum(bin_["hits"]) for bin_ in found) / sum(sum(bin_["scored"]) for bin_ in found)


def _plain(*phases: Phase) -> list[dict[str, Any]]:
    return [asdict(phase) for phase in phases]
