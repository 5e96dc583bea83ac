"""`python -m tasks.benchmarks.parity [FOLDER]`: the held-out loss of a checkpoint here and in transformers.

A model user loads the folder with `AutoModelForCausalLM`; this command says whether that is the same model. Exit
status 1 when the two losses differ by more than `LIMIT`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import Transformer
from tasks.cli import Parser, program, whole
from tasks.curation.shards import read_split
from tasks.training.heldout import heldout_windows

LIMIT = 1e-4  # nats a token
_ROWS = 4  # windows a forward pass


@dataclass(frozen=True)
class HeldoutLosses:
    """Mean nats a token over the same windows, with sparse attention on both sides."""

    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        """Absolute, in nats a token."""
        return abs(self.ours - self.theirs)


def compare(folder: Path, windows: Tensor) -> HeldoutLosses:
    """Both losses of the checkpoint over windows [N, T], each read as one document.

    Raises CheckpointError where the folder is damaged.
    """
    ours = Transformer.from_pretrained(folder).eval()
    theirs = _their_model(folder)
    with torch.no_grad():
        found = [-ours.log_probs(rows, mode="sparse")[:, 1:].double() for rows in windows.split(_ROWS)]
        expected = [_their_nats(theirs, rows) for rows in windows.split(_ROWS)]
    return HeldoutLosses(float(torch.cat(found).mean()), float(torch.cat(expected).mean()))


def _their_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()  # it reports every tensor of the MTP layer, which it has no room for
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def _their_nats(theirs: Any, rows: Tensor) -> Tensor:
    """[B, T - 1]: nats of every token but the first."""
    log_probs = theirs(rows, use_cache=False).logits[:, :-1].log_softmax(-1)
    return -log_probs.gather(-1, rows[:, 1:, None])[..., 0].double()


def read_windows(corpus: Path, length: int, count: int) -> Tensor:
    """[N, T]: evenly spaced windows of the corpus's held-out split."""
    rows = heldout_windows(read_split(corpus, "heldout"), length, count)
    return torch.stack([torch.from_numpy(row.tokens) for row in rows])


@program("tasks.benchmarks.parity")
def main(argv: Sequence[str] | None = None) -> int:
    """Prints both losses; exit status 1 when they differ."""
    parser = Parser(prog="python -m tasks.benchmarks.parity", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("checkpoints/reinforce"))
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--length", type=whole(1), default=512, help="tokens a window")
    parser.add_argument("--windows", type=whole(1), default=32)
    arguments = parser.parse_args(argv)
    windows = read_windows(arguments.corpus, arguments.length, arguments.windows)
    losses = compare(arguments.folder, windows)
    print(f"{arguments.folder}: {windows.numel()} held-out tokens in {len(windows)} windows of {windows.shape[1]}")
    print(f"  held-out loss here            {losses.ours:.6f} nats a token")
    print(f"  held-out loss in transformers {losses.theirs:.6f} nats a token")
    print(f"  difference                    {losses.difference:.1e} (at most {LIMIT:.0e} is asked)")
    return 0 if losses.difference <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
