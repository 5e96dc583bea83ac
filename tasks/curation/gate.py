"""The gate between curation and training: a Great Expectations suite over the curated batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pandas as pd
from datatrove.data import Document

from tasks.curation.documents import text_hash
from tasks.curation.filters import NON_PRINTABLE, SCRUBBED_BYTES
from tasks.errors import InputError


class GateError(InputError):
    """The batch violates an expectation. The message is a sentence and a readable table of every expectation."""


def batch_frame(documents: Sequence[Document]) -> pd.DataFrame:
    """One row a document: what the suite looks at."""
    rows = [
        {
            "id": document.id,
            "text_hash": text_hash(document.text),
            "bytes": len(document.text.encode()),
            "printable": 1.0 - len(NON_PRINTABLE.findall(document.text)) / max(1, len(document.text)),
            "language": document.metadata.get("language"),
            "kind": document.metadata.get("kind"),
        }
        for document in documents
    ]
    return pd.DataFrame(rows, columns=["id", "text_hash", "bytes", "printable", "language", "kind"])


def check_batch(
    documents: Sequence[Document],
    minimum_documents: int,
    minimum_bytes: int,
    maximum_document_bytes: int,
    account: str = "",
) -> list[dict[str, Any]]:
    """Validates the batch. Returns one row an expectation; raises GateError if any fails.

    account: what became of the documents, in a few words; an empty batch is explained with it.
    """
    if not documents:
        why = f" ({account})" if account else ""
        raise GateError(f"The corpus is empty: the sources hold no document that passes the filters{why}.")
    rows = _validate(batch_frame(documents), minimum_documents, minimum_bytes, maximum_document_bytes)
    failed = [row for row in rows if not row["success"]]
    if failed:
        names = ", ".join(f"{row['expectation']}({row['column']})" for row in failed)
        raise GateError(
            f"The curated batch violates {len(failed)} of {len(rows)} expectations: {names}.\n{table(rows)}"
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [("", "expectation", "column", "asked", "seen")]
    lines += [
        ("ok" if row["success"] else "FAIL", row["expectation"], row["column"], row["asked"], row["seen"])
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _expectations(minimum_documents: int, minimum_bytes: int, maximum_document_bytes: int) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=minimum_documents),
        gxe.ExpectColumnSumToBeBetween(column="bytes", min_value=minimum_bytes),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in ("id", "text_hash", "language", "kind")),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToBeUnique(column="text_hash"),
        gxe.ExpectColumnValuesToBeBetween(column="bytes", min_value=SCRUBBED_BYTES, max_value=maximum_document_bytes),
        gxe.ExpectColumnValuesToBeBetween(column="printable", min_value=0.99),
        gxe.ExpectColumnValuesToBeInSet(column="language", value_set=["en", "code"]),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["code", "prose"]),
    ]


def _validate(frame: pd.DataFrame, *bounds: int) -> list[dict[str, Any]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the package is imported
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("curation").add_dataframe_asset("documents")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="curated", expectations=_expectations(*bounds))
    return [_row(result.to_json_dict()) for result in batch.validate(suite).results]


def _row(result: dict[str, Any]) -> dict[str, Any]:
    config, seen = result["expectation_config"], result["result"]
    asked = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "column")}
    keys = ("observed_value", "unexpected_count", "partial_unexpected_list")
    shown = {key: seen[key] for key in keys if seen.get(key) not in (None, [], 0)}
    return {
        "expectation": config["type"].removeprefix("expect_"),
        "column": str(config["kwargs"].get("column", "")),
        "asked": ", ".join(f"{key}={value}" for key, value in asked.items()),
        "seen": ", ".join(f"{key}={str(value)[:80]}" for key, value in shown.items()),
        "success": bool(result["success"]),
    }
