"""The gate lets a good batch through and says in a table what is wrong with another."""

from __future__ import annotations

import pytest
from datatrove.data import Document

from tasks.curation.gate import GateError, check_batch


def batch(count: int = 30) -> list[Document]:
    metadata = {"kind": "prose", "language": "en"}
    return [
        Document(text=f"{number} " + "word " * 100, id=str(number), metadata=dict(metadata)) for number in range(count)
    ]


def check(documents: list[Document]) -> list[dict[str, object]]:
    return check_batch(documents, minimum_documents=20, minimum_bytes=5000, maximum_document_bytes=1000)


def test_a_good_batch_passes() -> None:
    rows = check(batch())
    assert len(rows) == 12
    assert all(row["success"] for row in rows)


def spoil_id(documents: list[Document]) -> None:
    documents[1].id = documents[0].id


def spoil_text(documents: list[Document]) -> None:
    documents[1].text = documents[0].text


def spoil_language(documents: list[Document]) -> None:
    documents[1].metadata["language"] = "fr"


def spoil_null(documents: list[Document]) -> None:
    del documents[1].metadata["language"]


def spoil_length(documents: list[Document]) -> None:
    documents[1].text = "x" * 1001


def spoil_characters(documents: list[Document]) -> None:
    documents[1].text = "word\x00" * 100


def spoil_count(documents: list[Document]) -> None:
    del documents[19:]


def spoil_size(documents: list[Document]) -> None:
    for number, document in enumerate(documents):
        document.text = f"{number:0150d}"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_id, "column_values_to_be_unique(id)"),
        (spoil_text, "column_values_to_be_unique(text_hash)"),
        (spoil_language, "column_values_to_be_in_set(language)"),
        (spoil_null, "column_values_to_not_be_null(language)"),
        (spoil_length, "column_values_to_be_between(bytes)"),
        (spoil_characters, "column_values_to_be_between(printable)"),
        (spoil_count, "table_row_count_to_be_between()"),
        (spoil_size, "column_sum_to_be_between(bytes)"),
    ],
)
def test_each_violation_is_named(spoil: object, named: str) -> None:
    documents = batch()
    spoil(documents)  # type: ignore[operator]
    with pytest.raises(GateError) as caught:
        check(documents)
    sentence, *rows = str(caught.value).splitlines()
    assert f"violates 1 of 12 expectations: {named}." in sentence
    assert sum(row.startswith("FAIL") for row in rows) == 1
    assert len({len(row[: row.index(row.split()[1])]) for row in rows[1:]}) == 1  # aligned


def test_an_empty_batch_is_one_sentence() -> None:
    with pytest.raises(GateError, match="The corpus is empty"):
        check([])
