"""
Judge a payment by rules: pure, each rule by itself, the strictest answer counts.

Order: velocity, new payee, price jump, loop, night, burn rate; reasons are given in this order
so that the same picture always gives the same decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from tokenworks.agents.brake.model import Action, Reason, Subject
from tokenworks.agents.brake.rule_sets import (
    BurnRate,
    Loop,
    NewPayee,
    Night,
    PriceJump,
    RuleSet,
    Velocity,
)
from tokenworks.foundation.money import ASSETS, PPM, quanta_to_text

RANKS: Final = {Action.ALLOW: 0, Action.HOLD: 1, Action.DENY: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    A limit of the mandate's chain in its present window, before this payment.
    """

    window: str
    quanta: int
    spent_quanta: int
    elapsed_ppm: int  # of the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """
    What was counted lately of an agent, or of a tree, the payment included.
    """

    payments_minute: int
    payments_hour: int
    quanta_minute: int
    quanta_hour: int
    new_payees_hour: int
    equal_calls_us: Sequence[int]  # how long ago the same request was judged, each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture(Counts):
    """
    What is known about an agent at the moment of a payment, the payment included.
    """

    now: datetime
    is_known_payee: bool
    usual_quanta: int | None  # median of what was paid for the same; ``None``: nothing yet
    usual_count: int  # from so many payments
    usual_of: str  # ``resource`` or ``payee``
    budgets: Sequence[Budget]
    trees: Mapping[UUID, Counts] = field(default_factory=dict[UUID, Counts])  # by their owner


def strictest(actions: Sequence[Action]) -> Action:
    """
    Return the action with the most scrutiny; of none, ``ALLOW``.
    """
    return max(actions, key=RANKS.__getitem__, default=Action.ALLOW)


def judge_rules(subject: Subject, picture: Picture, chain: Sequence[RuleSet]) -> tuple[Reason, ...]:
    """
    Return every rule that spoke, one reason each: the strictest of the chain's.

    Args:
        subject: The payment.
        picture: What is known.
        chain: The rule sets that count, as ``compose_chain`` returns them.
    """
    found: dict[str, Reason] = {}
    for rules in chain:
        for reason in _reasons(subject, picture, rules):
            known = found.get(reason.rule)
            if known is None or RANKS[reason.action] > RANKS[known.action]:
                found[reason.rule] = reason
    return tuple(found[name] for name in _ORDER if name in found)


def _counted(picture: Picture, rules: RuleSet, *, is_tree: bool) -> Counts:
    # A tree that is not in the picture is a mistake of the hub's, and no reason to let pass.
    return picture.trees[rules.tree_id] if is_tree and rules.tree_id is not None else picture


def _reasons(subject: Subject, picture: Picture, rules: RuleSet) -> Iterator[Reason]:
    comparable = subject.currency == rules.currency
    if not comparable and _names_amounts(rules):
        yield Reason(
            rule="currency",
            action=Action.HOLD,
            text=(
                f"The owner's rules are in {rules.currency} and the payment is in"
                f" {subject.currency}: the amounts cannot be compared."
            ),
            figures={"rules": rules.currency, "payment": subject.currency},
        )
    if rules.velocity is not None and rules.velocity.is_on:
        counts = _counted(picture, rules, is_tree=rules.velocity.is_tree)
        yield from _velocity(counts, rules.velocity, subject, comparable=comparable)
    if rules.new_payee is not None and rules.new_payee.is_on:
        counts = _counted(picture, rules, is_tree=rules.new_payee.is_tree)
        if not picture.is_known_payee:
            yield from _new_payee(counts, rules.new_payee, subject, comparable=comparable)
    if rules.price_jump is not None and rules.price_jump.is_on:
        yield from _price_jump(picture, rules.price_jump, subject)
    if rules.loop is not None and rules.loop.is_on:
        yield from _loop(_counted(picture, rules, is_tree=rules.loop.is_tree), rules.loop)
    if rules.night is not None and rules.night.is_on and comparable:
        yield from _night(picture, rules.night, subject)
    if rules.burn_rate is not None and rules.burn_rate.is_on:
        yield from _burn_rate(picture, rules.burn_rate, subject)


def _names_amounts(rules: RuleSet) -> bool:
    velocity, new_payee, night = rules.velocity, rules.new_payee, rules.night
    return (
        (
            velocity is not None
            and velocity.is_on
            and (velocity.quanta_per_minute is not None or velocity.quanta_per_hour is not None)
        )
        or (new_payee is not None and new_payee.is_on)
        or (night is not None and night.is_on)
    )


def _of(rule: Velocity | NewPayee | Loop) -> str:
    return " of all agents together" if rule.is_tree else ""


def _scope(rule: Velocity | NewPayee | Loop) -> dict[str, str]:
    return {"scope": "tree"} if rule.is_tree else {}


def _velocity(
    counted: Counts, rule: Velocity, subject: Subject, *, comparable: bool
) -> Iterator[Reason]:
    counts = (
        ("minute", counted.payments_minute, rule.payments_per_minute),
        ("hour", counted.payments_hour, rule.payments_per_hour),
    )
    for window, count, bound in counts:
        if bound is not None and count > bound:
            yield Reason(
                rule="velocity",
                action=rule.action,
                text=(
                    f"{count} payments{_of(rule)} within the last {window}; the rule says {bound}."
                ),
                figures={"window": window, "payments": count, "bound": bound, **_scope(rule)},
            )
            return
    sums = (
        ("minute", counted.quanta_minute, rule.quanta_per_minute),
        ("hour", counted.quanta_hour, rule.quanta_per_hour),
    )
    for window, quanta, limit in sums:
        if comparable and limit is not None and quanta > limit:
            spent, most = _money(quanta, subject), _money(limit, subject)
            yield Reason(
                rule="velocity",
                action=rule.action,
                text=(
                    f"{spent} {subject.currency}{_of(rule)} within the last {window};"
                    f" the rule says {most} {subject.currency}."
                ),
                figures={"window": window, "amount": spent, "bound": most, **_scope(rule)},
            )
            return


def _new_payee(
    counted: Counts, rule: NewPayee, subject: Subject, *, comparable: bool
) -> Iterator[Reason]:
    amount, above = _money(subject.quanta, subject), _money(rule.above_quanta, subject)
    if comparable and subject.quanta > rule.above_quanta:
        yield Reason(
            rule="new_payee",
            action=rule.action,
            text=(
                f"The first payment to this payee is {amount} {subject.currency};"
                f" the rule says at most {above} {subject.currency}."
            ),
            figures={"payee": str(subject.payee_id), "amount": amount, "bound": above},
        )
    elif (
        rule.new_payees_per_hour is not None and counted.new_payees_hour > rule.new_payees_per_hour
    ):
        yield Reason(
            rule="new_payee",
            action=rule.action,
            text=(
                f"{counted.new_payees_hour} new payees{_of(rule)} within the last hour;"
                f" the rule says {rule.new_payees_per_hour}."
            ),
            figures={
                "payee": str(subject.payee_id),
                "new_payees": counted.new_payees_hour,
                "bound": rule.new_payees_per_hour,
                **_scope(rule),
            },
        )


def _price_jump(picture: Picture, rule: PriceJump, subject: Subject) -> Iterator[Reason]:
    usual = picture.usual_quanta
    if usual is None or picture.usual_count < rule.after_payments:
        return
    if subject.quanta > rule.times * usual:
        amount, median = _money(subject.quanta, subject), _money(usual, subject)
        same = "the same resource" if picture.usual_of == "resource" else "the same payee"
        yield Reason(
            rule="price_jump",
            action=rule.action,
            text=(
                f"{amount} {subject.currency} is more than {rule.times} times the usual"
                f" {median} {subject.currency} for {same}."
            ),
            figures={
                "amount": amount,
                "usual": median,
                "of": picture.usual_of,
                "payments": picture.usual_count,
                "bound": rule.times,
            },
        )


def _loop(counted: Counts, rule: Loop) -> Iterator[Reason]:
    within_us = rule.within_s * 1_000_000
    times = 1 + sum(ago <= within_us for ago in counted.equal_calls_us)
    if times >= rule.times:
        yield Reason(
            rule="loop",
            action=rule.action,
            text=(
                f"The same request {times} times{_of(rule)} within {rule.within_s} seconds;"
                f" the rule says fewer than {rule.times}."
            ),
            figures={
                "times": times,
                "seconds": rule.within_s,
                "bound": rule.times,
                **_scope(rule),
            },
        )


def _night(picture: Picture, rule: Night, subject: Subject) -> Iterator[Reason]:
    local = picture.now.astimezone(ZoneInfo(rule.time_zone))
    minute = local.hour * 60 + local.minute
    if rule.from_minute <= rule.until_minute:
        is_quiet = rule.from_minute <= minute < rule.until_minute
    else:
        is_quiet = minute >= rule.from_minute or minute < rule.until_minute
    if is_quiet and subject.quanta > rule.above_quanta:
        amount, above = _money(subject.quanta, subject), _money(rule.above_quanta, subject)
        yield Reason(
            rule="night",
            action=rule.action,
            text=(
                f"{amount} {subject.currency} at {local:%H:%M} in {rule.time_zone}, in the"
                f" owner's quiet hours; the rule says at most {above} {subject.currency}."
            ),
            figures={
                "time": f"{local:%H:%M}",
                "time_zone": rule.time_zone,
                "amount": amount,
                "bound": above,
            },
        )


def _burn_rate(picture: Picture, rule: BurnRate, subject: Subject) -> Iterator[Reason]:
    for budget in picture.budgets:
        spent = budget.spent_quanta + subject.quanta
        is_early = budget.elapsed_ppm * 100 < rule.window_percent * PPM
        if is_early and spent * 100 > rule.spent_percent * budget.quanta:
            percent = spent * 100 // max(budget.quanta, 1)
            elapsed = budget.elapsed_ppm * 100 // PPM
            yield Reason(
                rule="burn_rate",
                action=rule.action,
                text=(
                    f"{percent} % of the budget of the {budget.window} is spent after"
                    f" {elapsed} % of it; the rule says at most {rule.spent_percent} % within"
                    f" the first {rule.window_percent} %."
                ),
                figures={
                    "window": budget.window,
                    "spent_percent": percent,
                    "window_percent": elapsed,
                    "bound": rule.spent_percent,
                },
            )
            return


def _money(quanta: int, subject: Subject) -> str:
    return quanta_to_text(quanta, scale=ASSETS[subject.currency].scale)


_ORDER: Final = (
    "currency",
    "velocity",
    "new_payee",
    "price_jump",
    "loop",
    "night",
    "burn_rate",
)
