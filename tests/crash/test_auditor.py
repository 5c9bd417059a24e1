"""
The auditor finds what it is there for: each kind of wrong books, by the name of its law.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from tests.crash.auditor import SUCCESSOR, Books, audit
from tests.crash.sighting import Seen, Sighting

NOW: Final = datetime(2026, 1, 31, tzinfo=UTC)
SLACK: Final = timedelta(seconds=5)
GOOD: Final = Books(
    charges={"call-1": 700, "call-3": 300},
    taken_back=frozenset(),
    unpaid=frozenset(),
    captures={"call-1": 1, "call-3": 1},
    paid={"call-1": 700, "call-3": 300},
    keys={"one": "call-1", "two": "call-2", f"{SUCCESSOR}call-2": "call-3"},
    deposited=5_000,
    balance=4_000,
    pending=50,
    held=50,
    late_s_max=11.0,
    given_back=1,
    open_holds=[("call-9", NOW, NOW + SLACK)],
)
"""Two keys; the first try of the second one was cut off, and its hold expired."""


def tried(key: str, seen: Seen, **more: object) -> Sighting:
    """
    Return a try of a key.
    """
    return Sighting(key=key, seen=seen, begun_s=1.0, ended_s=2.0, **more)  # pyright: ignore[reportArgumentType] - the test's own table


ONE: Final = tried("one", Seen.ANSWERED, call_id="call-1", charge="0.0000007")
LOST: Final = tried("two", Seen.LOST)
TWO: Final = tried("two", Seen.ANSWERED, call_id="call-3", charge="0.0000003")
SIGHTINGS: Final = (ONE, LOST, TWO)


def test_good_books_have_no_finding() -> None:
    """
    What was answered is there once; a key whose first call expired is charged for its second.
    """
    done = audit(GOOD, SIGHTINGS, slack=SLACK)
    assert done.findings == []
    assert (done.answers, done.keys, done.keys_retried) == (2, 2, 1)
    assert done.holds_ended_unpaid == 1
    assert done.holds_given_back == 1


def test_charge_that_was_taken_back_is_none() -> None:
    """
    A settle that nobody was answered for is refunded, and its key is answered by another call.
    """
    books = replace(
        GOOD,
        charges={**GOOD.charges, "call-2": 5},
        captures={**GOOD.captures, "call-2": 1},
        taken_back=frozenset({"call-2"}),
        deposited=5_005,  # what came back is among what came in
    )
    assert audit(books, SIGHTINGS, slack=SLACK).findings == []


@pytest.mark.parametrize(
    ("books", "law"),
    [
        (replace(GOOD, taken_back=frozenset({"call-1"})), "booked_once: call-1"),
        (replace(GOOD, charges={"call-1": 700}, balance=4_300), "booked_once"),
        (replace(GOOD, paid={"call-1": 700, "call-3": 299}), "booked_once"),
        (replace(GOOD, captures={"call-1": 2, "call-3": 1}), "booked_once"),
        (replace(GOOD, keys={**GOOD.keys, "two": "call-1"}), "booked_once"),
        (
            replace(GOOD, charges={**GOOD.charges, "call-2": 5}, balance=3_995),
            "charged_once: the key two",
        ),
        (
            replace(GOOD, charges={**GOOD.charges, "call-7": 5}, balance=3_995),
            "charged_once: call-7",
        ),
        (replace(GOOD, captures={**GOOD.captures, "call-8": 1}), "charged_once: call-8"),
        (replace(GOOD, balance=4_001), "money"),
        (replace(GOOD, pending=51), "money"),
        (replace(GOOD, open_holds=[("call-9", NOW, NOW + 2 * SLACK)]), "holds"),
    ],
)
def test_wrong_books_break_a_law(books: Books, law: str) -> None:
    """
    A lost, doubled or changed charge, one that nobody asked for, lost money, a stuck hold.
    """
    findings = audit(books, SIGHTINGS, slack=SLACK).findings
    assert any(finding.startswith(law) for finding in findings), findings


@pytest.mark.parametrize(
    ("sightings", "law"),
    [
        ((ONE, ONE, TWO), "booked_once: the call call-1 was answered twice"),
        ((ONE, LOST), "ended: the key two"),
        ((ONE, LOST, tried("two", Seen.GIVEN_UP)), "ended: the key two"),
        ((ONE, TWO, TWO), "ended: the key two"),
        (
            (ONE, tried("two", Seen.REFUSED, code="call_already_settled", call_id="call-2")),
            "settled_elsewhere",
        ),
    ],
)
def test_wrong_answers_break_a_law(sightings: tuple[Sighting, ...], law: str) -> None:
    """
    A key that has two ends or none, and a charge that was said and not made.
    """
    findings = audit(GOOD, sightings, slack=SLACK).findings
    assert any(finding.startswith(law) for finding in findings), findings
