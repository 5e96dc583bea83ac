"""One file an operation."""

from kernels.bench.entries import (
    attention,
    experts,
    indexer,
    indexer_loss,
    linear_cross_entropy,
    rows,
    sparse_attention,
    sparse_decode,
)
from kernels.bench.entry import Entry


def entries() -> list[Entry]:
    """All that is measured."""
    return [
        *sparse_attention.ENTRIES,
        *sparse_decode.ENTRIES,
        *indexer.ENTRIES,
        *indexer_loss.ENTRIES,
        *linear_cross_entropy.ENTRIES,
        *experts.ENTRIES,
        *rows.ENTRIES,
        *attention.ENTRIES,
    ]
