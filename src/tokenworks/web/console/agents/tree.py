"""
Arrange owners, teams, agents and mandates as the rows of a tree; pure.

A mandate that was delegated stands below its parent when both are the same agent's, else below
its agent, with its parent named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tokenworks.web.console.agents.model import AgentTree, Payment, TreeMandate, TreeParty
from tokenworks.web.console.agents.wording import Bar, ago_text, to_bar
from tokenworks.web.console.wording import moment_of

OVER: Final = frozenset({"revoked", "expired", "closed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """
    What stands below a row, itself included: what a freeze stops.
    """

    agents: tuple[str, ...]  # names, each once
    mandates: int  # that are not over


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One line of the tree: a party, or a mandate of the agent above it.
    """

    identifier: str
    depth: int
    name: str
    state: str  # as it counts now: a date or somebody above may be in the way
    below: Below
    party: TreeParty | None = None
    mandate: TreeMandate | None = None
    bars: tuple[Bar, ...] = ()
    stopped_by: str = ""  # who above it is frozen or over, if anybody
    parent_name: str = ""  # of a mandate that another agent delegated
    last_payment: Payment | None = None
    last_payment_ago: str = ""

    @property
    def is_own_frozen(self) -> bool:
        """
        Return whether this very row was frozen, so that it can be thawed.
        """
        own = self.mandate or self.party
        return own is not None and own.state == "frozen"

    @property
    def is_over(self) -> bool:
        """
        Return whether nothing can be spent here ever again.
        """
        return self.state in OVER


def to_rows(
    tree: AgentTree, now: datetime, *, last_payments: Mapping[str, Payment]
) -> tuple[Row, ...]:
    """
    Return the rows from the top down, depth first, in the hub's order.

    Args:
        tree: As the hub has it, parents first.
        now: For dates that are over.
        last_payments: By mandate, as far as they are known.
    """
    return _Arranging(tree, now, last_payments).rows()


def matching(rows: Sequence[Row], words: str) -> tuple[Row, ...]:
    """
    Return the rows that match, with everything above and below them; no words: all.
    """
    wanted = words.casefold().split()
    if not wanted:
        return tuple(rows)
    kept: set[int] = set()
    for index, row in enumerate(rows):
        text = f"{row.name} {row.identifier} {row.state}".casefold()
        if all(word in text for word in wanted):
            kept.update(_above(rows, index))
            kept.update(_with_below(rows, index))
    return tuple(row for index, row in enumerate(rows) if index in kept)


def counts(rows: Iterable[Row]) -> Mapping[str, int]:
    """
    Return how many agents there are, and mandates by state.
    """
    found = {"agents": 0, "active": 0, "frozen": 0}
    for row in rows:
        if row.party is not None and row.party.level == "agent":
            found["agents"] += 1
        if row.mandate is not None and row.state in found:
            found[row.state] += 1
    return found


def newest_by_mandate(payments: Iterable[Payment]) -> Mapping[str, Payment]:
    """
    Return the newest payment of each mandate among some, newest first.
    """
    found: dict[str, Payment] = {}
    for payment in payments:
        if payment.mandate_id is not None:
            found.setdefault(payment.mandate_id, payment)
    return found


