"""The filters of curation as datatrove pipeline steps, cheapest first.

Thresholds differ for code and prose, because rules made for web prose throw good code away:
- Short lines that repeat (`return None`, `else:`) are how code looks, so only the share of *characters* in
  repeated lines counts for it, at twice Gopher's bound; Gopher's word n-grams are asked of prose alone.
- Stop words and terminal punctuation say nothing about code; StarCoder's line lengths and share of letters do
  (arXiv 2305.06161, section 3): they find minified, generated and tabular files.
- Language identification is noise on code, so prose is identified, and code must be ASCII for the most part.
Gopher's rules are those of arXiv 2112.11446, table A1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LambdaFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

from tasks.curation.documents import text_hash

Verdict = bool | tuple[bool, str]
MINIMUM_BYTES = 200  # less is a stub: an empty __init__.py, a one-line notice
SCRUBBED_BYTES = MINIMUM_BYTES // 2  # what scrubbing may leave of one
NON_PRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


class Words(WordTokenizer):  # type: ignore[misc]  # datatrove is untyped
    """Runs of letters and digits, and single marks. Far faster than a linguistic tokenizer, and fit for code."""

    def word_tokenize(self, text: str) -> list[str]:
        """Text to words."""
        return re.findall(r"\w+|[^\w\s]", text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Text to lines, which is what a sentence is in code."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Spans of the lines."""
        return [match.span() for match in re.finditer(r"[^\n]+", text)]


WORDS = Words()


class OnlyKind(BaseFilter):  # type: ignore[misc]
    """Asks another filter about documents of one kind and passes the rest."""

    name = "only one kind"

    def __init__(self, kind: str, inner: BaseFilter, exclusion_writer: JsonlWriter) -> None:
        super().__init__(exclusion_writer)
        self.kind, self.inner = kind, inner

    def filter(self, doc: Document) -> Verdict:
        """True to keep."""
        return True if doc.metadata["kind"] != self.kind else self.inner.filter(doc)


class ExactDedup(BaseFilter):  # type: ignore[misc]
    """Keeps the first of equal texts. Complete, because documents are dealt to the ranks by the hash of their text."""

    name = "exact deduplication"

    def __init__(self, exclusion_writer: JsonlWriter) -> None:
        super().__init__(exclusion_writer)
        self.seen: set[str] = set()

    def filter(self, doc: Document) -> Verdict:
        """True to keep."""
        digest = text_hash(doc.text)
        if digest in self.seen:
            return False
        self.seen.add(digest)
        return True


class CountedPII(PIIFormatter):  # type: ignore[misc]
    """Replaces e-mail and public IP addresses, and marks the documents it changed."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Documents in, documents out."""
        for doc in data:
            clean = self.format(doc.text)
            doc.metadata["scrubbed"] = clean != doc.text
            doc.text = clean
            yield doc


class Decontaminate(BaseFilter):  # type: ignore[misc]
    """Drops a document that shares a word n-gram with a held-out task, or holds a short task whole."""

    name = "decontamination"

    def __init__(self, grams: dict[int, frozenset[tuple[str, ...]]], exclusion_writer: JsonlWriter) -> None:
        super().__init__(exclusion_writer)
        self.grams = grams

    def filter(self, doc: Document) -> Verdict:
        """True to keep."""
        words = re.findall(r"\w+", doc.text.lower())
        return all(known.isdisjoint(n_grams(words, n)) for n, known in self.grams.items())


def n_grams(words: Sequence[str], n: int) -> Any:
    """Iterator over the n-grams of the words."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def well_formed(maximum_bytes: int, doc: Document, minimum_bytes: int = MINIMUM_BYTES) -> Verdict:
    """Size and characters: what any text must satisfy."""
    size = len(doc.text.encode())
    if size < minimum_bytes:
        return False, "too_short"
    if size > maximum_bytes:
        return False, "too_long"
    if len(NON_PRINTABLE.findall(doc.text)) > 0.001 * len(doc.text):
        return False, "not_printable"
    return True


def code_quality(doc: Document) -> Verdict:
    """StarCoder's rules for one file of source code, and ASCII in place of a language."""
    lines = doc.text.splitlines()
    if sum(character.isalpha() for character in doc.text) < 0.4 * len(doc.text):
        return False, "few_letters"
    if max(map(len, lines)) > 1000 or len(doc.text) > 100 * len(lines):
        return False, "long_lines"
    if len(doc.text.encode()) > 1.02 * len(doc.text):
        return False, "not_ascii"
    return True


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def english(minimum: float, doc: Document) -> Verdict:
    """Language of prose by py3langid on the first 1,500 characters; the result is kept for the gate."""
    if doc.metadata["kind"] == "code":
        doc.metadata["language"] = "code"
        return True
    language, probability = _identifier().classify(doc.text[:1500])
    doc.metadata["language"] = language
    return bool(language == "en" and probability >= minimum) or (False, "not_english")


def drop_record(_: JsonlWriter, document: Document) -> dict[str, Any]:
    """What is kept of a dropped document: enough to count it, by its bytes as read, and to find it again."""
    reason = document.metadata.get("filter_reason", "")
    return {"id": document.id, "reason": reason, "bytes": document.metadata["bytes"]}


def filter_steps(
    maximum_bytes: int, grams: dict[int, frozenset[tuple[str, ...]]], drops: Callable[[str], JsonlWriter]
) -> list[PipelineStep]:
    """The steps between reading and near-duplicate removal; `drops(step)` gives each its exclusion writer."""
    lines_only: dict[str, Any] = {"top_n_grams": (), "dup_n_grams": (), "language": WORDS}
    code_repetition = GopherRepetitionFilter(None, None, 0.4, 0.4, **lines_only)
    prose_repetition = GopherRepetitionFilter(language=WORDS)
    # Manuals are lists of options and headings: short words, marks and bullets are allowed more often than on the web.
    prose_quality = GopherQualityFilter(
        min_doc_words=30,
        min_avg_word_length=2.5,
        max_non_alpha_words_ratio=0.4,
        max_symbol_word_ratio=0.2,
        language=WORDS,
    )
    return [
        LambdaFilter(functools.partial(well_formed, maximum_bytes), drops("form")),
        ExactDedup(drops("exact_duplicate")),
        LambdaFilter(functools.partial(english, 0.8), drops("language")),
        OnlyKind("code", LambdaFilter(code_quality), drops("code_quality")),
        OnlyKind("code", code_repetition, drops("code_repetition")),
        OnlyKind("prose", prose_quality, drops("prose_quality")),
        OnlyKind("prose", prose_repetition, drops("prose_repetition")),
        Decontaminate(grams, drops("contaminated")),
        CountedPII(),
        # Scrubbing makes texts longer and shorter, and the gate measures what it left.
        LambdaFilter(functools.partial(well_formed, maximum_bytes, minimum_bytes=SCRUBBED_BYTES), drops("scrubbed")),
    ]
