"""
How far an escrow is: milestones decided, money captured and returned, the next deadline; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tokenworks.web.console.agents.model import Escrow
from tokenworks.web.console.wording import to_decimal

GROUPS: Final = ("all", "running", "disputed", "over")
OVER: Final = frozenset({"settled", "refunded", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    An escrow at a glance.
    """

    decided: int
    milestones: int
    returned: Decimal  # to the payer; nothing before it is over
    captured_percent: Decimal
    returned_percent: Decimal


def in_group(escrow: Escrow, group: str) -> bool:
    """
    Tell whether an escrow belongs to a group of the page.
    """
    match group:
        case "running":
            return escrow.state not in OVER
        case "disputed":
            return escrow.state == "disputed"
        case "over":
            return escrow.state in OVER
        case _:
            return True


def to_progress(escrow: Escrow) -> Progress:
    """
    Return how far an escrow is.
    """
    whole, captured = to_decimal(escrow.amount), to_decimal(escrow.captured)
    returned = whole - captured if escrow.state in OVER else Decimal(0)

    def percent(part: Decimal) -> Decimal:
        share = part / whole if whole else Decimal(0)
        return round(min(max(share, Decimal(0)), Decimal(1)) * 100, 2)

    return Progress(
        decided=sum(1 for each in escrow.milestones if each.state == "decided"),
        milestones=len(escrow.milestones),
        returned=returned,
        captured_percent=percent(captured),
        returned_percent=percent(returned),
    )
