"""
Attacks with amounts: dust, less than nothing, more than fits, and what is no number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tokenworks.conformance.ground import Ground
from tokenworks.conformance.model import (
    Attack,
    Check,
    Group,
    JsonObject,
    Outcome,
    failed,
    survived,
)

NEGATIVE: Final = ("-1", "-500", str(-(2**255)))
OVERFLOWING: Final = (
    str(2**63),
    str(2**64 + 1),
    str(2**256 - 1),
    str(2**256 + 1),
    "9" * 80,
    "9" * 5_000,  # more digits than Python turns into a number by default
)
# What some language takes for a number, digits of other scripts included, and what tempts a parser.
NOT_NUMBERS: Final = (
    "",
    " 500",
    "500\n",
    "+500",
    "-0",
    "5e2",
    "0x1f4",
    "500.0",
    "5_00",
    "\u0665\u0660\u0660",
    "\uff15\uff10\uff10",
    "NaN",
    "Infinity",
    "null",
)


async def dust(ground: Ground) -> Outcome:
    """
    Pay the smallest amount there is.
    """
    order = ground.order(await ground.purse.funded(), replace(ground.sale_at("dust"), amount="1"))
    verified = await ground.facilitator.verify(order)
    settled = await ground.facilitator.settle(order)
    amount = settled.document.get("amount", "1")
    evidence: JsonObject = {
        "verify": "valid" if verified.is_valid else verified.reason,
        "settle": f"settled {amount}" if settled.is_settled else settled.reason,
    }
    if verified.is_valid and not settled.is_settled:
        return failed("Verified as valid and then not settled.", **evidence)
    if settled.is_settled and str(amount) != "1":
        return failed("Another amount was settled than was signed.", **evidence)
    if verified.is_fault or settled.is_fault:
        return failed("The facilitator broke.", **evidence)
    if settled.is_settled:
        return survived("One smallest unit was paid, no more and no less.", **evidence)
    return survived("Refused by verify, so nobody worked for it.", **evidence)


def _refused_amounts(amounts: tuple[str, ...]) -> Attack:
    async def attack(ground: Ground) -> Outcome:
        wallet = await ground.purse.funded()
        accepted: list[str] = []
        broken: list[str] = []
        for amount in amounts:
            order = ground.order(wallet, replace(ground.sale_at("amounts"), amount=amount))
            verified = await ground.facilitator.verify(order)
            settled = await ground.facilitator.settle(order)
            if verified.is_valid or settled.is_settled:
                accepted.append(_shown(amount))
            elif verified.is_fault or settled.is_fault:
                broken.append(_shown(amount))
        evidence = {"sent": len(amounts), "accepted": accepted, "broke_on": broken}
        if accepted:
            return failed(f"Accepted: {', '.join(accepted)}.", **evidence)
        if broken:
            return failed(
                f"{len(broken)} of {len(amounts)} were answered with a fault (5xx or nothing).",
                **evidence,
            )
        return survived(f"All {len(amounts)} were refused.", **evidence)

    return attack


def _shown(amount: str) -> str:
    return repr(amount if len(amount) <= 24 else f"{amount[:12]}.. ({len(amount)} characters)")


CHECKS: Final = (
    Check(
        check_id="dust",
        group=Group.AMOUNT,
        proves="The smallest amount is paid exactly, or refused before anybody works.",
        attack=dust,
    ),
    Check(
        check_id="negative-amount",
        group=Group.AMOUNT,
        proves="Nobody is paid by paying.",
        attack=_refused_amounts(NEGATIVE),
    ),
    Check(
        check_id="overflowing-amount",
        group=Group.AMOUNT,
        proves="An amount that no wallet has is refused and wraps around to nothing.",
        attack=_refused_amounts(OVERFLOWING),
    ),
    Check(
        check_id="amount-not-a-number",
        group=Group.AMOUNT,
        proves="An amount is decimal digits and nothing else, so that all read the same.",
        attack=_refused_amounts(NOT_NUMBERS),
    ),
)
