"""What can be wrong with the inputs of a training stage, said in one sentence."""

from __future__ import annotations

from model import ModelConfigError
from model.checkpoint import CheckpointError
from tasks.config import ConfigError
from tasks.curation.shards import ShardError
from tasks.errors import InputError, MachineError
from tasks.tracking import ProvenanceError, TrackingError


class TrainingDataError(InputError):
    """Data or settings that training cannot use; the message names them."""


class DivergenceError(MachineError):
    """The loss is no longer finite."""


def known_errors() -> tuple[type[Exception], ...]:
    """What a stage's `main` prints without a traceback."""
    ours = (TrainingDataError, DivergenceError)
    return (*ours, ConfigError, ModelConfigError, ShardError, CheckpointError, ProvenanceError, TrackingError, OSError)
