"""The indexer's scores."""

from kernels.lightning_indexer.api import index_scores, index_scores_gradients

__all__ = ["index_scores", "index_scores_gradients"]
