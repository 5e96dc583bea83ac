"""The account: everything met is counted once, and what does not add up is said."""

from __future__ import annotations

import pytest

from tasks.curation.documents import RawDocument, Unread
from tasks.curation.tally import AccountError, Tally, check_account, merge


def test_documents_and_files_are_counted_apart() -> None:
    tally = Tally()
    tally.add(RawDocument("a", "tëxt", "prose", "s"))
    for number in range(4):
        tally.add(Unread("not_utf8", f"b{number}", "s", 10))
    tally.add(Unread("special", "pipe", "s", is_file=True))
    assert (tally.total_documents, tally.total_bytes, tally.spent) == (5, 45, 5)
    assert (tally.drops, tally.skipped) == ({"not_utf8": (4, 40)}, {"special": 1})
    assert tally.describe() == "4 not_utf8 (b0, b1, b2, ...); 1 special (pipe)"


def test_drops_of_two_steps_are_merged() -> None:
    assert merge({"b": (1, 2)}, {"a": (1, 1), "b": (3, 4)}) == {"a": (1, 1), "b": (4, 6)}


def test_an_account_that_does_not_add_up_is_a_fault_of_ours() -> None:
    drops = {"empty": {"documents": 1, "bytes": 0}}
    check_account({"documents": 3, "bytes": 9}, {"documents": 2, "bytes": 9}, drops)
    with pytest.raises(AccountError, match="3 documents were read, 2 kept or dropped"):
        check_account({"documents": 3, "bytes": 9}, {"documents": 1, "bytes": 9}, drops)
    with pytest.raises(AccountError, match="9 bytes were read, 8 kept or dropped"):
        check_account({"documents": 3, "bytes": 9}, {"documents": 2, "bytes": 8}, drops)
