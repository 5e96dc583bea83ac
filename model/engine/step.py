"""One interface, two implementations: the compiled step and the plain one."""

from dataclasses import dataclass

from model.config import ModelConfig
from model.engine.cache import Cache
from model.engine.native import NativeStep
from model.engine.reference import ReferenceStep
from model.engine.weights import FusedWeights

Step = NativeStep | ReferenceStep


@dataclass(frozen=True)
class StepBuilder:
    """How the steps of an engine are made; `topk` None attends densely, `threads` are the compiled step's."""

    native: bool
    topk: int | None
    threads: int

    def __call__(self, config: ModelConfig, weights: FusedWeights, cache: Cache) -> Step:
        """The step that runs rows through these layers over this cache."""
        if self.native:
            return NativeStep(config, weights, cache, self.topk, self.threads)
        return ReferenceStep(config, weights, cache, self.topk)
