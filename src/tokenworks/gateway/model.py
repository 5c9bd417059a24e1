"""
The words of a call: how it ended, what was tried, what the buyer gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from tokenworks.foundation.identifiers import identifier_text
from tokenworks.metering.model import Usage
from tokenworks.metering.timings import EngineTimings
from tokenworks.supply.model import Offer

UNACKNOWLEDGED: Final = "tokenworks:unacknowledged"
"""The hub's own reference for refunds of charges whose clients were told that nothing is booked."""


class CallOutcome(StrEnum):
    """
    The policy that decided a call's bill.
    """

    COMPLETED = "completed"
    """The answer was whole: the usage is charged."""
    DISCONNECTED = "disconnected"
    """The client hung up: what was produced is charged."""
    CUT = "cut"
    """The supplier broke off mid-stream: the buyer pays nothing, the supplier's cost stays."""
    EMPTY = "empty"
    """The answer had no output: the buyer pays nothing, the supplier's cost stays."""
    HOLD_EXHAUSTED = "hold_exhausted"
    """The hold ran low and could not grow: ended cleanly, what was held is the most charged."""
    FAILED = "failed"
    """No supplier delivered: nothing is charged and the hold is given back."""


class AttemptStatus(StrEnum):
    """
    How one physical request ended.
    """

    SERVED = "served"
    REFUSED = "refused"
    """The supplier refused the request itself; another one would too."""
    FAULT = "fault"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """
    One physical request to a supplier; filled in while it runs.
    """

    call_id: UUID
    ordinal: int
    offer: Offer
    started_at: datetime
    started_s: float
    status: AttemptStatus | None = None
    http_status: int | None = None
    error_code: str | None = None
    duration_ms: float | None = None
    payable_quanta: int = 0
    timings: EngineTimings | None = None
    """What the engine itself told of its work, where it tells."""

    def to_json(self) -> dict[str, object]:
        """
        Return the attempt as the receipt's field, for the supplier and the auditor.
        """
        fields: dict[str, object] = {
            "supplier": identifier_text(self.offer.supplier_party_id),
            "supplier_id": identifier_text(self.offer.supplier_id),
            "supplier_name": self.offer.supplier_name,
            "offer": identifier_text(self.offer.offer_id),
            "terms_version": self.offer.terms_version,
            "status": str(self.status or AttemptStatus.FAULT),
            "http_status": self.http_status,
            "error": self.error_code,
            "started_at": to_iso(self.started_at),
            "duration_us": None if self.duration_ms is None else int(self.duration_ms * 1000),
            "payable_quanta": str(self.payable_quanta),
        }
        if self.timings is not None:
            fields["timings"] = asdict(self.timings)
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """
    A call that is in the books.
    """

    call_id: UUID
    outcome: CallOutcome
    usage: Usage
    charge: str
    """Decimal text in whole units of ``currency``."""
    charge_quanta: int
    currency: str
    tier: str
    balance: str | None
    """What the key may still spend, its tightest limit; ``None`` when nothing is limited."""
    document: Mapping[str, object] | None
    """
    The buyer's view of the signed receipt, ``{"receipt": ..., "jws": ...}``, on a stream. A plain
    answer carries none: its root is in the chain, and it is signed whenever it is asked for.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainResult:
    """
    A whole answer, charged, ready for the client.
    """

    body: bytes = field(repr=False)
    settled: Settled
    granted_output: int | None
    """The cap the hub set because the client named none."""


def to_iso(moment: datetime) -> str:
    """
    Return a moment as ISO 8601 text in UTC with microseconds.
    """
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
