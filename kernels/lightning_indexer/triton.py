"""The lightning indexer in Triton: the scores and the loss they learn from."""

from kernels.lightning_indexer import listed, scores, teacher

CASES = [*scores.CASES, *teacher.CASES, *listed.CASES]
