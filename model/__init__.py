"""GLM-5's network in plain PyTorch."""

from model.config import ModelConfig, ModelConfigError
from model.transformer import Losses, Output, Transformer

__all__ = ["Losses", "ModelConfig", "ModelConfigError", "Output", "Transformer"]
