"""The indexer's scores."""

from kernels.lightning_indexer.api import index_scores

__all__ = ["index_scores"]
