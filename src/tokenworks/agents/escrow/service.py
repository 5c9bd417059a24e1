"""
Open, submit, dispute, arbitrate, cancel and show escrows.

Order of an escrow's life: ``open`` -> ``submit``/``attest``* -> (``dispute`` -> ``arbitrate``) ->
over. Each may be repeated: the same authorisation is the same escrow, the same submission the same
verdict. What is decided is written down first; the money follows (``advancing.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast
from uuid import UUID

import structlog

from tokenworks.agents.brake.model import Subject
from tokenworks.agents.escrow import deciding
from tokenworks.agents.escrow.advancing import HUB, RETRY, Advancing
from tokenworks.agents.escrow.attestation import judge_attestation
from tokenworks.agents.escrow.deciding import PAYEE, PAYER
from tokenworks.agents.escrow.errors import (
    CallUsedError,
    ConditionInvalidError,
    EscrowConflictError,
    EscrowForbiddenError,
    EscrowNotFoundError,
    ResultInvalidError,
    TermsInvalidError,
)
from tokenworks.agents.escrow.model import (
    ATTESTATIONS_MAX,
    Actor,
    Attestation,
    Escrow,
    EscrowEvent,
    EscrowState,
    EscrowTerms,
    EventKind,
    Evidence,
    JsonObject,
    Share,
    Submission,
)
from tokenworks.agents.escrow.ports import (
    Evaluator,
    MandateBook,
    MeteredCalls,
    Parties,
    Purse,
)
from tokenworks.agents.escrow.result import canonical, check_result, sha256_hex, validate
from tokenworks.agents.escrow.store import EscrowStore, NewEscrow, StoredEscrow
from tokenworks.agents.escrow.terms import (
    METHOD,
    check_terms,
    check_time,
    read_terms,
    terms_url,
)
from tokenworks.agents.escrow.totalling import (
    check_calls,
    metered_facts,
    metered_sha256,
    sorted_calls,
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
from tokenworks.foundation.errors import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    TokenworksError,
)
from tokenworks.foundation.money import ASSETS
from tokenworks.ledger.model import Fate
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.receipts.jws import to_base64url

LAPSE_AFTER: Final = timedelta(hours=1)
"""So long after its authorisation's end an escrow that was never held is given up."""
DUE_MAX: Final = 100
REASON_CHARACTERS_MAX: Final = 2_000
ARBITER: Final = "arbiter"

_NO_BODY: Final = to_base64url(hashlib.sha256(b"").digest())

