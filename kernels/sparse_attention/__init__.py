from kernels.sparse_attention.api import attention_distribution, masked_attention

__all__ = ["attention_distribution", "masked_attention"]
