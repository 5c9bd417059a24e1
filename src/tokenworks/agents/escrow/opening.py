"""
Open escrows: what a wallet signed is written down first, then its money is held.

Whoever dies in between leaves an escrow in ``opening``; ``look_after`` finds out what became of
it: held after all, waiting for people, refused, or never to be held any more.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.model import Subject
from tokenworks.agents.escrow.advancing import HUB, RETRY, Advancing
from tokenworks.agents.escrow.errors import (
    ConditionInvalidError,
    EscrowConflictError,
    TermsInvalidError,
)
from tokenworks.agents.escrow.model import (
    Escrow,
    EscrowEvent,
    EscrowState,
    EscrowTerms,
    EventKind,
)
from tokenworks.agents.escrow.ports import Evaluator, MandateBook, Parties, Purse
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.agents.escrow.store import EscrowStore, NewEscrow, StoredEscrow
from tokenworks.agents.escrow.terms import (
    METHOD,
    check_terms,
    check_time,
    read_terms,
    terms_url,
)
from tokenworks.agents.mandates.model import Authority, Purchase
from tokenworks.agents.payments.authorising import (
    check_requirements,
    check_times,
    read_authorisation,
)
from tokenworks.agents.payments.errors import PaymentDeniedError, PaymentInReviewError
from tokenworks.agents.payments.identifying import request_digest_of
from tokenworks.agents.payments.model import (
    HOLD_LIFETIME_S_MAX,
    Authorisation,
    Binding,
    PaymentState,
    Requirements,
    Scheme,
)
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ForbiddenError, NotFoundError
from tokenworks.foundation.money import ASSETS
from tokenworks.ledger.model import Fate
from tokenworks.receipts.jws import to_base64url

LAPSE_AFTER: Final = timedelta(hours=1)
"""So long after its authorisation's end an escrow that was never held is given up."""

_NO_BODY: Final = to_base64url(hashlib.sha256(b"").digest())


