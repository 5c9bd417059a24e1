"""
Know wallets, chains of mandates and spend paths, mostly from memory.

Terms, the agent of a wallet and the scopes of a path never change, so remembering them is safe.
States do change: they are read again before anything is refused, and the ledger has the last
word on what is granted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from tokenworks.agents.mandates import paths, store
from tokenworks.agents.mandates.cache import Remembered
from tokenworks.agents.mandates.errors import MandateNotFoundError
from tokenworks.agents.mandates.merging import MergedChain, merge_chain
from tokenworks.agents.mandates.model import Authority, Mandate, Wallet
from tokenworks.foundation.clock import Clock
from tokenworks.identity.service import Identity
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Connection, Pool

_Spender: TypeAlias = tuple[UUID, str | None, UUID | None]
"""A mandate, the wallet that acts for its agent, and the payee where payees are counted."""

WALLETS_MAX: Final = 32_768
MANDATES_MAX: Final = 32_768
PATHS_MAX: Final = 131_072
USABLE_LIFETIME_S: Final = 5.0
"""How long 'the only mandate of an agent' is believed when no notification is heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownChain:
    """
    A mandate, those above it, and all parties that stand above their agents.
    """

    mandates: tuple[Mandate, ...]  # root first
    agent_name: str
    party_chain: tuple[UUID, ...]  # from the organisation down to the mandate's agent
    parties: tuple[UUID, ...]  # those of every agent of the chain, each once, root first
    merged: MergedChain  # for the one question of each payment
    counts_payees: bool  # whether a mandate limits what one payee gets

    @property
    def mandate(self) -> Mandate:
        """
        Return the mandate itself, the last of the chain.
        """
        return self.mandates[-1]


