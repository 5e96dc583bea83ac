"""The kernels' speed on this machine's GPU, checked first, next to what PyTorch and others offer."""
