"""How much of everything the evidence takes, and the phases its networks go through."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tasks.config import Config
from tasks.training.data import Mode
from tasks.training.schedule import Phase
from tasks.training.settings import OptimizerSettings

SHARES = (8, 16)  # topk is the length divided by these
MIXTURE = {"corpus": 0.4, "retrieval": 0.6}
# Four times the heads of params.yaml's and twice their width: one layer spreads its attention over some hundred keys,
# and with half as many heads it depends on the first weights whether eighty steps find all that it looks for.
INDEXER = {"index_n_heads": 16, "index_head_dim": 64}
TEACHING_SHARE, TEACHING_LEAST = 16, 128  # one query row in sixteen teaches the indexer, but at least so many


@dataclass(frozen=True)
class Scale:
    """Optimizer steps, and tokens a step or a held-out set; rows are as many as fill the tokens, at least one."""

    copy_steps: int = 200  # at most: copying ends them
    text_steps: int = 150
    long_steps: int = 40  # a round, dense at the full length
    long_rounds: int = 3  # at most: retrieval ends them
    long_tokens: int = 4096
    warmup_steps: int = 80
    warmup_tokens: int = 8192
    extra_steps: int = 40  # those that every arm gets
    extra_tokens: int = 4096
    curve_warmup_steps: int = 40  # of loss against compute, a row each
    curve_rows: int = 128  # query rows that teach there, in warm-up and sparse training
    curve_dense_steps: int = 120
    curve_sparse_steps: int = 220  # at 4096 tokens as many FLOPs as the dense ones, warm-up included
    curve_every: int = 10  # steps between two evaluations there
    document_tokens: int = 40960  # held-out documents that need retrieval
    text_tokens: int = 16384  # held-out text as it is
    mass_tokens: int = 4096  # of the held-out documents, where attention mass is measured
    curve_tokens: int = 16384  # of them, where the curve is measured

    @classmethod
    def trial(cls) -> Scale:
        """Enough to see every part run; its figures mean nothing."""
        return cls(
            copy_steps=2, text_steps=2, long_steps=2, long_rounds=1, long_tokens=192, warmup_steps=4,
            warmup_tokens=192, extra_steps=2, extra_tokens=192, curve_warmup_steps=4, curve_rows=32,
            curve_dense_steps=3, curve_sparse_steps=2, curve_every=1, document_tokens=384,
            text_tokens=192, mass_tokens=192, curve_tokens=192,
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The phases of one configuration."""

    config: Config
    scale: Scale = field(default_factory=Scale)
    good_retrieval: float = 0.97  # held-out accuracy over all distances that ends the long rounds

    def base(self) -> list[Phase]:
        """Copying from repeated letters, then text at short context, with the rates and sizes of `pretrain`."""
        section, scale = self.config.pretrain, self.scale
        optimizer = OptimizerSettings.of(section)
        repeats = section.repeat_share / 2
        mixture = {"corpus": 1.0 - section.repeat_share, "letters": repeats, "tokens": repeats}
        copying = (section.copy_batch, section.copy_context, {"letters": 1.0}, optimizer)
        text = (section.batch, section.context, mixture, optimizer)
        return [
            Phase("copy", "dense", scale.copy_steps, *copying, until=section.copy_loss),
            Phase("text", "dense", scale.text_steps, *text, decay=section.decay),
        ]

    def long(self, length: int) -> Phase:
        """A round of dense training at the full length."""
        return self._phase("long", "dense", self.scale.long_steps, self.scale.long_tokens, length)

    def warmup(self, length: int) -> Phase:
        """The indexer alone, against dense attention, by Muon whatever the stage uses."""
        return self._warmup(self.scale.warmup_steps, self.scale.warmup_tokens, length)

    def quick_warmup(self, length: int) -> Phase:
        """The same of one row a step, which a curve can be charged for."""
        return self._warmup(self.scale.curve_warmup_steps, length, length)

    def _warmup(self, steps: int, tokens: int, length: int) -> Phase:
        phase = self._phase("warmup", "warmup", steps, tokens, length)
        settings = replace(OptimizerSettings.of_warmup(self.config.midtrain), name="muon", zero_stage=0)
        return replace(phase, optimizer=settings, train="indexer", decay=0.4)

    def extra(self, length: int, mode: Literal["dense", "sparse"]) -> Phase:
        """The tokens that every arm gets, dense or sparse, with a learning rate that falls to its end."""
        phase = self._phase("extra", mode, self.scale.extra_steps, self.scale.extra_tokens, length)
        return replace(phase, decay=0.8)

    def curve(self, length: int, mode: Literal["dense", "sparse"]) -> Phase:
        """One row a step at an even learning rate: every point of the curve is a place to stop."""
        steps = self.scale.curve_dense_steps if mode == "dense" else self.scale.curve_sparse_steps
        return self._phase("curve", mode, steps, length, length)

    def _phase(self, name: str, mode: Mode, steps: int, tokens: int, length: int) -> Phase:
        settings = OptimizerSettings.of(self.config.midtrain)
        return Phase(name, mode, steps, rows(tokens, length), length, MIXTURE, settings, warmup=0.1)


def rows(tokens: int, length: int) -> int:
    """As many rows as fill the tokens, at least one."""
    return max(1, tokens // length)


def teaching_rows(length: int) -> int:
    """Query rows of a sequence that teach the indexer at each step."""
    return min(length, max(TEACHING_LEAST, length // TEACHING_SHARE))


def topks(length: int) -> tuple[int, ...]:
    """The numbers of selected keys at a length."""
    return tuple(max(1, length // share) for share in SHARES)
