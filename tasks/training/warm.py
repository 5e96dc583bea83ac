"""`python -m tasks.training.warm`: one step of a tiny model, so that whatever is built on first use is built."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from model import ModelConfig, Transformer
from tasks.cli import Parser, program
from tasks.training.data import Row, stack
from tasks.training.engine import Trainer, batch_loss
from tasks.training.settings import OptimizerSettings


@program("tasks.training.warm")
def main(argv: Sequence[str] | None = None) -> int:
    """Builds the engine, steps once and prints the loss."""
    Parser(prog="python -m tasks.training.warm").parse_args(argv)
    transformer = Transformer(ModelConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2))
    transformer.init_weights(0)
    tokens = torch.arange(32) % 64
    row = Row(tokens.numpy(), torch.zeros(32, dtype=torch.int64).numpy(), torch.ones(32).numpy())
    metrics = Trainer(transformer, OptimizerSettings()).step(batch_loss(stack([row]), "dense"))
    print(f"The training engine works: loss {metrics['loss']:.3f}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