class Opening:
    """
    Hold what wallets authorised.
    """

    def __init__(
        self,
        store: EscrowStore,
        advancing: Advancing,
        *,
        purse: Purse,
        mandates: MandateBook,
        parties: Parties,
        evaluator: Evaluator,
        clock: Clock,
    ) -> None:
        self._store = store
        self._advancing = advancing
        self._purse = purse
        self._mandates = mandates
        self._parties = parties
        self._evaluator = evaluator
        self._clock = clock

    async def open(self, jws: str, terms: Mapping[str, object]) -> Escrow:
        """
        Hold what a wallet authorised until its terms are fulfilled; once per authorisation.

        Args:
            jws: Scheme ``upto``, method ``ESCROW``, URL ``escrow:<hash of the terms>``.
            terms: As ``docs/escrow.md`` says, JSON that ``read_strictly`` gave.

        Raises:
            TermsInvalidError, ConditionInvalidError: The terms cannot be agreed to.
            EscrowConflictError: The authorisation stands for another escrow.
            PaymentInReviewError: A person decides; the escrow goes on by itself afterwards.
            TokenworksError: Signature, mandate, brake, money or a limit refuse.
        """
        authorisation = read_authorisation(jws, network=self._purse.network)
        content = canonical(terms)
        stored = await self._store.get(authorisation.payment_id)
        if stored is None:
            await self._write_down(authorisation, terms, content)
            stored = await self._store.get(authorisation.payment_id)
        assert stored is not None, "it was written down, now or before"
        if stored.digest != authorisation.digest or canonical(stored.terms) != content:
            raise EscrowConflictError("This authorisation stands for another escrow.")
        if stored.escrow.state is EscrowState.OPENING:
            await self._fund(stored, authorisation)
        stored = await self._store.get(authorisation.payment_id)
        assert stored is not None, "an escrow is never deleted"
        return stored.escrow

    async def _write_down(
        self, authorisation: Authorisation, terms: Mapping[str, object], content: bytes
    ) -> None:
        now = self._clock.now()
        asset = ASSETS[authorisation.asset]
        agreed = read_terms(terms, asset)
        check_terms(agreed)
        sha256 = sha256_hex(content)
        total = sum(milestone.quanta for milestone in agreed.milestones)
        check_requirements(
            authorisation, _requirements(authorisation, sha256, total), is_settling=False
        )
        check_times(authorisation, now=now)
        check_time(agreed, now)
        for milestone in agreed.milestones:
            fault = await self._evaluator.check(milestone.condition)
            if fault is not None:
                message = f"Milestone {milestone.name!r}: {fault}"
                raise ConditionInvalidError(message, param="milestones")
        authority = await self._authority(authorisation)
        payee = await self._parties.get_party(authorisation.pay_to)
        organisation_id = authority.mandate.organisation_id
        await self._check_arbiter(agreed, {organisation_id, payee.organisation_id})
        await self._store.add(
            NewEscrow(
                escrow_id=authorisation.payment_id,
                payer_agent_id=authority.mandate.agent_id,
                organisation_id=organisation_id,
                mandate_id=authority.mandate.mandate_id,
                payee_id=payee.party_id,
                payee_organisation_id=payee.organisation_id,
                arbiter_id=agreed.arbiter_id,
                currency=asset.code,
                quanta=total,
                terms=content.decode(),
                terms_sha256=sha256,
                authorisation=authorisation.jws,
                digest=authorisation.digest,
                authorisation_ends_at=authorisation.expires_at,
                now=now,
                due_at=now + RETRY,
            )
        )

    async def _check_arbiter(self, terms: EscrowTerms, sides: set[UUID]) -> None:
        if terms.arbiter_id is None:
            return
        try:
            arbiter = await self._parties.get_party(terms.arbiter_id)
        except NotFoundError as error:
            raise TermsInvalidError("There is no such arbiter.", param="arbiter") from error
        if arbiter.organisation_id in sides:
            message = "The arbiter belongs to neither payer nor payee."
            raise TermsInvalidError(message, param="arbiter")

    async def _authority(self, authorisation: Authorisation) -> Authority:
        purchase = Purchase(
            payee_id=authorisation.pay_to,
            quanta=authorisation.amount,
            currency=authorisation.asset,
            instrument=authorisation.network,
            reference=authorisation.reference,
        )
        return await self._mandates.authorise(
            authorisation.payer, authorisation.mandate_id, purchase, now=self._clock.now()
        )

    async def _fund(self, stored: StoredEscrow, authorisation: Authorisation) -> None:
        escrow = stored.escrow
        await self._require_in_time(authorisation)
        authority = await self._authority(authorisation)
        binding = authorisation.binding
        subject = Subject(
            payment_id=escrow.escrow_id,
            digest=authorisation.digest,
            agent_id=escrow.payer_agent_id,
            mandate_id=escrow.mandate_id,
            organisation_id=escrow.organisation_id,
            party_chain=authority.party_chain,
            payee_id=escrow.payee_id,
            quanta=escrow.quanta,
            currency=escrow.currency,
            resource=terms_url(escrow.terms_sha256),
            request_digest=request_digest_of(binding.method, binding.url, binding.body_sha256),
            description=", ".join(milestone.name for milestone in escrow.terms.milestones),
        )
        await self._purse.hold(
            authority,
            subject,
            quanta=escrow.quanta,
            expires_at=escrow.terms.submit_by + timedelta(seconds=escrow.terms.decide_by_s),
            fate=Fate.WAIT,
            payer=authorisation.payer,
            jws=authorisation.jws,
        )
        await self._add_once(escrow.escrow_id, EventKind.OPENED, actor=authorisation.payer)

    async def _require_in_time(self, authorisation: Authorisation) -> None:
        """
        Refuse to hold anything new by an authorisation that has expired.

        What is held already, e.g. until people have decided, goes on.
        """
        try:
            await self._purse.get(authorisation.payment_id)
        except NotFoundError:
            check_times(authorisation, now=self._clock.now())

    async def _add_once(self, escrow_id: UUID, kind: EventKind, *, actor: str) -> None:
        """
        Say that an escrow is funded, or never will be; the first word counts.
        """
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "it was written down before"
            if locked.escrow.state is EscrowState.OPENING:
                now = self._advancing.now(locked.escrow)
                event = EscrowEvent(kind=kind, occurred_at=now, actor=actor)
                await self._advancing.append(connection, locked, [event])

    async def look_after(self, stored: StoredEscrow) -> None:
        """
        Find out what became of an escrow whose opening was not finished.
        """
        escrow_id = stored.escrow.escrow_id
        try:
            payment = await self._purse.get(escrow_id)
        except NotFoundError:
            # Nothing is held. Only after the authorisation's end can nothing be held any more.
            if self._clock.now() > stored.authorisation_ends_at + LAPSE_AFTER:
                await self._add_once(escrow_id, EventKind.LAPSED, actor=HUB)
            return
        if payment.state in {PaymentState.RELEASED, PaymentState.EXPIRED}:
            await self._add_once(escrow_id, EventKind.LAPSED, actor=HUB)
            return
        if payment.state is PaymentState.HELD:
            await self._add_once(escrow_id, EventKind.OPENED, actor=payment.payer)
            return
        authorisation = read_authorisation(stored.authorisation, network=self._purse.network)
        try:
            await self._fund(stored, authorisation)
        except PaymentInReviewError:
            return
        except (PaymentDeniedError, ForbiddenError):
            # People said no, or the mandate was revoked while they thought.
            with contextlib.suppress(NotFoundError):
                await self._purse.release(escrow_id, reason="escrow: not allowed")
            await self._add_once(escrow_id, EventKind.LAPSED, actor=HUB)


def _requirements(authorisation: Authorisation, sha256: str, quanta: int) -> Requirements:
    return Requirements(
        scheme=Scheme.UPTO,
        network=authorisation.network,
        amount=quanta,
        asset=authorisation.asset,
        pay_to=authorisation.pay_to,
        binding=Binding(method=METHOD, url=terms_url(sha256), body_sha256=_NO_BODY),
        timeout_s=HOLD_LIFETIME_S_MAX,
    )
