"""
Take what a payee delivers and what verifiers say of it; the condition is judged at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import cast
from uuid import UUID

from tokenworks.agents.escrow import deciding
from tokenworks.agents.escrow.access import Access, place_of, require
from tokenworks.agents.escrow.advancing import Advancing
from tokenworks.agents.escrow.attestation import judge_attestation
from tokenworks.agents.escrow.deciding import PAYEE
from tokenworks.agents.escrow.errors import CallUsedError, ResultInvalidError
from tokenworks.agents.escrow.model import (
    ATTESTATIONS_MAX,
    Actor,
    Attestation,
    Escrow,
    EventKind,
    JsonObject,
    Submission,
)
from tokenworks.agents.escrow.ports import MeteredCalls, Parties
from tokenworks.agents.escrow.result import check_result, sha256_hex, validate
from tokenworks.agents.escrow.store import EscrowStore
from tokenworks.agents.escrow.totalling import (
    check_calls,
    metered_facts,
    metered_sha256,
    sorted_calls,
)
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.postgres.pool import Connection


class Delivering:
    """
    Submissions, the calls that they name, and attestations.
    """

    def __init__(
        self,
        store: EscrowStore,
        advancing: Advancing,
        access: Access,
        *,
        parties: Parties,
        calls: MeteredCalls,
        clock: Clock,
    ) -> None:
        self._store = store
        self._advancing = advancing
        self._access = access
        self._parties = parties
        self._calls = calls
        self._clock = clock

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
        stored, sides = await self._access.visible(escrow_id, by)
        require(PAYEE, sides)
        place = place_of(stored.escrow, milestone)
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
        return await self._advancing.advanced(escrow_id)

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
        stored, sides = await self._access.visible(escrow_id, by)
        place = place_of(stored.escrow, milestone)
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
        return await self._advancing.advanced(escrow_id)

    def _judged(
        self, escrow: Escrow, place: int, result_sha256: str, attestations: Sequence[str]
    ) -> tuple[Attestation, ...]:
        if len(attestations) > ATTESTATIONS_MAX:
            message = f"A request has at most {ATTESTATIONS_MAX} attestations."
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
