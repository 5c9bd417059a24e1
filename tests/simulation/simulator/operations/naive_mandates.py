"""
Mandates, naively: what one allows, what is above it, and whether a payment may be made under it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tests.simulation.simulator.auditor import LimitTerms
from tests.simulation.simulator.world import Payee, SimulatedAgent
from tokenworks.agents.mandates.model import Terms

LIMIT_USD_ID, PAYMENTS_ID = 11, 14
DEPTH_MAX = 8
LONGER = {
    "hour": {"hour", "day", "week", "month", "quarter", "year", "ever"},
    "day": {"day", "week", "month", "quarter", "year", "ever"},
    "week": {"week", "ever"},
    "month": {"month", "quarter", "year", "ever"},
    "quarter": {"quarter", "year", "ever"},
    "ever": {"ever"},
}
"""Windows that contain one of the key whole."""


@dataclass
class NaiveMandate:
    """
    One mandate and those above it.
    """

    mandate_id: UUID
    agent: SimulatedAgent
    terms: Terms
    parent: NaiveMandate | None
    expires_at: datetime | None
    confirmed: str | None
    """The wallet that may delegate it."""
    jws: str
    state: str = "active"
    budgets: dict[str, int] = field(default_factory=dict[str, int])
    """By window what may be spent now; raised limits included."""

    def chain(self) -> list[NaiveMandate]:
        """
        Return those above and this one, root first.
        """
        return [*(self.parent.chain() if self.parent else []), self]

    def stopped(self, now: datetime) -> set[str]:
        """
        Return why the chain is not in force.
        """
        reasons: set[str] = set()
        for mandate in self.chain():
            if mandate.state != "active":
                reasons.add(f"mandate_{mandate.state}")
            if mandate.expires_at is not None and mandate.expires_at <= now:
                reasons.add("mandate_expired")
        return reasons

    def refused(self, payee: UUID, quanta: int) -> set[str]:
        """
        Return what the chain's predicates say against a payment.
        """
        reasons: set[str] = set()
        for terms in (mandate.terms for mandate in self.chain()):
            if terms.payees is not None and payee not in terms.payees:
                reasons.add("payee_not_allowed")
            if terms.amount_max is not None and quanta > terms.amount_max:
                reasons.add("amount_not_allowed")
        return reasons

    def path(self, wallet: str, payee: Payee) -> tuple[UUID, list[UUID]]:
        """
        Return the path that a payment is held along, and its scopes, root first.
        """
        chain = self.chain()
        parties = [scope for mandate in chain for scope in mandate.agent.scopes]
        scopes = [*dict.fromkeys(parties), named("wallet", wallet)]
        scopes += [mandate.mandate_id for mandate in chain]
        counted = [mandate for mandate in chain if mandate.terms.payee_budgets]
        scopes += [named("payee", mandate.mandate_id, payee.party) for mandate in counted]
        path_id = named("path", self.mandate_id, wallet, payee.party if counted else "")
        return path_id, scopes

    def own_limits(self) -> Counter[LimitTerms]:
        """
        Return the limits that its scope is opened with.
        """
        money = [(LIMIT_USD_ID, x.window.value, x.quanta) for x in self.terms.budgets]
        counts = [(PAYMENTS_ID, x.window.value, x.payments) for x in self.terms.counts]
        return Counter([*money, *counts])

    def payee_limits(self) -> Counter[LimitTerms]:
        """
        Return the limits of each payee's scope below it.
        """
        return Counter([(LIMIT_USD_ID, x.window.value, x.quanta) for x in self.terms.payee_budgets])


def named(kind: str, *parts: object) -> UUID:
    """
    Return the id that stands for something: the first sixteen bytes of its hash, as version 8.
    """
    text = "\n".join(["tokenworks", kind, *map(str, parts)])
    octets = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    octets[6] = 0x80 | octets[6] & 0x0F
    octets[8] = 0x80 | octets[8] & 0x3F
    return UUID(bytes=bytes(octets))


@dataclass
class NaiveMandates:
    """
    Every mandate that was issued or delegated, the oldest first.
    """

    issued: list[NaiveMandate] = field(default_factory=list[NaiveMandate])
    rules_are_set: bool = False

    def of_agent(self, agent: SimulatedAgent) -> list[NaiveMandate]:
        """
        Return an agent's mandates, in force or not.
        """
        return [mandate for mandate in self.issued if mandate.agent is agent]


def wider_than(terms: Terms, expires_at: datetime | None, parent: NaiveMandate) -> bool:
    """
    Tell whether terms state more than those of a mandate above them, or of one above that.
    """
    for above in parent.chain():
        upper = above.terms
        most = (terms.amount_max, upper.amount_max)
        if most[0] is not None and most[1] is not None and most[0] > most[1]:
            return True
        payees = (terms.payees, upper.payees)
        if payees[0] is not None and payees[1] is not None and not payees[0] <= payees[1]:
            return True
        for name in ("budgets", "payee_budgets"):
            own = [(x.window.value, x.quanta) for x in getattr(terms, name)]
            given = [(x.window.value, x.quanta) for x in getattr(upper, name)]
            if _exceeds(own, given):
                return True
        own = [(x.window.value, x.payments) for x in terms.counts]
        given = [(x.window.value, x.payments) for x in upper.counts]
        if _exceeds(own, given) or terms.delegations_max >= upper.delegations_max:
            return True
    return (
        expires_at is not None and parent.expires_at is not None and expires_at > parent.expires_at
    )


def least(window: str, limits: Sequence[tuple[str, int]]) -> int | None:
    """
    Return the smallest of the limits over windows that contain one.
    """
    return min((quanta for other, quanta in limits if other in LONGER[window]), default=None)


def _exceeds(own: Sequence[tuple[str, int]], given: Sequence[tuple[str, int]]) -> bool:
    for window, _ in own:
        most, bound = least(window, own), least(window, given)
        if most is not None and bound is not None and most > bound:
            return True
    return False
