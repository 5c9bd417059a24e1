"""
Rule sets: the rules of owners as values, how those of a tree come together, which are looser.

A rule set is partial: a rule it does not name is inherited. All rule sets on the way from the
hub's operator down to the agent are judged and the strictest answer counts, so a rule further
down can only add scrutiny. ``find_looser`` names the rule of a new set that could not have any
effect because one above is stricter in every way: whoever wrote it is told, instead of
believing that it is in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar, Final
from uuid import UUID

from tokenworks.agents.brake.errors import RulesLooserError
from tokenworks.agents.brake.model import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    Any rule; ``ALLOW`` means off.
    """

    name: ClassVar[str]
    action: Action

    @property
    def is_on(self) -> bool:
        """
        Return whether the rule speaks at all.
        """
        return self.action is not Action.ALLOW

    def tightness(self) -> tuple[int | None, ...] | None:
        """
        Return figures that are larger the stricter the rule; ``None`` in it: not bounded.

        ``None`` as a whole: not to be compared with others.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Velocity(Rule):
    """
    More payments or money of one agent than this within a minute or an hour.
    """

    name = "velocity"
    payments_per_minute: int | None = None
    payments_per_hour: int | None = None
    quanta_per_minute: int | None = None
    quanta_per_hour: int | None = None
    is_tree: bool = False  # counts all payments below its owner, not each agent's

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return each bound, the smaller the stricter; a whole tree is stricter than one agent.
        """
        bounds = (
            self.payments_per_minute,
            self.payments_per_hour,
            self.quanta_per_minute,
            self.quanta_per_hour,
        )
        return (*(None if bound is None else -bound for bound in bounds), int(self.is_tree))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayee(Rule):
    """
    The first payment to a payee above an amount, or many new payees within an hour.
    """

    name = "new_payee"
    above_quanta: int = 0
    new_payees_per_hour: int | None = None
    is_tree: bool = False  # counts all payments below its owner, not each agent's

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return both bounds, the smaller the stricter.
        """
        rate = self.new_payees_per_hour
        return -self.above_quanta, None if rate is None else -rate, int(self.is_tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceJump(Rule):
    """
    More than ``times`` the median of what the agent paid for the same.
    """

    name = "price_jump"
    times: int = 10
    after_payments: int = 3

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return both bounds, the smaller the stricter.
        """
        return -self.times, -self.after_payments


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop(Rule):
    """
    The same request ``times`` times within so many seconds.
    """

    name = "loop"
    times: int = 10
    within_s: int = 60
    is_tree: bool = False  # counts all payments below its owner, not each agent's

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return both figures: fewer times and a longer while are stricter.
        """
        return -self.times, self.within_s, int(self.is_tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night(Rule):
    """
    A payment above an amount in the quiet hours of the owner's time zone.
    """

    name = "night"
    from_minute: int = 22 * 60  # of the day; the first quiet one
    until_minute: int = 6 * 60  # the first that is not quiet any more
    time_zone: str = "UTC"
    above_quanta: int = 0

    def tightness(self) -> None:
        """
        Return nothing: hours of different zones are not to be compared.
        """
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnRate(Rule):
    """
    More than a part of a budget spent within the first part of its window.
    """

    name = "burn_rate"
    spent_percent: int = 50
    window_percent: int = 10

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return both figures: less spent and a longer while are stricter.
        """
        return -self.spent_percent, self.window_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRule(Rule):
    """
    A score above a figure; it may hold and never deny.
    """

    name = "score"
    above_ppm: int = 1_000_000

    def tightness(self) -> tuple[int | None, ...]:
        """
        Return the bound, the smaller the stricter.
        """
        return (-self.above_ppm,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """
    The rules of one owner; ``None`` is inherited.
    """

    currency: str = "USD"  # of every amount here
    velocity: Velocity | None = None
    new_payee: NewPayee | None = None
    price_jump: PriceJump | None = None
    loop: Loop | None = None
    night: Night | None = None
    burn_rate: BurnRate | None = None
    score: ScoreRule | None = None
    two_persons_above: int | None = None  # quanta
    tree_id: UUID | None = None  # whose payments rules of a tree count: its owner's

    @property
    def counts_tree(self) -> bool:
        """
        Return whether a rule counts more than one agent's payments.
        """
        counting = (self.velocity, self.new_payee, self.loop)
        return any(rule is not None and rule.is_on and rule.is_tree for rule in counting)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """
        Return the rules it names.
        """
        given = (getattr(self, name) for name in RULE_NAMES)
        return tuple(rule for rule in given if rule is not None)


RULE_NAMES: Final = tuple(
    item.name
    for item in fields(RuleSet)
    if item.name not in {"currency", "two_persons_above", "tree_id"}
)


def compose_chain(
    own: Sequence[RuleSet | None], *, operator: RuleSet | None, defaults: RuleSet
) -> tuple[RuleSet, ...]:
    """
    Return every rule set that counts for an agent, from the operator's downwards.

    Args:
        own: What the parties from the organisation down to the agent set; ``None``: nothing.
        operator: The hub operator's, which nobody can loosen.
        defaults: Of the catalogue, for what the organisation has not set.
    """
    organisation = own[0] if own else None
    first = defaults if organisation is None else _completed(organisation, defaults)
    chain = (operator, first, *own[1:])
    return tuple(dict.fromkeys(rules for rules in chain if rules is not None))


def refuse_looser(rules: RuleSet, above: Iterable[RuleSet]) -> None:
    """
    Refuse a rule that one above is stricter than in every way.

    Raises:
        RulesLooserError: With the name of the rule.
    """
    for upper in above:
        for rule in rules.rules:
            inherited: Rule | None = getattr(upper, rule.name)
            if inherited is not None and _is_looser(rule, inherited, upper, rules):
                message = (
                    f"The rule {rule.name!r} is looser than what is inherited, which stays in"
                    " force; a rule below can only be stricter."
                )
                raise RulesLooserError(message, param=f"rules.{rule.name}")
        if _is_above(rules.two_persons_above, upper.two_persons_above):
            message = "Two persons are needed from a lower amount on by an owner above."
            raise RulesLooserError(message, param="two_persons_above")


def two_persons_above(chain: Sequence[RuleSet], currency: str) -> int | None:
    """
    Return from above which amount two persons must approve; ``None``: never.

    An amount in another currency cannot be compared, so there every review needs two.
    """
    bounds = [
        rules.two_persons_above if rules.currency == currency else -1
        for rules in chain
        if rules.two_persons_above is not None
    ]
    return min(bounds, default=None)


def _is_above(bound: int | None, inherited: int | None) -> bool:
    return bound is not None and inherited is not None and bound > inherited


def _is_looser(rule: Rule, inherited: Rule, upper: RuleSet, rules: RuleSet) -> bool:
    if not inherited.is_on:
        return False
    if not rule.is_on:
        return True
    own, other = rule.tightness(), inherited.tightness()
    if own is None or other is None or rules.currency != upper.currency:
        return False
    lows = [_order(value) for value in (_RANKS[rule.action], *own)]
    highs = [_order(value) for value in (_RANKS[inherited.action], *other)]
    return lows != highs and all(low <= high for low, high in zip(lows, highs, strict=True))


def _order(value: int | None) -> tuple[bool, int]:
    return (value is not None, value or 0)


def _completed(rules: RuleSet, defaults: RuleSet) -> RuleSet:
    """
    Return an organisation's rules, with the catalogue's where it has none.
    """
    values = {name: getattr(rules, name) or getattr(defaults, name) for name in RULE_NAMES}
    needed = rules.two_persons_above
    if rules.currency != defaults.currency:
        # The catalogue's amounts mean nothing in another currency; counts and shares do.
        values["new_payee"] = rules.new_payee
        values["velocity"] = rules.velocity or _counts_only(defaults.velocity)
    elif needed is None:
        needed = defaults.two_persons_above
    return RuleSet(
        currency=rules.currency, two_persons_above=needed, tree_id=rules.tree_id, **values
    )


def _counts_only(velocity: Velocity | None) -> Velocity | None:
    if velocity is None:
        return None
    return Velocity(
        action=velocity.action,
        payments_per_minute=velocity.payments_per_minute,
        payments_per_hour=velocity.payments_per_hour,
    )


_RANKS: Final = MappingProxyType({Action.ALLOW: 0, Action.HOLD: 1, Action.DENY: 2})
