"""
Attacks on who may spend: mandates that are revoked, shared, too long or too wide. Hubs only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from tokenworks.conformance.facilitator import Answer, Order
from tokenworks.conformance.ground import Ground, at_once, count_reasons
from tokenworks.conformance.hub_business import Agent, HubAnswer, HubBusiness
from tokenworks.conformance.model import (
    Attack,
    Check,
    Group,
    Outcome,
    failed,
    not_applicable,
    survived,
)

AFFORDABLE: Final = 5
"""Payments that a shared budget is enough for."""
DEPTH_MAX: Final = 8

HubAttack = Callable[[Ground, HubBusiness], Awaitable[Outcome]]


def needs_hub(attack: HubAttack) -> Attack:
    """
    Return an attack that is not applicable without an admin key of a hub.
    """

    async def guarded(ground: Ground) -> Outcome:
        if ground.rail.family != "hub":
            return not_applicable("Only a hub has mandates.")
        if ground.hub is None:
            return not_applicable("Needs an admin key of the hub: --key.")
        return await attack(ground, ground.hub)

    return guarded


async def revoked_in_flight(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Revoke a mandate while its payments are held and under way.
    """
    agent = await hub.agent(await hub.organisation(3 * ground.in_parallel))
    held = ground.order(agent.wallet, ground.sale_at("held"))
    verified = await ground.facilitator.verify(held)

    async def revoke_then_ask() -> tuple[HubAnswer, list[Answer]]:
        revoked = await hub.ask("POST", f"mandates/{agent.mandate_id}/revoke", {})
        orders = ground.orders([agent.wallet], "after")
        return revoked, await at_once(ground.facilitator.settle, orders)

    raced, (revoked, after) = await asyncio.gather(
        at_once(ground.facilitator.settle, ground.orders([agent.wallet], "racing")),
        revoke_then_ask(),
    )
    evidence = {
        "held_before": verified.is_valid,
        "revoked": revoked.code,
        "paid_while_it_was_revoked": sum(answer.is_settled for answer in raced),
        "sent_after": len(after),
        "paid_after": sum(answer.is_settled for answer in after),
        "refusals": count_reasons(answer for answer in after if not answer.is_settled),
    }
    if not (verified.is_valid and revoked.is_done):
        return failed("An honest payment was not held, or the mandate not revoked.", **evidence)
    if evidence["paid_after"]:
        return failed("A payment was made after its mandate was revoked.", **evidence)
    return survived("Nothing that came after the revocation was paid.", **evidence)


