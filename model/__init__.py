"""GLM-5's network in plain PyTorch."""

from model.checkpoint import CheckpointError
from model.config import ModelConfig, ModelConfigError
from model.muon import Muon, parameter_groups
from model.transformer import Losses, Output, Transformer

__all__ = [
    "CheckpointError",
    "Losses",
    "ModelConfig",
    "ModelConfigError",
    "Muon",
    "Output",
    "Transformer",
    "parameter_groups",
]
