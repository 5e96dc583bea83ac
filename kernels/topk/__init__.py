from kernels.topk.api import topk_indices, topk_mask

__all__ = ["topk_indices", "topk_mask"]
