"""
Calls that a payee names: which of them count, and what a condition sees of them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tokenworks.agents.escrow.errors import (
    CallFailedError,
    CallForeignError,
    CallsInvalidError,
    CallTooOldError,
    CallUnknownError,
)
from tokenworks.agents.escrow.model import MeteredCall
from tokenworks.agents.escrow.totalling import (
    check_calls,
    metered_facts,
    read_calls,
    sorted_calls,
)
from tokenworks.foundation.errors import TokenworksError

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
EARLIER = NOON - timedelta(microseconds=1)
OWN, STRANGER = UUID(int=1), UUID(int=2)
CALL = MeteredCall(
    call_id=UUID(int=10),
    party_id=OWN,
    is_settled=True,
    ended_at=NOON,
    model="tiny",
    tier="standard",
    usage={"input": 3, "output": 5},
    input_tokens=3,
    output_tokens=5,
    is_estimate=False,
    currency="USD",
    charge_quanta=7,
    duration_ms=1.25,
    first_token_ms=0.5,
    http_status=200,
)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"call_id": UUID(int=11)}, CallUnknownError),
        ({"party_id": STRANGER}, CallForeignError),
        # Of a stranger's call nothing else is told.
        ({"party_id": STRANGER, "is_settled": False, "ended_at": EARLIER}, CallForeignError),
        ({"is_settled": False}, CallFailedError),
        ({"is_settled": False, "ended_at": EARLIER}, CallFailedError),
        ({"ended_at": EARLIER}, CallTooOldError),
        ({"currency": "EUR"}, CallsInvalidError),
    ],
)
def test_call_that_does_not_count_is_refused_by_name(
    changes: dict[str, Any], error: type[TokenworksError]
) -> None:
    """
    One bad call among good ones is enough; the message names it.
    """
    other = replace(CALL, call_id=UUID(int=9))
    ids = [other.call_id, CALL.call_id]
    check_calls(ids, [CALL, other], own_parties={OWN}, opened_at=NOON)
    bad = replace(CALL, **changes)
    with pytest.raises(error) as refused:
        check_calls(ids, [bad, other], own_parties={OWN}, opened_at=NOON)
    assert refused.value.param == "calls"
    assert error is CallsInvalidError or str(CALL.call_id) in refused.value.message


@pytest.mark.parametrize("value", [None, "x", {}, 1, [1], [None], ["x"], [[]], ["0" * 31]])
def test_what_is_no_list_of_ids_is_refused(value: object) -> None:
    """
    Whatever JSON can be.
    """
    with pytest.raises(CallsInvalidError):
        read_calls(value)


def test_calls_are_different_and_at_most_a_hundred() -> None:
    """
    In one order, however they were named.
    """
    ids = [UUID(int=number) for number in range(100)]
    assert sorted_calls(ids[::-1]) == tuple(ids)
    for bad in ([*ids, UUID(int=100)], [ids[0], ids[0]]):
        with pytest.raises(CallsInvalidError):
            sorted_calls(bad)


def test_what_is_not_known_of_every_call_is_left_out() -> None:
    """
    A maximum never hides a call: a condition on it is not met then.
    """
    facts = metered_facts([CALL, replace(CALL, first_token_ms=0.75, http_status=203)])
    assert (facts["first_token_ms_max"], facts["latency_ms_max"]) == (1, 2)
    assert facts["http_status"] == 203
    facts = metered_facts([CALL, replace(CALL, first_token_ms=None, http_status=None)])
    assert not {"first_token_ms_max", "http_status"} & facts.keys()
