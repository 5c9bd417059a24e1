"""
Why the ledger refused: a code of the writer as the error that a caller should see.

Invariants: an error names the tightest limit, what is left of it and when it opens again, and
nothing about any other limit; amounts in it are decimal text in the asset's own unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.ledger.errors import (
    DateClosedError,
    FactConflictError,
    FundsShortError,
    HoldError,
    LedgerUnavailableError,
    LimitShortError,
    RefusedError,
    ScopeFrozenError,
    WindowShortError,
)
from tokenworks.ledger.model import Outcome, Refusal
from tokenworks.ledger.store import Store


class Refusals:
    """
    Tell refused outcomes as errors.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def refusal(self, outcome: Outcome) -> TokenworksError:
        """
        Turn a refused outcome into the error a caller should see.

        Names the tightest limit, what is left of it and when it opens again; nothing
        about any other limit.
        """
        if outcome.code != Refusal.INSUFFICIENT or outcome.refused_account is None:
            return _error_for(outcome.code)
        row = await self._store.fetch_one("refused_limit", {"account_id": outcome.refused_account})
        return _shortage(row, available=max(outcome.available or 0, 0), now=self._clock.now())


def _shortage(row: Sequence[Any], *, available: int, now: datetime) -> TokenworksError:
    purpose, asset_code, limit_id, scope_id, window, quanta, resets_at = row
    asset = ASSETS[asset_code]
    left = quanta_to_text(available, scale=asset.scale)
    if purpose != "limit_available":
        message = f"The balance is too small: {left} {asset_code} available."
        return FundsShortError(message, details={"available": left, "currency": asset_code})
    unit = asset_code.removeprefix("LIMIT.").replace("TOK", "tokens")
    total = quanta_to_text(quanta, scale=asset.scale)
    details: dict[str, object] = {
        "limit_id": limit_id,
        "scope_id": str(scope_id),
        "window": window,
        "unit": unit,
        "limit": total,
        "available": left,
    }
    if resets_at is None:
        message = f"The limit of {total} {unit} is too small for this call: {left} left."
        return LimitShortError(message, details=details)
    opens = resets_at.isoformat().replace("+00:00", "Z")
    details["resets_at"] = opens
    message = (
        f"The limit of {total} {unit} per {window} is too small for this call: {left} left, "
        f"opens again at {opens}."
    )
    wait_s = max(1.0, (resets_at - now).total_seconds())
    return WindowShortError(message, details=details, retry_after_s=wait_s)


def _error_for(code: str) -> TokenworksError:
    if code == Refusal.CONFLICT:
        return FactConflictError("This was recorded before with other content.")
    if code in {Refusal.HOLD_UNKNOWN, Refusal.HOLD_CLOSED}:
        return HoldError("The hold is not open any more.", code=code)
    if code == Refusal.DATE_CLOSED:
        message = "The accounting date is closed; book to an open one."
        return DateClosedError(message, param="accounting_date")
    if code == Refusal.DEADLINE_PASSED:
        message = "The request came too late to be recorded; nothing was done."
        return LedgerUnavailableError(message, retry_after_s=1)
    if code == Refusal.SCOPE_FROZEN:
        return ScopeFrozenError("Spending is frozen here; ask the owner.")
    if code == Refusal.INTERNAL:
        return LedgerUnavailableError("The ledger refused the entry; it was not recorded.")
    return RefusedError(f"The ledger refused the operation: {code}.", code=code)
