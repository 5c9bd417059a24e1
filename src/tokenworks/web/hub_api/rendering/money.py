"""
Draw prepaid money.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenworks.ledger.model import AccountBalance
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.money import Cash

CASH: Final = "cash"


def to_cash(balances: Iterable[AccountBalance]) -> list[Cash]:
    """
    Return the prepaid money among a party's accounts.
    """
    return [
        Cash(
            currency=balance.asset,
            available=amount_text(balance.available, balance.asset),
            held=amount_text(balance.debits_pending, balance.asset),
            posted=amount_text(balance.credits_posted - balance.debits_posted, balance.asset),
        )
        for balance in balances
        if balance.purpose == CASH
    ]
