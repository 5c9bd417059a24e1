"""
Show how usage became a charge: count x price per million, added, rounded once; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tokenworks.web.console.model import Call
from tokenworks.web.console.wording import to_decimal

_MILLIONTHS = -6


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """
    One axis: ``amount`` is exact, before any rounding.
    """

    axis: str
    count: int
    usd_per_million: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """
    The lines, their exact sum, and what was charged.
    """

    lines: tuple[BillLine, ...]
    exact: Decimal
    charge: Decimal
    held: Decimal | None  # None: not known to the reader

    @property
    def difference(self) -> Decimal:
        """
        Return what rounding (or a policy, when it is large) made of the exact sum.
        """
        return self.charge - self.exact

    @property
    def returned(self) -> Decimal | None:
        """
        Return what was left of the hold and went back.
        """
        return None if self.held is None else max(self.held - self.charge, Decimal(0))


def to_bill(call: Call) -> Bill | None:
    """
    Return a call's bill, or ``None`` when the reader sees no charge or there is none yet.
    """
    if call.charge is None:
        return None
    lines = tuple(
        BillLine(
            axis=line.axis,
            count=line.count,
            usd_per_million=line.usd_per_million,
            amount=(line.count * to_decimal(line.usd_per_million)).scaleb(_MILLIONTHS),
        )
        for line in call.lines
    )
    return Bill(
        lines=lines,
        exact=sum((line.amount for line in lines), Decimal(0)),
        charge=to_decimal(call.charge),
        held=None if call.quoted is None else to_decimal(call.quoted),
    )
