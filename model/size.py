"""`python -m model.size [PRESET ...]`: total and active parameters of the presets, built on the meta device.

Counted as in the paper's 744B / 40B (GLM-5, arXiv 2602.15763, section 2.1): without the MTP layer, which serves
training and speculative decoding and stands beside it; active are all but the routed experts that a token does not
pass. Embedding and head are counted (1.9 B of GLM-5's 41.8 B active ones; 39.9 B without them).
"""

import argparse
from dataclasses import dataclass

import torch

from model.config import ModelConfig
from model.presets import PRESETS
from model.transformer import Transformer


@dataclass(frozen=True)
class Size:
    """Numbers of parameters: of the trunk with embedding and head, those a token passes, and of the MTP layer."""

    total: int
    active: int
    mtp: int


def measure(config: ModelConfig) -> Size:
    """Counts the network's parameters without allocating them."""
    with torch.device("meta"):
        transformer = Transformer(config)
    sizes = {name: parameter.numel() for name, parameter in transformer.named_parameters()}
    mtp = sum(size for name, size in sizes.items() if name.startswith("mtp."))
    total = sum(sizes.values()) - mtp
    experts = sum(size for name, size in sizes.items() if ".experts." in name and not name.startswith("mtp."))
    idle = experts * (config.n_routed_experts - config.num_experts_per_tok) // config.n_routed_experts
    return Size(total, total - idle, mtp)


def readable(count: int) -> str:
    """Three digits and a unit: 744 B, 2.04 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            digits = f"{count / size:#.3g}".rstrip(".")
            return f"{digits} {unit}"
    return str(count)


def _known(name: str) -> str:
    if name not in PRESETS:
        raise argparse.ArgumentTypeError(f"{name!r} is no preset; the presets are {', '.join(PRESETS)}")
    return name


def main() -> None:
    """Print a table, one preset a line."""
    parser = argparse.ArgumentParser(prog="python -m model.size", description=__doc__)
    parser.add_argument("presets", nargs="*", type=_known, help=f"of {', '.join(PRESETS)}; all where none is named")
    names = parser.parse_args().presets or PRESETS
    print(f"{'preset':<10}{'total':>10}{'active':>10}{'MTP layer':>12}")
    for name in names:
        size = measure(ModelConfig.preset(name))
        print(f"{name:<10}{readable(size.total):>10}{readable(size.active):>10}{readable(size.mtp):>12}")


if __name__ == "__main__":
    main()