class _Arranging:
    """
    One tree being arranged.
    """

    def __init__(
        self, tree: AgentTree, now: datetime, last_payments: Mapping[str, Payment]
    ) -> None:
        self._now = now
        self._last_payments = last_payments
        self._parties = {party.party_id: party for party in tree.parties}
        self._mandates = {mandate.mandate_id: mandate for mandate in tree.mandates}
        self._children: dict[str | None, list[TreeParty]] = {}
        for party in tree.parties:
            parent_id = party.parent_id if party.parent_id in self._parties else None
            self._children.setdefault(parent_id, []).append(party)
        self._delegated: dict[str, list[str]] = {}
        self._roots: dict[str, list[TreeMandate]] = {}
        for mandate in tree.mandates:
            parent = self._parent_of(mandate)
            if parent is not None:
                self._delegated.setdefault(parent.mandate_id, []).append(mandate.mandate_id)
            if parent is None or parent.agent_id != mandate.agent_id:
                self._roots.setdefault(mandate.agent_id, []).append(mandate)

    def rows(self) -> tuple[Row, ...]:
        """
        Return all rows.
        """
        rows: list[Row] = []
        for top in self._children.get(None, ()):
            rows += self._of_party(top, depth=0, stopped_by="")
        return tuple(rows)

    def _of_party(self, party: TreeParty, *, depth: int, stopped_by: str) -> list[Row]:
        below = stopped_by or (party.name if party.state != "active" else "")
        inner: list[Row] = []
        for mandate in self._roots.get(party.party_id, ()):
            inner += self._of_mandate(mandate, depth=depth + 1)
        for child in self._children.get(party.party_id, ()):
            inner += self._of_party(child, depth=depth + 1, stopped_by=below)
        is_frozen = party.is_frozen and party.state == "active"
        own = [row.party.party_id for row in inner if row.party is not None]
        head = Row(
            identifier=party.party_id,
            depth=depth,
            name=party.name,
            state="frozen" if is_frozen else party.state,
            below=self._below(
                [party.party_id, *own], [row.identifier for row in inner if row.mandate]
            ),
            party=party,
            bars=tuple(to_bar(limit) for limit in party.limits),
            stopped_by=stopped_by,
        )
        return [head, *inner]

    def _of_mandate(self, mandate: TreeMandate, *, depth: int) -> list[Row]:
        parent = self._parent_of(mandate)
        inner: list[Row] = []
        for identifier in self._delegated.get(mandate.mandate_id, ()):
            child = self._mandates[identifier]
            if child.agent_id == mandate.agent_id:
                inner += self._of_mandate(child, depth=depth + 1)
        state, stopped_by = self._state_of(mandate), self._stopper_of(mandate)
        if state == "active" and (stopped_by or not mandate.is_usable):
            state = "frozen"
        last = self._last_payments.get(mandate.mandate_id)
        is_others = parent is not None and parent.agent_id != mandate.agent_id
        row = Row(
            identifier=mandate.mandate_id,
            depth=depth,
            name=_name_of(mandate),
            state=state,
            below=self._below([mandate.agent_id], [mandate.mandate_id]),
            mandate=mandate,
            bars=tuple(to_bar(limit) for limit in mandate.limits),
            stopped_by=stopped_by,
            parent_name=_name_of(parent) if parent is not None and is_others else "",
            last_payment=last,
            last_payment_ago=ago_text(last.recorded_at, self._now) if last else "",
        )
        return [row, *inner]

    def _below(self, party_ids: Sequence[str], mandate_ids: Sequence[str]) -> Below:
        # What an agent delegated stops with it, wherever the other agent stands.
        reached = dict.fromkeys(mandate_ids)
        waiting = list(reached)
        while waiting:
            for identifier in self._delegated.get(waiting.pop(), ()):
                if identifier not in reached:
                    reached[identifier] = None
                    waiting.append(identifier)
        spenders = [self._mandates[identifier].agent_id for identifier in reached]
        named = [self._parties[each] for each in (*party_ids, *spenders) if each in self._parties]
        live = [each for each in reached if self._state_of(self._mandates[each]) not in OVER]
        agents = dict.fromkeys(party.name for party in named if party.level == "agent")
        return Below(agents=tuple(agents), mandates=len(live))

    def _stopper_of(self, mandate: TreeMandate) -> str:
        """
        Return who stops a mandate although its own state does not, or nobody.
        """
        one: TreeMandate | None = mandate
        while one is not None:
            if one is not mandate and self._state_of(one) != "active":
                return _name_of(one)
            party = self._parties.get(one.agent_id)
            while party is not None:
                if party.state != "active":
                    return party.name
                party = self._parties.get(party.parent_id or "")
            one = self._parent_of(one)
        return ""

    def _parent_of(self, mandate: TreeMandate) -> TreeMandate | None:
        return self._mandates.get(mandate.parent_id or "")

    def _state_of(self, mandate: TreeMandate) -> str:
        if mandate.state != "revoked":
            ends_at = moment_of(mandate.expires_at)
            if ends_at is not None and ends_at <= self._now:
                return "expired"
        return mandate.state


def _name_of(mandate: TreeMandate) -> str:
    return mandate.label or f"mandate …{mandate.mandate_id[-8:]}"


def _above(rows: Sequence[Row], index: int) -> Iterator[int]:
    depth = rows[index].depth
    for above in range(index - 1, -1, -1):
        if rows[above].depth < depth:
            depth = rows[above].depth
            yield above


def _with_below(rows: Sequence[Row], index: int) -> Iterator[int]:
    yield index
    for below in range(index + 1, len(rows)):
        if rows[below].depth <= rows[index].depth:
            return
        yield below
