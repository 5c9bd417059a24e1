"""
Make mandates: judge what is asked for, sign it or check its signature, open its scope.

Order of the checks: the agent (there, an agent, not closed), the parent (there, in force, same
organisation), depth, attenuation against every ancestor, expiry; for a delegation before all
these its signature. The row, the scope, its limits and the path are one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

from tokenworks.agents.mandates import paths, store
from tokenworks.agents.mandates.attenuation import (
    check_attenuated,
    check_depth,
    check_expiry,
    earliest,
)
from tokenworks.agents.mandates.directory import Directory, KnownChain
from tokenworks.agents.mandates.errors import (
    InvalidTermsError,
    MandateConflictError,
    MandateNotFoundError,
    MandateParentError,
    MandateSignatureError,
    NotAnAgentError,
)
from tokenworks.agents.mandates.judging import judge_chain
from tokenworks.agents.mandates.model import Mandate, MandateState, Terms
from tokenworks.agents.mandates.signing import (
    check_delegated,
    moment_of,
    read_mandate,
    seconds_of,
    sign_by_hub,
)
from tokenworks.agents.mandates.terms import check_terms
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.errors import PartyStateError
from tokenworks.identity.model import Level, Party, PartyState
from tokenworks.identity.service import Identity
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.service import ReceiptKeys

LABEL_LENGTH_MAX: Final = 200
CLOCK_SKEW_MAX_S: Final = 60


class Issuing:
    """
    Issue mandates by the hub, and take in those that wallets signed.
    """

    def __init__(
        self,
        pool: Pool,
        directory: Directory,
        *,
        ledger: Ledger,
        identity: Identity,
        keys: ReceiptKeys,
        clock: Clock,
        ids: IdentifierSource,
    ) -> None:
        self._pool = pool
        self._directory = directory
        self._ledger = ledger
        self._identity = identity
        self._keys = keys
        self._clock = clock
        self._ids = ids

    async def issue(
        self,
        agent: UUID | str,
        terms: Terms,
        *,
        parent: UUID | None,
        label: str,
        actor: str,
        expires_at: datetime | None,
        origin: Mapping[str, str] | None = None,
    ) -> Mandate:
        """
        Issue a mandate, signed by the hub; see ``Mandates.issue``.
        """
        check_label(label)
        check_terms(terms)
        parties = await self.agent_chain(agent)
        above = None if parent is None else await self._parent(parent)
        now = moment_of(seconds_of(self._clock.now()))
        if expires_at is not None:
            if expires_at.tzinfo is None:
                message = "A moment names its time zone."
                raise InvalidTermsError(message, param="expires_at")
            expires_at = moment_of(seconds_of(expires_at))
        ends_at = self._judge(terms, parties, above, expires_at=expires_at, now=now)
        agent_id = parties[-1].party_id
        async with self._pool.connection() as connection:
            wallets = await store.wallets_of(connection, [agent_id])
        confirmed = next((w.address for w in wallets if w.revoked_at is None), None)
        mandate_id = self._ids.mint()
        jws = sign_by_hub(
            await self._keys.ensure_lane_key(self._ledger.lane),
            mandate_id=mandate_id,
            agent_id=agent_id,
            terms=terms,
            issued_at=now,
            expires_at=ends_at,
            agent_address=confirmed,
            parent_id=None if above is None else above.mandate.mandate_id,
            parent_jws=None if above is None else above.mandate.jws,
        )
        owner_id = parties[-1].parent_id
        assert owner_id is not None, "an agent has an owner"
        mandate = Mandate(
            mandate_id=mandate_id,
            agent_id=agent_id,
            issuer_id=owner_id,
            organisation_id=parties[0].party_id,
            parent_id=parent,
            depth=1 if above is None else above.mandate.depth + 1,
            terms=terms,
            state=MandateState.ACTIVE,
            label=label,
            jws=jws,
            created_at=now,
            expires_at=ends_at,
            revoked_at=None,
        )
        await self._store(mandate, parties, above, kind="issued", actor=actor, origin=origin or {})
        return mandate

    async def delegate(self, jws: str) -> Mandate:
        """
        Take in a delegation that a wallet signed; see ``Mandates.delegate``.
        """
        signed = read_mandate(jws)
        claims = signed.claims
        known = await self._directory.chain(claims.jti, is_fresh=True)
        if known is not None:
            if known.mandate.jws != jws:
                message = f"The id {claims.jti} names another mandate."
                raise MandateConflictError(message, param="jti")
            return known.mandate
        if claims.parent is None:
            message = "A delegation names its parent; roots are issued by the hub."
            raise MandateParentError(message, param="parent")
        above = await self._parent(claims.parent.id)
        check_delegated(signed, above.mandate)
        await self._check_signer(claims.iss, above.mandate)
        parties = await self.agent_chain(claims.sub)
        now = self._clock.now()
        if seconds_of(now) + CLOCK_SKEW_MAX_S < claims.iat:
            message = "The delegation was signed in the future."
            raise InvalidTermsError(message, param="iat")
        ends_at = self._judge(signed.terms, parties, above, expires_at=signed.expires_at, now=now)
        mandate = Mandate(
            mandate_id=claims.jti,
            agent_id=parties[-1].party_id,
            issuer_id=above.mandate.agent_id,
            organisation_id=above.mandate.organisation_id,
            parent_id=above.mandate.mandate_id,
            depth=above.mandate.depth + 1,
            terms=signed.terms,
            state=MandateState.ACTIVE,
            label="",
            jws=jws,
            created_at=signed.issued_at,
            expires_at=ends_at,
            revoked_at=None,
        )
        await self._store(
            mandate, parties, above, kind="delegated", actor=f"wallet:{signed.claims.iss}"
        )
        return mandate

    async def agent_chain(self, agent: UUID | str) -> tuple[Party, ...]:
        """
        Return an agent and everybody above it, the organisation first.

        Raises:
            PartyNotFoundError: There is no such party.
            NotAnAgentError: It is no agent.
            PartyStateError: It, or somebody above it, is closed.
        """
        parties = await self._identity.get_chain(agent)
        party = parties[-1]
        if party.level is not Level.AGENT:
            message = (
                f"{party.name!r} is on the level {party.level}; wallets and mandates belong to"
                " agents (tokenworks agent add)."
            )
            raise NotAnAgentError(message, param="agent")
        for above in parties:
            if above.state is PartyState.CLOSED:
                message = f"The party {above.name!r} is closed."
                raise PartyStateError(message, param="agent")
        return parties

    async def _parent(self, mandate_id: UUID) -> KnownChain:
        known = await self._directory.chain(mandate_id, is_fresh=True)
        if known is None:
            message = f"There is no mandate {mandate_id}."
            raise MandateNotFoundError(message, param="parent")
        return known

    def _judge(
        self,
        terms: Terms,
        parties: tuple[Party, ...],
        above: KnownChain | None,
        *,
        expires_at: datetime | None,
        now: datetime,
    ) -> datetime | None:
        if terms.currency != self._ledger.currency:
            message = f"This hub's mandates are in {self._ledger.currency}."
            raise InvalidTermsError(message, param="currency")
        ends_at = earliest(expires_at, terms.not_after)
        if above is not None:
            parent = above.mandate
            if parent.organisation_id != parties[0].party_id:
                message = "A mandate is delegated within its organisation only."
                raise NotAnAgentError(message, code="agent_of_other_organisation", param="agent")
            # A parent that begins later may be delegated; one that has ended may not.
            judge_chain([_as_if_begun(mandate) for mandate in above.mandates], None, now=now)
            check_depth(parent)
            for ancestor in above.mandates:
                check_attenuated(terms, ancestor.terms)
            check_expiry(expires_at, parent.expires_at)
            ends_at = earliest(ends_at, parent.expires_at)
        if ends_at is not None:
            ends_at = moment_of(seconds_of(ends_at))
            if ends_at <= now:
                message = "The mandate would have expired before it begins."
                raise InvalidTermsError(message, param="expires_at")
        return ends_at

    async def _check_signer(self, address: str, parent: Mandate) -> None:
        wallet = await self._directory.wallet(address, is_fresh=True)
        if wallet is None or wallet.revoked_at is not None or wallet.agent_id != parent.agent_id:
            message = "The wallet that signed does not speak for the parent's agent (any more)."
            raise MandateSignatureError(message, param="iss")

    async def _store(
        self,
        mandate: Mandate,
        parties: tuple[Party, ...],
        above: KnownChain | None,
        *,
        kind: str,
        actor: str,
        origin: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        over = () if above is None else above.parties
        chain = (mandate,) if above is None else (*above.mandates, mandate)
        own = [party.party_id for party in parties if party.party_id not in over]
        funding = await self._ledger.account(mandate.organisation_id, "cash")
        opening = paths.mandate_opening(
            mandate.mandate_id, mandate.terms, expires_at=mandate.expires_at
        )
        async with self._pool.connection() as connection, connection.transaction():
            if not await store.insert_mandate(connection, mandate):
                # Two processes took in the same delegation at once: the other one's stands.
                stored = await store.read_chain(connection, mandate.mandate_id)
                if stored[-1].jws == mandate.jws:
                    return
                message = f"The id {mandate.mandate_id} names another mandate."
                raise MandateConflictError(message, param="jti")
            await self._ledger.open_path(
                path_id=mandate.mandate_id,
                scope_ids=paths.path_scopes((*over, *own), chain, wallet=None, payee_id=None),
                funding_account=funding,
                opens=[opening],
                actor=actor,
                connection=connection,
            )
            await store.insert_event(
                connection,
                event_id=self._ids.mint(),
                mandate_id=mandate.mandate_id,
                kind=kind,
                happened_at=self._clock.now(),
                actor=actor,
                details=({"label": mandate.label} if mandate.label else {}) | dict(origin),
            )
            await store.notify(connection, str(mandate.agent_id))
        self._directory.forget(str(mandate.agent_id))


def check_label(label: str) -> None:
    """
    Refuse a label that is no short line of text.

    Raises:
        InvalidError: Longer, or with control characters.
    """
    if len(label) > LABEL_LENGTH_MAX or (label and not label.isprintable()):
        message = f"A label has at most {LABEL_LENGTH_MAX} printable characters."
        raise InvalidError(message, code="invalid_label", param="label")


def _as_if_begun(mandate: Mandate) -> Mandate:
    return replace(mandate, terms=replace(mandate.terms, not_before=None))
