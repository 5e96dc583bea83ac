"""How the list of a sequence is cut."""

BLOCK = 64  # keys a step


def steps_of(topk: int, programs: int, multiprocessors: int) -> int:
    """Steps of BLOCK keys in a share: as many shares as fit on the chip at once beside `programs` of each."""
    steps = -(-topk // BLOCK)
    shares = max(1, multiprocessors // max(1, programs))
    return -(-steps // shares)
