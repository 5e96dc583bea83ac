"""Operations of the network, one folder each: `api` validates and dispatches, `reference` is plain PyTorch."""

import os

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # contract a * b + c; Triton 3.10 changes what unset means
