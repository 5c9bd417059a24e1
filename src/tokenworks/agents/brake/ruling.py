"""
Put rules in force, and say which count for whom.

Invariant: a party may only tighten what it inherits. The platform sets what counts for everybody,
the catalogue what counts where nobody said anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tokenworks.agents.brake import rule_store
from tokenworks.agents.brake.errors import InvalidRulesError
from tokenworks.agents.brake.records import Records
from tokenworks.agents.brake.rule_book import RuleBook
from tokenworks.agents.brake.rule_documents import StoredRules, default_rules, parse_rules
from tokenworks.agents.brake.rule_sets import RuleSet, compose_chain, refuse_looser
from tokenworks.foundation.clock import Clock
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesView:
    """
    What a party set, and everything that counts for it.
    """

    own: StoredRules | None
    chain: tuple[RuleSet, ...]
    version: int


class Ruling:
    """
    Reads and sets rules.

    Args:
        records: Where they are kept.
        book: Remembers them, also for judging.
        clock: When they come in force.
    """

    def __init__(self, records: Records, book: RuleBook, clock: Clock) -> None:
        self._records = records
        self._book = book
        self._clock = clock

    async def view(self, party_chain: Sequence[UUID]) -> RulesView:
        """
        Return what the last party of a chain set and what counts for it.

        Args:
            party_chain: From the organisation down to the party.
        """
        async with self._records.reading() as connection:
            return await self._view(connection, party_chain)

    async def set(
        self, party_chain: Sequence[UUID], document: Mapping[str, Any], *, actor: str
    ) -> RulesView:
        """
        Do what `Brake.set_rules` promises.
        """
        rules = parse_rules(document)
        if party_chain[-1] == PLATFORM_ID and rules.counts_tree:
            message = "A rule with scope: tree counts one owner's payments, never the whole hub's."
            raise InvalidRulesError(message, param="rules")
        now = self._clock.now()
        async with self._records.transaction() as connection:
            await rule_store.lock_rules(connection)
            refuse_looser(rules, await self._above(connection, party_chain))
            await rule_store.insert_rules(
                connection, party_chain[-1], document, actor=actor, now=now
            )
            return await self._view(connection, party_chain)

    async def _above(
        self, connection: Connection, party_chain: Sequence[UUID]
    ) -> Sequence[RuleSet]:
        *parents, party = party_chain
        if party == PLATFORM_ID:
            return ()
        if parents:
            chain, _ = await self.chain(connection, parents)
            return chain
        # An organisation inherits the operator's rules; the catalogue's it may replace.
        versions = await rule_store.rule_versions(connection, [PLATFORM_ID])
        await self._book.load(connection, versions)
        operator = self._book.own(PLATFORM_ID, versions)
        return () if operator is None else (operator.rules,)

    async def _view(self, connection: Connection, party_chain: Sequence[UUID]) -> RulesView:
        party = party_chain[-1]
        versions = await rule_store.rule_versions(connection, {*party_chain, PLATFORM_ID})
        await self._book.load(connection, versions)
        own = self._book.own(party, versions)
        if party == PLATFORM_ID:
            chain = compose_chain(
                (), operator=None if own is None else own.rules, defaults=default_rules()
            )
            return RulesView(own=own, chain=chain, version=versions.get(party, 0))
        chain, version = self._book.chain(party_chain, versions)
        return RulesView(own=own, chain=chain, version=version)

    async def chain(
        self, connection: Connection, parties: Sequence[UUID]
    ) -> tuple[tuple[RuleSet, ...], int]:
        """
        Return what counts below some parties, the organisation first, and its version.
        """
        versions = await rule_store.rule_versions(connection, {*parties, PLATFORM_ID})
        await self._book.load(connection, versions)
        return self._book.chain(parties, versions)
