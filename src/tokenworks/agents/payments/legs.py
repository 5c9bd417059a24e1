"""
What a capture moves; pure.

Money goes from the payer's part of the hold to the payee; every limit of the path is spent by
the same amount, and by one payment with the first capture. Where the payee's account is no
client money, the platform's own funds grow by what left the clients', as for calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.identity.model import PartyKind
from tokenworks.ledger.model import ASSET_IDS, Part, Reservation, Transfer

LIMIT_PAYMENTS: Final = ASSET_IDS["LIMIT.PAYMENTS"]
LIMIT_TOKENS: Final = ASSET_IDS["LIMIT.TOK"]

PAYEE_PURPOSES: Final[Mapping[PartyKind, str]] = {
    PartyKind.BUYER: "cash",
    PartyKind.SUPPLIER: "supplier_payable",
    PartyKind.POWER_PRODUCER: "power_payable",
    PartyKind.RIGHTS_HOLDER: "rights_payable",
    PartyKind.RESELLER: "reseller_payable",
    PartyKind.TAX_AUTHORITY: "tax_payable",
    PartyKind.PLATFORM: "platform_revenue",
}
"""Where a payee's money goes; a buyer's goes to the cash of its organisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureAccounts:
    """
    Where a capture's transfers go.
    """

    payee: int
    is_client_money: bool  # the payee's account is covered by what is safeguarded
    own_funds: int
    safeguarded: int
    money_limit_spent: int
    payments_spent: int


def reservations(currency: str, quanta: int, *, tokens: int = 0) -> tuple[Reservation, ...]:
    """
    Return what a payment holds: money, every money limit and one payment of the path; where it
    pays for a call, its tokens too.
    """
    # In the order of the assets: so the ledger takes them by sets.
    counted = (Reservation(asset_id=LIMIT_TOKENS, quanta=tokens),) if tokens else ()
    return (
        Reservation(asset_id=ASSET_IDS[currency], quanta=quanta),
        Reservation(asset_id=ASSET_IDS[f"LIMIT.{currency}"], quanta=quanta),
        *counted,
        Reservation(asset_id=LIMIT_PAYMENTS, quanta=1),
    )


def capture_transfers(
    parts: Sequence[Part],
    accounts: CaptureAccounts,
    *,
    currency: str,
    quanta: int,
    is_first: bool,
) -> tuple[Transfer, ...]:
    """
    Return the transfers that take ``quanta`` of a hold.

    Args:
        parts: What the hold took, one for each account.
        accounts: Where it goes.
        currency: The money's code.
        quanta: Above zero, at most what is held.
        is_first: Whether this is the payment's first capture, which spends one payment.
    """
    assert quanta > 0, "a capture of nothing is a release"
    money, money_limit = ASSET_IDS[currency], ASSET_IDS[f"LIMIT.{currency}"]
    transfers = [
        Transfer(debit=part.account_id, credit=accounts.payee, quanta=quanta)
        for part in parts
        if part.asset_id == money
    ]
    assert len(transfers) == 1, "one account pays"
    if not accounts.is_client_money:
        transfers.append(
            Transfer(debit=accounts.own_funds, credit=accounts.safeguarded, quanta=quanta)
        )
    for part in parts:
        if part.asset_id == money_limit:
            spent, used = accounts.money_limit_spent, quanta
        elif part.asset_id == LIMIT_PAYMENTS and is_first:
            spent, used = accounts.payments_spent, 1
        else:
            continue
        transfers.append(Transfer(debit=part.account_id, credit=spent, quanta=used))
    return tuple(transfers)
