"""Each filter drops what it is for, says why, and leaves good text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datatrove.data import Document

from tasks.curation.contamination import gram_index, heldout_texts
from tasks.curation.documents import RawDocument
from tasks.curation.filters import code_quality, english, well_formed
from tasks.curation.gate import check_batch
from tasks.curation.pipeline import Curated, count_drops, deal, run_filters

WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "letter",
    "winter",
    "market",
    "evening",
    "bridge",
    "silver",
    "forest",
    "captain",
    "morning",
    "kitchen",
    "harbour",
    "travel",
    "summer",
    "mountain",
    "village",
    "history",
    "painter",
    "machine",
    "library",
    "teacher",
    "engine",
    "wheel",
    "copper",
    "orange",
    "signal",
    "museum",
    "island",
    "pocket",
    "season",
    "candle",
    "ribbon",
    "shelter",
    "planet",
    "canvas",
    "ticket",
    "meadow",
    "barrel",
]


def prose(seed: int, words: int = 300) -> str:
    """English enough for the filters, different for each seed, without repeated n-grams."""
    state, out = seed * 7919 + 1, []
    for position in range(words):
        state = (state * 1103515245 + 12345) % 2**31
        out.append(("the", "of", "and", "with")[state % 4] if position % 2 else WORDS[(state >> 8) % len(WORDS)])
    text = " ".join(out)
    return "\n".join(text[start : start + 70] for start in range(0, len(text), 70))


def code(seed: int) -> str:
    names = [WORDS[(seed * 13 + step * 7) % len(WORDS)] for step in range(12)]
    return "".join(
        f"def {name}_{seed}({name}, other):\n    return {name}.{other}(other)\n\n"
        for name, other in zip(names, reversed(names), strict=True)
    )


def raw(identifier: str, text: str, kind: str = "prose") -> RawDocument:
    return RawDocument(identifier, text, kind, "test")


NEAR = prose(5, 400)
CONTAMINANT = "from typing import List\n\n\ndef has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
BATCH = [
    *(raw(f"good/{seed}", prose(seed)) for seed in range(5)),
    *(raw(f"code/{seed}", code(seed), "code") for seed in range(3)),
    raw("again", prose(0)),
    raw("near/1", NEAR),
    raw("near/2", NEAR + "\nbarrel of the candle"),
    raw("mail", prose(6) + "\nwrite to jane.roe@acme.org or 8.8.8.8"),
    raw("french", "Le chat est sur la table et les enfants jouent dans le jardin avec leur mère. " * 5),
    raw("short", "too short"),
    raw("long", prose(7, 5000)),
    raw("binary", prose(8) + "\x00\x01" * 40),
    raw("echo", "the same line of words again and again\n" * 40),
    raw("table", "\n".join(f"{n}, {n * n}, 0x{n:04x}," for n in range(100)), "code"),
    raw("minified", "function(){" + "var abc=def;" * 200 + "}", "code"),
    raw("tasks", prose(9) + "\nSort the seven lines of plums.txt by size and write them to result.txt\n" + prose(10)),
]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    demonstrations = tmp_path_factory.mktemp("demonstrations")
    instruction = "Sort the seven lines of plums.txt by size and write them to result.txt."
    (demonstrations / "heldout.jsonl").write_text(json.dumps({"instruction": instruction}) + "\n")
    grams = gram_index(text for _, text in heldout_texts(demonstrations))
    return run_filters(BATCH, tmp_path_factory.mktemp("work") / "w", grams, 20_000, 2)


def test_good_documents_stay(curated: Curated) -> None:
    kept = {document.id for document in curated.documents}
    assert kept >= {f"good/{seed}" for seed in range(1, 5)} | {f"code/{seed}" for seed in range(3)} | {"mail"}


def test_each_drop_is_counted_with_its_reason(curated: Curated) -> None:
    counts = {reason: documents for reason, (documents, _) in curated.drops.items()}
    assert counts == {
        "code_quality.few_letters": 1,
        "code_quality.long_lines": 1,
        "contaminated": 1,
        "exact_duplicate": 1,
        "form.not_printable": 1,
        "form.too_long": 1,
        "form.too_short": 1,
        "language.not_english": 1,
        "near_duplicate": 1,
        "prose_repetition.dup_line_frac": 1,
    }
    assert len(curated.documents) + sum(counts.values()) == len(BATCH)
    assert curated.drops["form.too_short"] == (1, len("too short"))


def test_one_of_two_near_duplicates_stays(curated: Curated) -> None:
    assert len({document.id for document in curated.documents} & {"near/1", "near/2"}) == 1


def test_personal_data_is_replaced_and_counted(curated: Curated) -> None:
    document = next(document for document in curated.documents if document.id == "mail")
    assert "jane.roe" not in document.text
    assert "8.8.8.8" not in document.text
    assert [d.id for d in curated.documents if d.metadata["scrubbed"]] == ["mail"]


def test_result_does_not_depend_on_the_number_of_processes(curated: Curated, tmp_path: Path) -> None:
    alone = run_filters(BATCH, tmp_path / "w", gram_index([BATCH[-1].text]), 20_000, 1)
    assert [d.id for d in alone.documents] == [d.id for d in curated.documents]


def test_humaneval_is_in_the_index() -> None:
    grams = gram_index(text for _, text in heldout_texts(Path("absent")))
    assert gram_index([CONTAMINANT])[10] <= grams[10]


def test_a_short_heldout_text_is_forbidden_only_as_a_whole() -> None:
    grams = gram_index(["Print the third line of plums", "too few words"])
    assert grams == {6: frozenset({("print", "the", "third", "line", "of", "plums")})}


def test_counting_from_nought_to_nine_is_no_contamination() -> None:
    assert gram_index(["0 1 2 3 4 5 6 7 8 9"]) == {10: frozenset()}


def test_equal_texts_meet_in_one_rank(tmp_path: Path) -> None:
    deal([raw(str(number), prose(number % 3)) for number in range(12)], tmp_path / "raw")
    ranks: dict[str, set[str]] = {}
    for path in (tmp_path / "raw").iterdir():
        for line in path.read_text().splitlines():
            ranks.setdefault(json.loads(line)["text"], set()).add(path.name)
    assert [len(files) for files in ranks.values()] == [1, 1, 1]


def test_no_drops_no_counts(tmp_path: Path) -> None:
    assert count_drops(tmp_path / "absent") == {}


def document(text: str, kind: str) -> Document:
    return Document(text=text, id="d", metadata={"kind": kind})


def test_language_is_asked_of_prose_alone() -> None:
    german = "Der Hund läuft über die Straße und sucht nach seinem Ball. " * 5
    assert english(0.8, document(german, "prose")) == (False, "not_english")
    assert english(0.8, document(german, "code")) is True


def test_code_in_another_script_is_not_ascii() -> None:
    assert code_quality(document("# проверка значения переменной\nvalue = 1\n" * 10, "code")) == (False, "not_ascii")


def test_size_is_counted_in_bytes() -> None:
    assert well_formed(300, document("é" * 140, "prose")) is True
    assert well_formed(300, document("é" * 160, "prose")) == (False, "too_long")


def filtered(documents: list[RawDocument], folder: Path, maximum: int = 20_000) -> Curated:
    curated = run_filters(documents, folder / "w", {}, maximum, 1)
    assert len(documents) == len(curated.documents) + sum(count for count, _ in curated.drops.values())
    kept_bytes = sum(document.metadata["bytes"] for document in curated.documents)
    assert sum(d.size for d in documents) == kept_bytes + sum(size for _, size in curated.drops.values())
    return curated


def test_a_document_that_scrubbing_made_too_long_is_dropped_and_counted(tmp_path: Path) -> None:
    text = "\n".join(f"{line}\nwrite to a{number}@b.co" for number, line in enumerate(prose(20, 600).splitlines()))
    documents = [raw("grows", text), raw("good", prose(21))]
    curated = filtered(documents, tmp_path, maximum=len(text) + 5)
    assert [document.id for document in curated.documents] == ["good"]
    assert curated.drops == {"scrubbed.too_long": (1, len(text))}
    check_batch(curated.documents, 1, 1, len(text) + 5)


def test_texts_that_scrubbing_made_equal_are_one(tmp_path: Path) -> None:
    shape = f"{'word' * 24}\n{'-' * 40}\n{'=' * 30}\n# {{}}@acme.org\n"  # too few words for near-duplicate removal
    documents = [raw(letter, shape.format(letter * 70), "code") for letter in "abcdef"]
    curated = filtered(documents, tmp_path)
    assert 1 <= len(curated.documents) <= 2  # the two addresses that stand for any other
    assert "exact_duplicate" in curated.drops
    check_batch(curated.documents, 1, 1, 20_000)


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\r", "\n"])
def test_a_dropped_documents_name_may_hold_any_end_of_line(tmp_path: Path, letter: str) -> None:
    assert filtered([raw(f"a{letter}b", "short"), raw("good", prose(3))], tmp_path).drops == {"form.too_short": (1, 5)}


def test_bytes_of_drops_are_those_read_also_after_scrubbing(tmp_path: Path) -> None:
    text = prose(6) + "\nwrite to somebody.with.a.long.name@a.host.with.a.long.name.org\n"
    documents = [raw("one", text), raw("two", text + "\nbarrel of the candle")]
    assert filtered(documents, tmp_path).drops.keys() == {"near_duplicate"}