class Directory:
    """
    Look up wallets, chains and paths.
    """

    def __init__(self, pool: Pool, *, ledger: Ledger, identity: Identity, clock: Clock) -> None:
        self._pool = pool
        self._ledger = ledger
        self._identity = identity
        self._clock = clock
        self._wallets: Remembered[str, Wallet] = Remembered(WALLETS_MAX)
        self._chains: Remembered[UUID, KnownChain] = Remembered(MANDATES_MAX)
        self._usable: Remembered[UUID, tuple[UUID, ...]] = Remembered(
            MANDATES_MAX, lifetime_s=USABLE_LIFETIME_S
        )
        self._authorities: Remembered[_Spender, Authority] = Remembered(PATHS_MAX)

    async def wallet(self, address: str, *, is_fresh: bool = False) -> Wallet | None:
        """
        Return a wallet, or ``None``; read now if ``is_fresh``.
        """
        now_s = self._clock.monotonic_s()
        found = None if is_fresh else self._wallets.find(address, now_s=now_s)
        if found is not None:
            return found
        generation = self._wallets.generation
        async with self._pool.connection() as connection:
            found = await store.find_wallet(connection, address)
        # An unknown address is not remembered: it may be registered the next moment, and
        # addresses that somebody makes up would push out those that pay.
        if found is not None:
            self._wallets.keep(address, found, generation=generation, now_s=now_s)
        return found

    async def chain(self, mandate_id: UUID, *, is_fresh: bool = False) -> KnownChain | None:
        """
        Return a mandate with its chain, or ``None``; read now if ``is_fresh``.
        """
        now_s = self._clock.monotonic_s()
        found = None if is_fresh else self._chains.find(mandate_id, now_s=now_s)
        if found is not None:
            return found
        generation = self._chains.generation
        async with self._pool.connection() as connection:
            found = await self._read_chain(connection, mandate_id)
        if found is not None:
            self._chains.keep(mandate_id, found, generation=generation, now_s=now_s)
        return found

    async def fresh(self, mandate_id: UUID) -> KnownChain:
        """
        Return a mandate with its chain, read now.

        Raises:
            MandateNotFoundError: There is none.
        """
        known = await self.chain(mandate_id, is_fresh=True)
        if known is None:
            message = f"There is no mandate {mandate_id}."
            raise MandateNotFoundError(message, param="mandate_id")
        return known

    async def _read_chain(self, connection: Connection, mandate_id: UUID) -> KnownChain | None:
        mandates = await store.read_chain(connection, mandate_id)
        if not mandates:
            return None
        # One query for every agent of the chain: a first payment waits for this.
        agents = dict.fromkeys(mandate.agent_id for mandate in mandates)
        chains = await self._identity.get_chains(agents, connection=connection)
        chain = chains[mandates[-1].agent_id]
        parties = dict.fromkeys(party.party_id for agent in agents for party in chains[agent])
        return KnownChain(
            mandates=mandates,
            agent_name=chain[-1].name,
            party_chain=tuple(party.party_id for party in chain),
            parties=tuple(parties),
            merged=merge_chain(mandates),
            counts_payees=paths.has_payee_limits(mandates),
        )

    async def usable_mandates(self, agent_id: UUID) -> tuple[UUID, ...]:
        """
        Return up to two mandates that an agent may use as far as they say themselves.
        """
        now_s = self._clock.monotonic_s()
        found = self._usable.find(agent_id, now_s=now_s)
        if found is None:
            generation = self._usable.generation
            async with self._pool.connection() as connection:
                found = await store.usable_mandates(connection, agent_id, now=self._clock.now())
            if found:
                self._usable.keep(agent_id, found, generation=generation, now_s=now_s)
        return found

    async def authority(
        self, known: KnownChain, *, wallet: str | None, payee_id: UUID | None
    ) -> Authority:
        """
        Return a chain with its spend path, which is published when it is first needed.
        """
        counted = payee_id if known.counts_payees else None
        spender = (known.mandate.mandate_id, wallet, counted)
        now_s = self._clock.monotonic_s()
        found = self._authorities.find(spender, now_s=now_s)
        if found is not None and found.chain is known.mandates:
            return found
        generation = self._authorities.generation
        path_id = paths.path_of(known.mandate.mandate_id, wallet=wallet, payee_id=counted)
        if found is None:
            version = await self._publish(known, path_id, wallet=wallet, payee_id=counted)
        else:
            version = found.path_version  # only the chain was read again
        authority = Authority(
            mandate=known.mandate,
            chain=known.mandates,
            agent_name=known.agent_name,
            party_chain=known.party_chain,
            parties=known.parties,
            path_id=path_id,
            path_version=version,
            wallet=wallet,
            payee_id=counted,
        )
        self._authorities.keep(spender, authority, generation=generation, now_s=now_s)
        return authority

    async def _publish(
        self, known: KnownChain, path_id: UUID, *, wallet: str | None, payee_id: UUID | None
    ) -> int:
        funding = await self._ledger.account(known.mandate.organisation_id, "cash")
        opens = [] if payee_id is None else paths.payee_openings(known.mandates, payee_id)
        async with self._pool.connection() as connection:
            return await self._ledger.open_path(
                path_id=path_id,
                scope_ids=paths.path_scopes(
                    known.parties, known.mandates, wallet=wallet, payee_id=payee_id
                ),
                funding_account=funding,
                opens=opens,
                actor="mandate",
                connection=connection,
            )

    def forget_path(self, authority: Authority) -> None:
        """
        Publish an authority's path again, or find the version that is current now.
        """
        spender = (authority.mandate.mandate_id, authority.wallet, authority.payee_id)
        self._authorities.forget(spender)

    def forget(self, subject: str) -> None:
        """
        Read a wallet, an agent or a mandate again; whatever the text names.
        """
        self._wallets.forget(subject)
        try:
            identifier = UUID(subject)
        except ValueError:
            return
        self._usable.forget(identifier)
        # Not in the chains of those below it: an old "active" there ends at the ledger, an old
        # "frozen" is read again before it refuses.
        self._chains.forget(identifier)

    def forget_all(self) -> None:
        """
        Read everything again.
        """
        for remembered in (self._wallets, self._chains, self._usable, self._authorities):
            remembered.forget_all()

    async def watch(self, connection: Connection) -> None:
        """
        Forget what other processes change, until the connection ends.
        """
        await store.listen(connection)
        self.forget_all()
        async for notice in connection.notifies():
            self.forget(notice.payload)
