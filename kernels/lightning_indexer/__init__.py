"""The indexer's scores and its loss."""

from kernels.lightning_indexer.api import (
    index_scores,
    index_scores_gradients,
    indexer_loss_listed,
    indexer_loss_visible,
)

__all__ = ["index_scores", "index_scores_gradients", "indexer_loss_listed", "indexer_loss_visible"]
