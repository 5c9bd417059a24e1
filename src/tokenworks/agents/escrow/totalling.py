"""
From the calls that a payee names to what a condition sees of them, ``result.metered``; pure.

What the hub metered itself, so nobody states it: totals over settled calls of the payee's own
tree that ended after the escrow was opened. A call is used once: its claim is a row of
``agents.escrow_calls``, written in the transaction of the submission (``store.py``).

The result's hash is without them, because its author and its verifiers do not know them; they
have a hash of their own, over the same canonical form.

Order of the checks, each over all calls: different and not too many, known, the payee's,
delivered, young enough, of one currency. So of a stranger's call nothing is told but that it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from tokenworks.agents.escrow.errors import (
    CallFailedError,
    CallForeignError,
    CallsInvalidError,
    CallTooOldError,
    CallUnknownError,
)
from tokenworks.agents.escrow.model import CALLS_MAX, MeteredCall
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.receipts.model import JsonValue

PARAM: Final = "calls"


def read_calls(value: object) -> tuple[UUID, ...]:
    """
    Return the calls that a submission names, as sent.

    Raises:
        CallsInvalidError: No list of ids of calls.
    """
    if not isinstance(value, list):
        raise CallsInvalidError("calls is a list of ids of calls.", param=PARAM)
    found: list[UUID] = []
    for item in cast("list[object]", value):
        try:
            found.append(UUID(cast("str", item)))
        except (ValueError, AttributeError, TypeError) as error:
            message = f"{str(item)[:64]!r} is no id of a call."
            raise CallsInvalidError(message, param=PARAM) from error
    return tuple(found)


def sorted_calls(call_ids: Sequence[UUID]) -> tuple[UUID, ...]:
    """
    Return the calls in the order in which they are claimed: nobody waits for nobody.

    Raises:
        CallsInvalidError: Too many, or one twice.
    """
    if len(call_ids) > CALLS_MAX:
        raise CallsInvalidError(f"A submission names at most {CALLS_MAX} calls.", param=PARAM)
    twice = [call_id for call_id, count in Counter(call_ids).items() if count > 1]
    if twice:
        raise CallsInvalidError(f"The call {twice[0]} is named twice.", param=PARAM)
    return tuple(sorted(call_ids))


def check_calls(
    call_ids: Sequence[UUID],
    calls: Sequence[MeteredCall],
    *,
    own_parties: Collection[UUID],
    opened_at: datetime,
) -> None:
    """
    Refuse calls that do not count for an escrow, by name.

    That a call ended before the submission needs no check: else it would not be known.

    Args:
        call_ids: As they were named.
        calls: Those of them that have ended.
        own_parties: Of the parties that made them, the payee and those below it.
        opened_at: When the escrow's money was held.

    Raises:
        CallUnknownError, CallForeignError, CallFailedError, CallTooOldError, CallsInvalidError:
            The first rule that one of them breaks.
    """
    known = {call.call_id: call for call in calls}
    for call_id in call_ids:
        if call_id not in known:
            message = f"There is no call {call_id} that has ended."
            raise CallUnknownError(message, param=PARAM)
    ordered = [known[call_id] for call_id in call_ids]
    foreign = [call for call in ordered if call.party_id not in own_parties]
    if foreign:
        raise CallForeignError(f"The call {foreign[0].call_id} is not yours.", param=PARAM)
    failed = [call for call in ordered if not call.is_settled]
    if failed:
        raise CallFailedError(f"The call {failed[0].call_id} delivered nothing.", param=PARAM)
    old = [call for call in ordered if call.ended_at < opened_at]
    if old:
        message = f"The call {old[0].call_id} ended before the escrow was opened."
        raise CallTooOldError(message, param=PARAM)
    if len({call.currency for call in ordered}) > 1:
        raise CallsInvalidError("The calls were charged in several currencies.", param=PARAM)


def metered_facts(calls: Sequence[MeteredCall]) -> dict[str, JsonValue]:
    """
    Return what the hub metered in some calls, as a condition sees it.

    Times are whole milliseconds, rounded up. What is not known of every call is left out, so that
    ``first_token_ms_max`` never hides a call; ``http_status`` is the highest.
    """
    assert calls, "without a call there is nothing metered"
    usage: Counter[str] = Counter()
    for call in calls:
        usage.update(call.usage)
    currency = calls[0].currency
    charge = sum(call.charge_quanta for call in calls)
    facts: dict[str, JsonValue] = {
        "calls": len(calls),
        "usage": dict(sorted(usage.items())),
        "input": sum(call.input_tokens for call in calls),
        "output": sum(call.output_tokens for call in calls),
        "charge": quanta_to_text(charge, scale=ASSETS[currency].scale),
        "charge_quanta": charge,
        "currency": currency,
        "latency_ms_max": max(math.ceil(call.duration_ms) for call in calls),
        "models": sorted({call.model for call in calls}),
        "tiers": sorted({call.tier for call in calls}),
        "is_estimate": any(call.is_estimate for call in calls),
    }
    first_tokens = [call.first_token_ms for call in calls if call.first_token_ms is not None]
    if len(first_tokens) == len(calls):
        facts["first_token_ms_max"] = max(math.ceil(value) for value in first_tokens)
    statuses = [call.http_status for call in calls if call.http_status is not None]
    if len(statuses) == len(calls):
        facts["http_status"] = max(statuses)
    return facts


def metered_sha256(metered: Mapping[str, Any]) -> str:
    """
    Return the hash of what was metered, in hexadecimal.
    """
    return sha256_hex(canonical(metered))