_log = structlog.get_logger("tokenworks.escrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowView:
    """
    An escrow and what the caller is to it.
    """

    escrow: Escrow
    terms: Mapping[str, object]  # as they were signed
    sides: frozenset[str]  # ``payer``, ``payee``, ``arbiter``; an operator may be none


class Escrows:
    """
    Payments that are due when a condition is met.

    Args:
        pool: Where escrows are written down.
        purse: Holds and moves the money.
        mandates: Says what a wallet may spend.
        parties: Knows who belongs to whom.
        evaluator: Evaluates conditions.
        calls: Knows what calls of models used.
        clock: When something is due.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        purse: Purse,
        mandates: MandateBook,
        parties: Parties,
        evaluator: Evaluator,
        calls: MeteredCalls,
        clock: Clock,
    ) -> None:
        self._purse = purse
        self._mandates = mandates
        self._parties = parties
        self._evaluator = evaluator
        self._calls = calls
        self._clock = clock
        self._store = EscrowStore(pool)
        self._advancing = Advancing(self._store, purse=purse, evaluator=evaluator, clock=clock)

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        await self._store.ensure_partitions()

    # ------------------------------------------------------------------ opening

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
        return await self._standing(authorisation.payment_id)

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

    # ------------------------------------------------------------------ delivering

    async def submit(
        self,
        escrow_id: UUID,
        milestone: str,
        result: object,
        attestations: Sequence[str] = (),
        *,
        calls: Sequence[UUID] = (),
        by: Actor,
    ) -> Escrow:
        """
        Hand in a result for a milestone; its condition is evaluated before this returns.

        A statement that does not count is kept with the reason, and the condition cannot see it.

        Args:
            escrow_id: Which escrow.
            milestone: Which part of it.
            result: JSON, as ``read_strictly`` gave it.
            attestations: Verifiers' statements (JWS).
            calls: Calls of models that the payee made for it, in any order; a call serves one
                milestone of one escrow.
            by: The payee.

        Raises:
            CallsInvalidError, CallUnknownError, CallForeignError, CallFailedError,
            CallTooOldError, CallUsedError: A call does not count; nothing is stored.
            ResultInvalidError, ResultTooLargeError: The result is not as the terms say.
            EscrowForbiddenError: The caller is not the payee.
            EscrowStateError: It is too late, or decided.
        """
        stored, sides = await self._visible(escrow_id, by)
        _require(PAYEE, sides)
        place = _place_of(stored.escrow, milestone)
        content = check_result(result)
        document = cast("dict[str, object]", result)
        # Off the loop: a result of ten thousand values takes a while.
        await asyncio.to_thread(validate, document, stored.escrow.terms.result_schema)
        sha256 = sha256_hex(content)
        judged = self._judged(stored.escrow, place, sha256, attestations)
        named = sorted_calls(calls)
        metered = await self._metered(stored.escrow, place, named)
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            now = self._advancing.now(locked.escrow)
            last = locked.escrow.milestones[place].submission
            submission = Submission(
                number=1 if last is None else last.number + 1,
                submitted_at=now,
                result_sha256=sha256,
                attestations=judged,
                calls=named,
                metered=metered,
                metered_sha256=None if metered is None else metered_sha256(metered),
            )
            events = deciding.submit(
                locked.escrow, place, submission, result=content, actor=by.name, now=now
            )
            if events:
                await self._claim(connection, escrow_id, place, named, now)
                await self._advancing.append(connection, locked, events)
        return await self._advanced(escrow_id)

    async def _metered(
        self, escrow: Escrow, place: int, call_ids: Sequence[UUID]
    ) -> JsonObject | None:
        """
        Return what was metered in the payee's calls; ``None`` when none is named.
        """
        if not call_ids:
            return None
        deciding.require_funded(escrow)
        last = escrow.milestones[place].submission
        if last is not None and last.calls == call_ids:
            # A repeat is answered by what is recorded, also when the calls are archived by now.
            return last.metered
        calls = await self._calls.metered_calls(call_ids)
        own = {
            party_id
            for party_id in {call.party_id for call in calls}
            if escrow.payee_id in {one.party_id for one in await self._parties.get_chain(party_id)}
        }
        opened_at = next(
            event.occurred_at for event in escrow.events if event.kind is EventKind.OPENED
        )
        check_calls(call_ids, calls, own_parties=own, opened_at=opened_at)
        return metered_facts(calls)

    async def _claim(
        self,
        connection: Connection,
        escrow_id: UUID,
        milestone: int,
        call_ids: Sequence[UUID],
        now: datetime,
    ) -> None:
        """
        Bind calls to a milestone in the transaction that writes the submission, or end it.
        """
        if not call_ids:
            return
        taken = await self._store.claim_calls(
            connection, call_ids, escrow_id=escrow_id, milestone=milestone, now=now
        )
        if taken:
            message = f"The call {taken[0]} already serves another milestone or escrow."
            raise CallUsedError(message, param="calls")

    async def attest(
        self, escrow_id: UUID, milestone: str, attestations: Sequence[str], *, by: Actor
    ) -> Escrow:
        """
        Hand in verifiers' statements about the last submission of a milestone.

        Each side may: a payee cannot keep back what speaks against it. From others than the
        payee a statement that does not count is refused and not kept.

        Raises:
            ResultInvalidError: A statement does not count; ``code`` is ``attestation_..``.
            EscrowStateError: Nothing was submitted.
        """
        stored, sides = await self._visible(escrow_id, by)
        place = _place_of(stored.escrow, milestone)
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            submission = locked.escrow.milestones[place].submission
            sha256 = "" if submission is None else submission.result_sha256
            judged = self._judged(locked.escrow, place, sha256, attestations)
            refusal = next((item.refusal for item in judged if item.refusal), None)
            if refusal is not None and PAYEE not in sides and submission is not None:
                message = f"The statement does not count: {refusal.replace('_', ' ')}."
                raise ResultInvalidError(message, code=f"attestation_{refusal}")
            now = self._advancing.now(locked.escrow)
            events = deciding.attest(locked.escrow, place, judged, actor=by.name, now=now)
            if events:
                await self._advancing.append(connection, locked, events)
        return await self._advanced(escrow_id)

    def _judged(
        self, escrow: Escrow, place: int, result_sha256: str, attestations: Sequence[str]
    ) -> tuple[Attestation, ...]:
        if len(attestations) > ATTESTATIONS_MAX:
            message = f"A submission has at most {ATTESTATIONS_MAX} attestations."
            raise InvalidError(message, param="attestations")
        return tuple(
            judge_attestation(
                jws,
                escrow_id=escrow.escrow_id,
                milestone=escrow.terms.milestones[place].name,
                result_sha256=result_sha256,
                verifiers=escrow.terms.verifiers,
                now=self._clock.now(),
            )
            for jws in dict.fromkeys(attestations)
        )

    # ------------------------------------------------------------------ people

    async def dispute(
        self,
        escrow_id: UUID,
        milestones: Sequence[str],
        *,
        reason: str,
        evidence: Sequence[Evidence] = (),
        by: Actor,
    ) -> Escrow:
        """
        Stop milestones until the arbiter decides; again: add evidence.

        Raises:
            EscrowForbiddenError: The caller is neither payer nor payee.
            EscrowStateError: Nothing is there to dispute, or it is decided.
        """
        stored, sides = await self._visible(escrow_id, by)
        side = next((side for side in (PAYER, PAYEE) if side in sides), None)
        if side is None:
            raise EscrowForbiddenError("Only payer and payee dispute.")
        places = _places_of(stored.escrow, milestones)
        _check_reason(reason)
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            events = deciding.dispute(
                locked.escrow,
                places,
                by=side,
                reason=reason,
                evidence=evidence,
                actor=by.name,
                now=self._advancing.now(locked.escrow),
            )
            await self._advancing.append(connection, locked, events)
        return await self._standing(escrow_id)

    async def arbitrate(
        self,
        escrow_id: UUID,
        shares: Mapping[str, Share | int],
        *,
        reason: str,
        by: Actor,
    ) -> Escrow:
        """
        Decide disputed milestones, for good.

        Args:
            escrow_id: Which escrow.
            shares: By milestone what the payee gets: a share of it, or quanta.
            reason: Why; it stands on the receipt.
            by: The named arbiter, else an operator of the hub; never a side.

        Raises:
            EscrowForbiddenError: The caller is not the arbiter.
            EscrowStateError: A milestone is not disputed.
        """
        stored, sides = await self._visible(escrow_id, by)
        _require(ARBITER, sides)
        _check_reason(reason)
        places = _places_of(stored.escrow, list(shares))
        quanta: dict[int, int] = {}
        for place, share in zip(places, shares.values(), strict=True):
            whole = stored.escrow.terms.milestones[place].quanta
            amount = share if isinstance(share, int) else share.of_quanta(whole)
            if not 0 <= amount <= whole:
                raise InvalidError("A part is at most the milestone's amount.", param="parts")
            quanta[place] = amount
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            events = deciding.arbitrate(
                locked.escrow,
                quanta,
                reason=reason,
                actor=by.name,
                now=self._advancing.now(locked.escrow),
            )
            await self._advancing.append(connection, locked, events)
        return await self._advanced(escrow_id)

    async def cancel(self, escrow_id: UUID, *, by: Actor) -> Escrow:
        """
        Let an escrow go (payee), or ask the payee to (payer, before a submission).

        Raises:
            EscrowForbiddenError: The caller is neither.
            EscrowStateError: It is too late.
        """
        _, sides = await self._visible(escrow_id, by)
        side = next((side for side in (PAYEE, PAYER) if side in sides), None)
        if side is None:
            raise EscrowForbiddenError("Only payer and payee cancel.")
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            now = self._advancing.now(locked.escrow)
            events = deciding.cancel(locked.escrow, by=side, actor=by.name, now=now)
            if events:
                await self._advancing.append(connection, locked, events)
        return await self._advanced(escrow_id)

    # ------------------------------------------------------------------ looking

    async def get(self, escrow_id: UUID, *, by: Actor) -> EscrowView:
        """
        Return an escrow that the caller has a part in.

        Raises:
            EscrowNotFoundError: There is none, or the caller has no part in it.
        """
        stored, sides = await self._visible(escrow_id, by)
        return EscrowView(escrow=stored.escrow, terms=stored.terms, sides=sides)

    async def result(self, escrow_id: UUID, milestone: str, *, by: Actor) -> bytes | None:
        """
        Return what was last submitted for a milestone, as canonical JSON.

        Raises:
            EscrowNotFoundError: There is no such escrow or milestone for the caller.
        """
        stored, _ = await self._visible(escrow_id, by)
        return await self._store.result(escrow_id, _place_of(stored.escrow, milestone))

    async def list_escrows(
        self, *, by: Actor, state: EscrowState | None, cursor: str | None, limit: int
    ) -> tuple[list[Escrow], str | None]:
        """
        Return one page of the caller's escrows (an operator's: all), newest first.
        """
        rows, following = await self._store.list_escrows(
            within_party_id=None if by.is_admin else by.party_id,
            state=state,
            cursor=cursor,
            limit=limit,
        )
        return [row.escrow for row in rows], following

    async def _visible(self, escrow_id: UUID, by: Actor) -> tuple[StoredEscrow, frozenset[str]]:
        stored = await self._store.get(escrow_id)
        sides = frozenset[str]() if stored is None else await self._sides(stored, by)
        if stored is None or not (sides or by.is_admin):
            raise EscrowNotFoundError(f"There is no escrow {escrow_id}.", param="escrow_id")
        return stored, sides

    async def _sides(self, stored: StoredEscrow, by: Actor) -> frozenset[str]:
        """
        Return what a caller is to an escrow: a key acts for its party and all below it.
        """
        escrow = stored.escrow
        sides: set[str] = set()
        for side, party_id in (
            (PAYER, escrow.payer_agent_id),
            (PAYEE, escrow.payee_id),
            (ARBITER, escrow.terms.arbiter_id),
        ):
            if party_id is None:
                continue
            chain = await self._parties.get_chain(party_id)
            if by.party_id in {party.party_id for party in chain}:
                sides.add(side)
        if by.is_admin and self._operator_may_arbitrate(escrow):
            sides.add(ARBITER)
        if sides & {PAYER, PAYEE}:
            sides.discard(ARBITER)
        return frozenset(sides)

    def _operator_may_arbitrate(self, escrow: Escrow) -> bool:
        """
        Let the operator decide where no arbiter is named, or the named one let its time pass.
        """
        if escrow.terms.arbiter_id is None:
            return True
        patience = timedelta(seconds=escrow.terms.decide_by_s)
        times = [item.disputed_at for item in escrow.milestones if item.disputed_at is not None]
        return bool(times) and min(times) + patience <= self._clock.now()

    async def _advanced(self, escrow_id: UUID) -> Escrow:
        try:
            await self._advancing.advance(escrow_id)
        except TokenworksError as error:
            # What was asked for is recorded; the worker goes on with it.
            _log.warning("escrow_not_advanced", escrow_id=str(escrow_id), code=error.code)
        return await self._standing(escrow_id)

    async def _standing(self, escrow_id: UUID) -> Escrow:
        stored = await self._store.get(escrow_id)
        assert stored is not None, "an escrow is never deleted"
        return stored.escrow

    # ------------------------------------------------------------------ time

    async def settle_due(self, limit: int = DUE_MAX) -> int:
        """
        Do what time brings about, and finish what others began; return how many were looked at.
        """
        due = await self._store.due(self._clock.now(), limit)
        for escrow_id in due:
            stored = await self._store.get(escrow_id)
            assert stored is not None, "it was due a moment ago"
            if stored.escrow.state is not EscrowState.OPENING:
                continue
            try:
                await self._look_after(stored)
            except TokenworksError as error:
                _log.warning("escrow_not_opened", escrow_id=str(escrow_id), code=error.code)
        await self._advancing.advance_some(due)
        return len(due)

    async def _look_after(self, stored: StoredEscrow) -> None:
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


def _place_of(escrow: Escrow, milestone: str) -> int:
    names = [item.name for item in escrow.terms.milestones]
    if milestone not in names:
        message = f"This escrow has the milestones {', '.join(names)}."
        raise EscrowNotFoundError(message, code="milestone_not_found", param="milestone")
    return names.index(milestone)


def _places_of(escrow: Escrow, milestones: Sequence[str]) -> list[int]:
    places = [_place_of(escrow, name) for name in milestones]
    if not places or len(set(places)) != len(places):
        raise InvalidError("Name at least one milestone, each once.", param="milestones")
    return places


def _require(side: str, sides: frozenset[str]) -> None:
    if side not in sides:
        raise EscrowForbiddenError(f"Only the {side} of this escrow may do this.")


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason.strip()) <= REASON_CHARACTERS_MAX:
        message = f"A reason has 1 to {REASON_CHARACTERS_MAX} characters."
        raise InvalidError(message, param="reason")