async def siblings_at_once(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Let several agents spend their common parent's budget at once.
    """
    organisation = await hub.organisation(ground.in_parallel)
    parent = await hub.agent(organisation, payments=AFFORDABLE, delegations=1)
    siblings = [
        await hub.agent(organisation, payments=AFFORDABLE, parent=parent.mandate_id)
        for _ in range(3)
    ]
    orders = ground.orders([sibling.wallet for sibling in siblings], "siblings")
    sold = await ground.sell_at_once(orders)
    evidence = {"budget_in_payments": AFFORDABLE, **sold.evidence(len(orders))}
    if sold.works == sold.transactions == min(AFFORDABLE, len(orders)):
        return survived("The parent's budget was spent and not exceeded.", **evidence)
    return failed(
        f"{sold.works} handlers ran and {sold.transactions} payments were made"
        f" of a budget for {AFFORDABLE}.",
        **evidence,
    )


async def delegation_too_deep(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Delegate a mandate nine levels deep.
    """
    organisation = await hub.organisation(ground.in_parallel)
    chain: list[Agent] = []
    for level in range(1, DEPTH_MAX + 1):
        parent = chain[-1].mandate_id if chain else None
        left = DEPTH_MAX - level
        chain.append(await hub.agent(organisation, payments=1, parent=parent, delegations=left))
    deepest = chain[-1]
    body = hub.mandate_body(deepest.name, payments=1, parent=deepest.mandate_id)
    answer = await hub.ask("POST", "mandates", body)
    paid = await ground.facilitator.settle(ground.order(deepest.wallet, ground.sale_at("deep")))
    evidence = {
        "ninth_level": answer.code,
        "eighth_level_pays": paid.transaction or paid.reason,
    }
    if answer.is_done:
        return failed(f"A mandate {DEPTH_MAX + 1} levels deep was issued.", **evidence)
    if answer.status >= 500 or not paid.is_settled:
        return failed("The eighth level cannot pay, or the ninth was no refusal.", **evidence)
    return survived("Eight levels pay; the ninth was refused.", **evidence)


async def delegation_too_wide(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Delegate more than the parent has, and delegate where the parent forbids it.
    """
    del ground
    organisation = await hub.organisation(0)
    parent = await hub.agent(organisation, payments=1, delegations=1)
    barren = await hub.agent(organisation, payments=1)
    wider = hub.mandate_body(parent.name, payments=2, parent=parent.mandate_id)
    longer = hub.mandate_body(
        parent.name, payments=1, parent=parent.mandate_id, delegations=DEPTH_MAX - 1
    )
    below = hub.mandate_body(barren.name, payments=1, parent=barren.mandate_id)
    answers = {
        name: await hub.ask("POST", "mandates", body)
        for name, body in (("wider", wider), ("longer", longer), ("forbidden", below))
    }
    evidence = {name: answer.code for name, answer in answers.items()}
    issued = [name for name, answer in answers.items() if answer.is_done]
    if issued:
        return failed(f"Issued although it widens its parent: {', '.join(issued)}.", **evidence)
    if any(answer.status >= 500 for answer in answers.values()):
        return failed("Answered with a fault (5xx), not a refusal.", **evidence)
    return survived("Delegations only narrow.", **evidence)


async def handler_fails(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Hold all the money there is, let the payee give it back, and spend it.
    """
    payee, key = await hub.payee_with_key()
    agent = await hub.agent(await hub.organisation(1))
    sale = replace(ground.sale_at("handler"), scheme="upto", pay_to=payee)
    order = ground.order(agent.wallet, sale)
    held = await ground.facilitator.verify(order)
    released = await ground.facilitator.settle_as(_asking(order, "0"), key)
    late = await ground.facilitator.settle(order)
    again = await ground.facilitator.settle(ground.order(agent.wallet, sale))
    late_amount = late.document.get("amount") if late.is_settled else None
    evidence = {
        "held": held.is_valid or held.reason,
        "released": released.is_settled or released.reason,
        "settled_late": late_amount or late.reason,
        "spent_again": again.transaction or again.reason,
    }
    if not (held.is_valid and released.is_settled):
        return failed("A seller cannot hold and then give back.", **evidence)
    if late_amount not in {None, "0"}:
        return failed("A payment that was given back was captured afterwards.", **evidence)
    if not again.is_settled:
        return failed("The money did not come back when the handler failed.", **evidence)
    return survived("The hold went back when the handler failed, and nothing else.", **evidence)


async def settled_for_less(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Let the payer end a payment cheaply while its seller works.
    """
    payee, key = await hub.payee_with_key()
    agent = await hub.agent(await hub.organisation(1))
    sale = replace(ground.sale_at("less"), scheme="upto", pay_to=payee)
    order = ground.order(agent.wallet, sale)
    held = await ground.facilitator.verify(order)
    cheap = await ground.facilitator.settle(_asking(order, "1"))
    nothing = await ground.facilitator.settle(_asking(order, "0"))
    whole = await ground.facilitator.settle_as(order, key)
    evidence = {
        "held": held.is_valid or held.reason,
        "settled_for_one": cheap.transaction or cheap.reason,
        "settled_for_nothing": nothing.transaction or nothing.reason,
        "settled_by_the_payee": whole.document.get("amount") or whole.reason,
    }
    if not held.is_valid:
        return failed("An honest payment was not held.", **evidence)
    if cheap.is_settled or nothing.is_settled:
        return failed("The payer settled for less while the seller worked.", **evidence)
    if whole.document.get("amount") != sale.amount:
        return failed("The payee did not get what was held for it.", **evidence)
    return survived("Only the payee can take less than is held for it.", **evidence)


def _asking(order: Order, amount: str) -> Order:
    """
    Return the settle call that charges another amount than was held.
    """
    return replace(order, requirements={**order.requirements, "amount": amount})


async def approval_replayed(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Have one payment approved, and spend the approval on another of the same amount.
    """
    organisation = await hub.organisation(2)
    if not await hub.hold_new_payees(organisation):
        return not_applicable("This hub has no brake.")
    agent = await hub.agent(organisation)
    payee = await hub.payee()
    one, other = (
        ground.order(agent.wallet, replace(ground.sale_at(name), pay_to=payee))
        for name in ("approved", "replayed")
    )
    asked = [await ground.facilitator.verify(order) for order in (one, other)]
    reviews = await hub.reviews(agent.name)
    evidence: dict[str, object] = {
        "verify": [answer.reason for answer in asked],
        "reviews": len(reviews),
    }
    if len(reviews) != len(asked) or any(answer.is_valid for answer in asked):
        return failed("Payments to a new payee were not held for a person.", **evidence)
    # Their order says nothing: both were asked within a millisecond.
    first, second = sorted(reviews, key=lambda review: "replayed" in review.resource)
    crossed = await hub.approve(first.review_id, digest=second.digest)
    approved = await hub.approve(first.review_id, digest=first.digest)
    paid = await ground.facilitator.settle(one)
    replayed = await ground.facilitator.settle(other)
    evidence |= {
        "approved_with_the_others_digest": crossed.code,
        "approved": approved.code,
        "approved_payment": paid.transaction or paid.reason,
        "other_payment": replayed.transaction or replayed.reason,
    }
    if crossed.is_done:
        return failed("An approval of one payload was taken for another.", **evidence)
    if replayed.is_settled:
        return failed("A payment was made that nobody approved.", **evidence)
    if not (approved.is_done and paid.is_settled):
        return failed("The approved payment was not made.", **evidence)
    return survived("The approval let its own payload pass and no other.", **evidence)


CHECKS: Final = (
    Check(
        check_id="mandate-revoked-in-flight",
        group=Group.AUTHORITY,
        proves="A revocation binds the next payment, whatever is under way.",
        attack=needs_hub(revoked_in_flight),
    ),
    Check(
        check_id="siblings-at-once",
        group=Group.AUTHORITY,
        proves="Agents that share a budget cannot exceed it together.",
        attack=needs_hub(siblings_at_once),
    ),
    Check(
        check_id="delegation-too-deep",
        group=Group.AUTHORITY,
        proves="A chain of mandates ends at eight.",
        attack=needs_hub(delegation_too_deep),
    ),
    Check(
        check_id="delegation-too-wide",
        group=Group.AUTHORITY,
        proves="Whoever delegates gives away only what it has.",
        attack=needs_hub(delegation_too_wide),
    ),
    Check(
        check_id="handler-fails",
        group=Group.AUTHORITY,
        proves="Work that failed costs nothing, and what was given back stays back.",
        attack=needs_hub(handler_fails),
    ),
    Check(
        check_id="settled-for-less",
        group=Group.AUTHORITY,
        proves="A payer cannot end a payment cheaply while the seller works for it.",
        attack=needs_hub(settled_for_less),
    ),
    Check(
        check_id="approval-replayed",
        group=Group.AUTHORITY,
        proves="A person's yes is for one payload, once.",
        attack=needs_hub(approval_replayed),
    ),
)
