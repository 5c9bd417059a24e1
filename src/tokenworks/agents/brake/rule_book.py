"""
Remember rule sets and the chains that they make.

Invariant: a version never changes, so what is remembered stays true; who asks has read which
versions are in force, in its own transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from uuid import UUID

from tokenworks.agents.brake import rule_store
from tokenworks.agents.brake.rule_documents import StoredRules, default_rules
from tokenworks.agents.brake.rule_sets import RuleSet, compose_chain
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection

CHAINS_MAX: Final = 10_000

Chain: TypeAlias = "tuple[tuple[RuleSet, ...], int]"  # rule sets, and the version they make


class RuleBook:
    """
    Rule sets by version, which never change; so they may be remembered for ever.
    """

    def __init__(self) -> None:
        self._stored: dict[int, StoredRules] = {}
        self._chains: dict[tuple[int, ...], Chain] = {}

    async def load(self, connection: Connection, versions: Mapping[UUID, int]) -> None:
        """
        Make sure that these versions are known.
        """
        missing = set(versions.values()) - self._stored.keys()
        if missing:
            for rules in await rule_store.read_rules(connection, missing):
                self._stored[rules.version] = rules

    def own(self, party_id: UUID, versions: Mapping[UUID, int]) -> StoredRules | None:
        """
        Return what a party itself set.
        """
        version = versions.get(party_id)
        return None if version is None else self._stored[version]

    def chain(self, parties: Sequence[UUID], versions: Mapping[UUID, int]) -> Chain:
        """
        Return every rule set that counts below some parties, the organisation first.

        The version is the highest of them: versions are counted for the whole hub, in the
        order of their commits, so it says what each party's rules were.
        """
        numbers = tuple(versions.get(party, 0) for party in (PLATFORM_ID, *parties))
        known = self._chains.get(numbers)
        if known is None:
            operator, *own = (
                None if number == 0 else self._stored[number].rules for number in numbers
            )
            known = compose_chain(own, operator=operator, defaults=default_rules()), max(numbers)
            if len(self._chains) >= CHAINS_MAX:
                self._chains.clear()
            self._chains[numbers] = known
        return known

    def trees(self, parties: Sequence[UUID], versions: Mapping[UUID, int]) -> tuple[UUID, ...]:
        """
        Return those whose rules count the payments of all below them.
        """
        chain, _ = self.chain(parties, versions)
        return tuple(rules.tree_id for rules in chain if rules.tree_id is not None)
