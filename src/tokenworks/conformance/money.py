"""
Attacks on money: one payment or one balance spent more than once.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tokenworks.conformance.facilitator import Answer, Order
from tokenworks.conformance.ground import Ground, at_once, count_reasons
from tokenworks.conformance.model import (
    Check,
    Group,
    Outcome,
    failed,
    not_applicable,
    survived,
)

RETRIES_MAX: Final = 50
RETRY_PAUSE_S: Final = 0.1


async def duplicate_at_once(ground: Ground) -> Outcome:
    """
    Send one payment many times at once to a seller that verifies, works and settles.
    """
    order = ground.order(await ground.purse.funded(), ground.sale_at("duplicate"))
    sold = await ground.sell_at_once([order] * ground.in_parallel)
    evidence = sold.evidence(ground.in_parallel)
    if sold.works == sold.transactions == 1:
        return survived("One handler ran and one payment was made.", **evidence)
    return failed(
        f"{sold.works} handlers ran for {sold.transactions} payment(s).",
        **evidence,
    )


async def overdraft_at_once(ground: Ground) -> Outcome:
    """
    Send many payments at once from a wallet that can pay one.
    """
    wallet = await ground.purse.for_one(ground.sale.amount)
    if wallet is None:
        return not_applicable("No wallet with the money of exactly one payment was given.")
    sold = await ground.sell_at_once(ground.orders([wallet], "overdraft"))
    evidence = sold.evidence(ground.in_parallel)
    if sold.works == sold.transactions == 1:
        return survived("One handler ran: the money was held for it.", **evidence)
    return failed(
        f"{sold.works} handlers ran with money for one; {sold.transactions} paid.",
        **evidence,
    )


async def settle_at_once(ground: Ground) -> Outcome:
    """
    Settle one payment many times at once, without a seller in between.
    """
    order = ground.order(await ground.purse.funded(), ground.sale_at("settle"))
    answers = await at_once(ground.facilitator.settle, [order] * ground.in_parallel)
    settled = [answer for answer in answers if answer.is_settled]
    made = len({answer.transaction for answer in settled})
    evidence = {
        "sent": ground.in_parallel,
        "settled": len(settled),
        "payments_made": made,
        "refusals": count_reasons(answer for answer in answers if not answer.is_settled),
    }
    if made == 1:
        return survived("One payment was made.", **evidence)
    return failed(f"{made} payments were made of one authorisation.", **evidence)


async def replay_first_receipt(ground: Ground) -> Outcome:
    """
    Settle a payment again after it was settled.
    """
    order = ground.order(await ground.purse.funded(), ground.sale_at("replay"))
    first = await ground.facilitator.settle(order)
    if not first.is_settled:
        return failed(f"An honest payment was not settled: {first.reason}.")
    again = await ground.facilitator.settle(order)
    evidence = {"first": first.transaction, "again": again.transaction or again.reason}
    if again.is_settled and again.transaction == first.transaction:
        return survived("The second settle was answered with the first receipt.", **evidence)
    if again.is_settled:
        return failed("The second settle made another payment.", **evidence)
    return failed(
        "The second settle was refused: who lost the first answer believes it is unpaid.",
        **evidence,
    )


async def settle_after_timeout(ground: Ground) -> Outcome:
    """
    Hang up while a payment is settled, then ask again until it is settled.
    """
    order = ground.order(await ground.purse.funded(), ground.sale_at("timeout"))
    lost = await ground.facilitator.settle_and_hang_up(order)
    answers = await _settle_until_done(ground, order)
    last = answers[-1]
    evidence = {
        "first": lost.error or "answered in time",
        "retries": len(answers),
        "last": last.transaction or last.reason,
    }
    if last.is_settled:
        return survived("The retry was told that the payment was made.", **evidence)
    return failed(
        "The retry was told that the payment failed; a client that signs anew pays twice.",
        **evidence,
    )


async def _settle_until_done(ground: Ground, order: Order) -> list[Answer]:
    answers: list[Answer] = []
    for _ in range(RETRIES_MAX):
        answers.append(await ground.facilitator.settle(order))
        last = answers[-1]
        if last.is_settled or not (last.is_unfinished or last.is_fault):
            break
        await asyncio.sleep(RETRY_PAUSE_S)
    return answers


CHECKS: Final = (
    Check(
        check_id="duplicate-at-once",
        group=Group.MONEY,
        proves="One payment sent many times at once buys one piece of work.",
        attack=duplicate_at_once,
    ),
    Check(
        check_id="overdraft-at-once",
        group=Group.MONEY,
        proves="Many payments at once with money for one buy one piece of work.",
        attack=overdraft_at_once,
    ),
    Check(
        check_id="settle-at-once",
        group=Group.MONEY,
        proves="One payment settled many times at once moves money once.",
        attack=settle_at_once,
    ),
    Check(
        check_id="replay-first-receipt",
        group=Group.MONEY,
        proves="A settle after the settle returns the first receipt.",
        attack=replay_first_receipt,
    ),
    Check(
        check_id="settle-after-timeout",
        group=Group.MONEY,
        proves="A settle whose answer was lost can be asked again and is paid once.",
        attack=settle_after_timeout,
    ),
)
