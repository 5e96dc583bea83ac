"""How the list of a sequence is cut."""

BLOCK = 64  # keys a step


def steps_of(topk: int, programs: int, multiprocessors: int, block: int = BLOCK) -> int:
    """Steps of `block` keys in a share: as many shares as fit on the chip at once beside `programs` of each.

    At least one, so that an empty list gives its zeros.
    """
    steps = max(1, -(-topk // block))
    shares = max(1, multiprocessors // max(1, programs))
    return -(-steps // shares)
