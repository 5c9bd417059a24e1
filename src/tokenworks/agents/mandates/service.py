"""
Wallets and mandates as the rest of the hub uses them.

Whatever narrows (a revocation, a freeze) changes the ledger's scope in the same transaction, so
it binds the next hold of every process at once; captures within holds that are open still pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from tokenworks.agents.mandates import paths, store
from tokenworks.agents.mandates.address import check_address
from tokenworks.agents.mandates.calling import CallBounds, call_bounds
from tokenworks.agents.mandates.changing import Changing
from tokenworks.agents.mandates.directory import Directory
from tokenworks.agents.mandates.errors import (
    MandateFrozenError,
    MandateNotFoundError,
    MandateRequiredError,
    MandateRevokedError,
    MandateUnknownError,
    WalletRevokedError,
    WalletTakenError,
    WalletUnknownError,
)
from tokenworks.agents.mandates.issuing import Issuing, check_label
from tokenworks.agents.mandates.judging import judge_chain
from tokenworks.agents.mandates.model import (
    Authority,
    Mandate,
    MandateEvent,
    MandateState,
    Purchase,
    Terms,
    Wallet,
    Window,
)
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ForbiddenError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.identity.model import Party
from tokenworks.identity.service import Identity
from tokenworks.ledger.model import Outcome, Refusal, ScopeOpening
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.receipts.service import ReceiptKeys


class Mandates:
    """
    Know which key speaks for an agent, and what that agent may spend.

    Args:
        pool: Connections to the database.
        ledger: Holds the limits and the scopes.
        identity: Knows the parties.
        keys: Sign what the hub issues.
        clock: The time.
        ids: Mints the ids of mandates and events.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        ledger: Ledger,
        identity: Identity,
        keys: ReceiptKeys,
        clock: Clock,
        ids: IdentifierSource,
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._directory = Directory(pool, ledger=ledger, identity=identity, clock=clock)
        self._changing = Changing(
            pool, self._directory, ledger=ledger, identity=identity, clock=clock, ids=ids
        )
        self._issuing = Issuing(
            pool,
            self._directory,
            ledger=ledger,
            identity=identity,
            keys=keys,
            clock=clock,
            ids=ids,
        )

    async def watch(self, connection: Connection) -> None:
        """
        Forget what other processes change, for as long as the connection lives.
        """
        await self._directory.watch(connection)

    # ------------------------------------------------------------------------ wallets

    async def add_wallet(self, agent: UUID | str, address: str, *, label: str = "") -> Wallet:
        """
        Let a public key speak for an agent; a repeat returns the wallet that is there.

        Raises:
            InvalidWalletError: No Ed25519 public key in base64url.
            NotAnAgentError, PartyNotFoundError, PartyStateError: Not an agent that is open.
            WalletTakenError: The key speaks for another agent, or was revoked.
        """
        check_address(address)
        check_label(label)
        parties = await self._issuing.agent_chain(agent)
        agent_id = parties[-1].party_id
        funding = await self._ledger.account(parties[0].party_id, "cash")
        async with self._pool.connection() as connection, connection.transaction():
            wallet = await store.insert_wallet(
                connection,
                address=address,
                agent_id=agent_id,
                label=label,
                created_at=self._clock.now(),
            )
            if wallet is None:
                known = await store.find_wallet(connection, address)
                assert known is not None, "wallets are never deleted"
                if known.agent_id != agent_id or known.revoked_at is not None:
                    message = (
                        "This key speaks for another agent."
                        if known.agent_id != agent_id
                        else "This key was revoked; make a new one."
                    )
                    raise WalletTakenError(message, param="public_key")
                return known
            await self._ledger.open_path(
                path_id=None,
                scope_ids=(),
                funding_account=funding,
                opens=[ScopeOpening(scope_id=paths.wallet_scope(address))],
                actor="mandates",
                connection=connection,
            )
        return wallet

    async def revoke_wallet(self, address: str) -> Wallet:
        """
        Revoke a wallet for good, effective on the next hold; a repeat returns the first.

        Raises:
            WalletUnknownError: There is no such wallet.
        """
        async with self._pool.connection() as connection, connection.transaction():
            if await store.find_wallet(connection, address) is None:
                raise WalletUnknownError("The wallet is not registered with this hub.")
            await store.revoke_wallet(connection, address=address, revoked_at=self._clock.now())
            await self._ledger.set_scope_state(
                paths.wallet_scope(address), "closed", connection=connection
            )
            await store.notify(connection, address)
        self._directory.forget(address)
        revoked = await self._directory.wallet(address, is_fresh=True)
        assert revoked is not None, "wallets are never deleted"
        return revoked

    async def wallet_of(self, address: str, *, is_fresh: bool = False) -> Wallet:
        """
        Return a wallet that may act.

        What is remembered may be a moment old, which is enough before a hold: the wallet's
        scope stands on the path. Where no hold follows, ask for ``is_fresh``.

        Raises:
            WalletUnknownError: The address is not registered.
            WalletRevokedError: It was revoked.
        """
        wallet = await self._directory.wallet(address, is_fresh=is_fresh)
        if wallet is None:
            raise WalletUnknownError("The wallet is not registered with this hub.")
        if wallet.revoked_at is not None:
            raise WalletRevokedError("The wallet was revoked.")
        return wallet

    async def wallets(self, agent_ids: list[UUID]) -> list[Wallet]:
        """
        Return all wallets of some agents, each one's newest first, revoked ones included.
        """
        async with self._pool.connection() as connection:
            return await store.wallets_of(connection, agent_ids)

    # ----------------------------------------------------------------------- mandates

    async def issue(
        self,
        agent: UUID | str,
        terms: Terms,
        *,
        parent: UUID | None = None,
        label: str = "",
        actor: str,
        expires_at: datetime | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> Mandate:
        """
        Issue a mandate, signed by the hub.

        Args:
            agent: Who may spend; a party of the level agent.
            terms: What it allows.
            parent: The mandate it narrows; ``None``: a root.
            label: For people.
            actor: Who asked for it; kept with the event.
            expires_at: The first moment that is refused, cut to whole seconds; ``None``: as
                its terms and its parent say.
            origin: What its terms were taken from; kept with the event.

        Raises:
            InvalidTermsError: A term breaks a rule; ``param`` names it.
            NotAnAgentError, PartyNotFoundError, PartyStateError: No agent that is open.
            MandateNotFoundError: There is no such parent.
            MandateTooDeepError, MandateNotAttenuatedError: Its parent forbids it.
            MandateRevokedError, MandateExpiredError, MandateFrozenError: Its parent is not in
                force.
        """
        return await self._issuing.issue(
            agent,
            terms,
            parent=parent,
            label=label,
            actor=actor,
            expires_at=expires_at,
            origin=origin,
        )

    async def delegate(self, jws: str) -> Mandate:
        """
        Take in a delegation signed by the wallet that its parent confirms.

        The same text again returns the mandate that is there.

        Raises:
            MandateMalformedError, MandateSignatureError, MandateParentError: Not good.
            MandateConflictError: Its id names another mandate.
            TokenworksError: As ``issue``.
        """
        return await self._issuing.delegate(jws)

    async def get(self, mandate_id: UUID) -> Mandate:
        """
        Return a mandate as it stands now.

        Raises:
            MandateNotFoundError: There is none.
        """
        return (await self._directory.fresh(mandate_id)).mandate

    async def chain(self, mandate_id: UUID) -> tuple[Mandate, ...]:
        """
        Return a mandate and those above it as they stand now, root first.

        Raises:
            MandateNotFoundError: There is none.
        """
        return (await self._directory.fresh(mandate_id)).mandates

    async def list_mandates(
        self,
        *,
        agent_ids: list[UUID] | None = None,
        organisation_id: UUID | None = None,
        state: MandateState | None = None,
        after: UUID | None = None,
        count: int = PAGE_ROWS_DEFAULT,
    ) -> list[Mandate]:
        """
        Return one page of mandates in the order of their ids, revoked ones included.
        """
        async with self._pool.connection() as connection:
            return await store.list_mandates(
                connection,
                agent_ids=agent_ids,
                organisation_id=organisation_id,
                state=state,
                after=after,
                count=max(1, min(count, PAGE_ROWS_MAX)),
            )

    async def those_above(self, mandates: Sequence[Mandate]) -> list[Mandate]:
        """
        Return the mandates above some others that are not among them: other owners', mostly.
        """
        async with self._pool.connection() as connection:
            return await store.read_above(connection, mandates)

    async def events(self, mandate_id: UUID) -> list[MandateEvent]:
        """
        Return what was done to a mandate, the first first.
        """
        async with self._pool.connection() as connection:
            return await store.read_events(connection, mandate_id, count=PAGE_ROWS_MAX)

    async def raise_limit(
        self, mandate_id: UUID, window: Window, quanta: int, *, actor: str
    ) -> Mandate:
        """
        Raise one of a mandate's limits of money; see ``Changing.raise_limit``.
        """
        return await self._changing.raise_limit(mandate_id, window, quanta, actor=actor)

    async def revoke(self, mandate_id: UUID, *, actor: str) -> Mandate:
        """
        Revoke a mandate for good, and so all below it; see ``Changing.revoke``.
        """
        return await self._changing.revoke(mandate_id, actor=actor)

    async def freeze(self, party_or_mandate: UUID | str, *, actor: str) -> Mandate | Party:
        """
        Stop everything below a mandate, an agent or an owner; see ``Changing.freeze``.
        """
        return await self._changing.freeze(party_or_mandate, actor=actor)

    async def thaw(self, party_or_mandate: UUID | str, *, actor: str) -> Mandate | Party:
        """
        Let a frozen mandate, agent or owner go on; see ``Changing.thaw``.
        """
        return await self._changing.thaw(party_or_mandate, actor=actor)

    # ---------------------------------------------------------------------- authority

    async def authorise(
        self, address: str, mandate_id: UUID | None, purchase: Purchase, *, now: datetime
    ) -> Authority:
        """
        Return a wallet's authority for a purchase; sums are left to the ledger.

        Args:
            address: The wallet that signed.
            mandate_id: ``None``: its agent's only usable one.
            purchase: What is to be paid.
            now: When.

        Raises:
            WalletUnknownError, WalletRevokedError: The wallet may not act.
            MandateUnknownError: The mandate is not its agent's.
            MandateRequiredError: There is none, or more than one to choose from.
            ForbiddenError: A mandate of the chain does not allow it; the code says why.
        """
        wallet = await self.wallet_of(address)
        if mandate_id is None:
            mandate_id = await self._only_mandate(wallet.agent_id)
        known = await self._directory.chain(mandate_id)
        if known is None or known.mandate.agent_id != wallet.agent_id:
            raise MandateUnknownError("The wallet's agent has no such mandate.")
        try:
            known.merged.judge(purchase, now=now)
        except ForbiddenError:
            # It may have been thawed meanwhile, elsewhere.
            known = await self._directory.fresh(mandate_id)
            known.merged.judge(purchase, now=now)
        return await self._directory.authority(known, wallet=address, payee_id=purchase.payee_id)

    async def authority_of(self, mandate_id: UUID, *, payee_id: UUID | None = None) -> Authority:
        """
        Return a mandate's authority without a purchase: only that its chain is in force.

        Args:
            mandate_id: Whose.
            payee_id: Whose limits by payee are to be on the path; ``None``: nobody's.

        Raises:
            MandateNotFoundError: There is none.
            ForbiddenError: It, or one above it, is not in force.
        """
        known = await self._directory.fresh(mandate_id)
        judge_chain(known.mandates, None, now=self._clock.now())
        return await self._directory.authority(known, wallet=None, payee_id=payee_id)

    async def bounds_of_calls(
        self, mandate_id: UUID, *, agent_id: UUID, models: Iterable[str] | None, network: str
    ) -> CallBounds:
        """
        Return what a mandate leaves of calls to models, for an API key of its agent.

        Raises:
            MandateNotFoundError: There is no such mandate of this agent.
            MandateNotForCallsError: Calls cannot keep one of its predicates.
            ForbiddenError: Its chain is not in force.
        """
        known = await self._directory.fresh(mandate_id)
        if known.mandate.agent_id != agent_id:
            message = f"The party has no mandate {mandate_id}."
            raise MandateNotFoundError(message, param="mandate")
        # Opens the scopes that count what the platform gets, where a mandate limits payees.
        authority = await self.authority_of(mandate_id, payee_id=PLATFORM_ID)
        return call_bounds(
            known.mandates,
            scope_ids=paths.path_scopes(
                known.parties, known.mandates, wallet=None, payee_id=authority.payee_id
            ),
            models=models,
            network=network,
            now=self._clock.now(),
        )

    async def renewed(self, authority: Authority) -> Authority:
        """
        Return an authority whose path the ledger called stale, with the current one.
        """
        self._directory.forget_path(authority)
        known = await self._directory.fresh(authority.mandate.mandate_id)
        return await self._directory.authority(
            known, wallet=authority.wallet, payee_id=authority.payee_id
        )

    async def refusal(self, authority: Authority, outcome: Outcome) -> TokenworksError:
        """
        Return the error for a hold that the ledger refused; names what stands in the way.
        """
        if outcome.code not in {Refusal.SCOPE_FROZEN, Refusal.SCOPE_CLOSED}:
            return await self._ledger.refusal(outcome)
        try:
            if authority.wallet is not None:
                await self.wallet_of(authority.wallet, is_fresh=True)
            known = await self._directory.fresh(authority.mandate.mandate_id)
            judge_chain(known.mandates, None, now=self._clock.now())
        except TokenworksError as error:
            return error
        if outcome.code == Refusal.SCOPE_FROZEN:
            return MandateFrozenError("The agent, or someone above it, is frozen.")
        return MandateRevokedError("The agent, or someone above it, is closed.")

    # ----------------------------------------------------------------------- plumbing

    async def _only_mandate(self, agent_id: UUID) -> UUID:
        usable = await self._directory.usable_mandates(agent_id)
        if len(usable) == 1:
            return usable[0]
        if not usable:
            raise MandateRequiredError("The agent has no mandate that is in force.")
        message = "The agent has more than one mandate: the signature has to name one."
        raise MandateRequiredError(message, param="mandate")
