"""One decoding step's attention over the listed positions of a paged cache of latents."""

from kernels.sparse_decode.api import sparse_decode

__all__ = ["sparse_decode"]
