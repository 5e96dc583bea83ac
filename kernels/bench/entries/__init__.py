"""One file an operation."""

from kernels.bench.entries import attention, indexer, linear_cross_entropy, sparse_attention, sparse_decode
from kernels.bench.entry import Entry


def entries() -> list[Entry]:
    """All that is measured."""
    return [
        *sparse_attention.ENTRIES,
        *sparse_decode.ENTRIES,
        *indexer.ENTRIES,
        *linear_cross_entropy.ENTRIES,
        *attention.ENTRIES,
    ]
