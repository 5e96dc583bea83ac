"""The indexer's scores and its loss."""

from kernels.lightning_indexer.api import (
    attention_lse,
    index_scores,
    index_scores_gradients,
    indexer_loss_listed,
    indexer_loss_visible,
)

__all__ = ["attention_lse", "index_scores", "index_scores_gradients", "indexer_loss_listed", "indexer_loss_visible"]
