"""
Escrows: opened by a wallet's signature, ended by a condition, by time or by an arbiter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, cast
from uuid import UUID

from fastapi import APIRouter, Query, Request

from tokenworks.agents.escrow.errors import ResultInvalidError
from tokenworks.agents.escrow.model import (
    CALLS_MAX,
    Actor,
    Decision,
    Escrow,
    EscrowEvent,
    EscrowState,
    Evidence,
    MilestoneStanding,
    Share,
    Submission,
)
from tokenworks.agents.escrow.result import read_strictly
from tokenworks.agents.escrow.totalling import read_calls
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import ASSETS, PPM, Amount
from tokenworks.identity.model import Principal, Role
from tokenworks.web.hub_api.access import Caller, Services
from tokenworks.web.hub_api.bodies import PageParameters
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.escrows import (
    ArbitrateIn,
    AttestationShape,
    AttestIn,
    DecisionShape,
    DisputeIn,
    EscrowDetailShape,
    EscrowEventShape,
    EscrowShape,
    EvidenceIn,
    MilestoneShape,
    PartIn,
    SubmissionShape,
    VerdictShape,
)
from tokenworks.web.hub_api.shapes.parts import Page

router: Final = APIRouter(tags=["escrows"])

_OPEN_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["authorisation", "terms"],
                    "properties": {
                        "authorisation": {"type": "string"},
                        "terms": {"type": "object"},
                    },
                }
            }
        },
    }
}
_SUBMIT_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["milestone", "result"],
                    "properties": {
                        "milestone": {"type": "string"},
                        "result": {"type": "object"},
                        "attestations": {"type": "array", "items": {"type": "string"}},
                        "calls": {
                            "type": "array",
                            "items": {"type": "string", "format": "uuid"},
                            "maxItems": CALLS_MAX,
                        },
                    },
                }
            }
        },
    }
}


@router.post("/escrows", status_code=201, openapi_extra=_OPEN_BODY)
async def open_escrow(request: Request, services: Services, _caller: Caller) -> EscrowShape:
    """
    Open an escrow: ``authorisation`` (a wallet's JWS) and ``terms``; the same one again is it.
    """
    # Read strictly, not by the usual parser: what was signed must mean one thing.
    body = _members(await request.body(), {"authorisation", "terms"})
    terms, jws = body.get("terms"), body.get("authorisation")
    if not isinstance(terms, dict) or not isinstance(jws, str):
        message = "Send authorisation (a JWS) and terms (an object)."
        raise InvalidError(message, param="terms")
    escrow = await services.agents.escrows.open(jws, cast("dict[str, object]", terms))
    return to_escrow(escrow)


@router.get("/escrows")
async def list_escrows(
    services: Services,
    caller: Caller,
    page: PageParameters,
    state: Annotated[EscrowState | None, Query()] = None,
) -> Page[EscrowShape]:
    """
    List escrows in which the caller has a part, newest first; an admin sees all.
    """
    rows, following = await services.agents.escrows.list_escrows(
        by=actor_of(caller), state=state, cursor=page.cursor, limit=page.limit
    )
    return Page(items=[to_escrow(row) for row in rows], next_cursor=following)


@router.get("/escrows/{escrow_id}")
async def show_escrow(escrow_id: UUID, services: Services, caller: Caller) -> EscrowDetailShape:
    """
    Show one escrow with its terms and everything that happened.
    """
    view = await services.agents.escrows.get(escrow_id, by=actor_of(caller))
    escrow = view.escrow
    return EscrowDetailShape(
        **dict(to_escrow(escrow)),
        terms=dict(view.terms),
        sides=sorted(view.sides),
        events=[_to_event(escrow, event) for event in escrow.events],
    )


@router.get("/escrows/{escrow_id}/result")
async def show_result(
    escrow_id: UUID, milestone: str, services: Services, caller: Caller
) -> dict[str, Any]:
    """
    Show what was last submitted for a milestone.
    """
    content = await services.agents.escrows.result(escrow_id, milestone, by=actor_of(caller))
    if content is None:
        message = "Nothing was submitted for this milestone."
        raise ResultInvalidError(message, param="milestone")
    return cast("dict[str, Any]", read_strictly(content))


@router.post("/escrows/{escrow_id}/submit", openapi_extra=_SUBMIT_BODY)
async def submit(
    escrow_id: UUID, request: Request, services: Services, caller: Caller
) -> EscrowShape:
    """
    Hand in ``result`` for a ``milestone`` with verifiers' ``attestations``; as the payee.

    ``calls`` are ids of calls that it made: what the hub metered in them is ``result.metered``.
    """
    body = _members(await request.body(), {"milestone", "result", "attestations", "calls"})
    milestone, attestations = body.get("milestone"), body.get("attestations", [])
    if not isinstance(milestone, str):
        raise InvalidError("Name the milestone.", param="milestone")
    if not isinstance(attestations, list):
        raise InvalidError("attestations is a list of JWS.", param="attestations")
    statements = cast("list[object]", attestations)
    if not all(isinstance(item, str) for item in statements):
        raise InvalidError("attestations is a list of JWS.", param="attestations")
    escrow = await services.agents.escrows.submit(
        escrow_id,
        milestone,
        body.get("result"),
        cast("list[str]", statements),
        calls=read_calls(body.get("calls", [])),
        by=actor_of(caller),
    )
    return to_escrow(escrow)


@router.post("/escrows/{escrow_id}/attest")
async def attest(
    escrow_id: UUID, body: AttestIn, services: Services, caller: Caller
) -> EscrowShape:
    """
    Hand in verifiers' statements about the last submission.
    """
    escrow = await services.agents.escrows.attest(
        escrow_id, body.milestone, body.attestations, by=actor_of(caller)
    )
    return to_escrow(escrow)


@router.post("/escrows/{escrow_id}/dispute")
async def dispute(
    escrow_id: UUID, body: DisputeIn, services: Services, caller: Caller
) -> EscrowShape:
    """
    Stop milestones until the arbiter decides; as payer or payee.
    """
    escrow = await services.agents.escrows.dispute(
        escrow_id,
        body.milestones,
        reason=body.reason,
        evidence=[Evidence(sha256=item.sha256, uri=item.uri) for item in body.evidence],
        by=actor_of(caller),
    )
    return to_escrow(escrow)


@router.post("/escrows/{escrow_id}/arbitrate")
async def arbitrate(
    escrow_id: UUID, body: ArbitrateIn, services: Services, caller: Caller
) -> EscrowShape:
    """
    Decide disputed milestones for good; as the arbiter.
    """
    actor = actor_of(caller)
    view = await services.agents.escrows.get(escrow_id, by=actor)
    shares = {part.milestone: _share_of(part, view.escrow.currency) for part in body.parts}
    if len(shares) != len(body.parts):
        raise InvalidError("Name each milestone once.", param="parts")
    escrow = await services.agents.escrows.arbitrate(
        escrow_id, shares, reason=body.reason, by=actor
    )
    return to_escrow(escrow)


@router.post("/escrows/{escrow_id}/cancel")
async def cancel(escrow_id: UUID, services: Services, caller: Caller) -> EscrowShape:
    """
    Let an escrow go (payee), or ask the payee to (payer).
    """
    return to_escrow(await services.agents.escrows.cancel(escrow_id, by=actor_of(caller)))


def actor_of(principal: Principal) -> Actor:
    """
    Return the caller as escrows know it.
    """
    is_key = principal.wallet is None
    return Actor(
        party_id=principal.party_id,
        name=f"key {principal.key_id}" if is_key else f"wallet {principal.wallet}",
        is_admin=principal.role is Role.ADMIN,
    )


def to_escrow(escrow: Escrow) -> EscrowShape:
    """
    Return an escrow as it is shown.
    """
    return EscrowShape(
        escrow_id=escrow.escrow_id,
        state=escrow.state.value,
        payer_agent=escrow.payer_agent_id,
        organisation=escrow.organisation_id,
        mandate=escrow.mandate_id,
        payee=escrow.payee_id,
        arbiter=escrow.terms.arbiter_id,
        currency=escrow.currency,
        amount=amount_text(escrow.quanta, escrow.currency),
        captured=amount_text(escrow.captured_quanta, escrow.currency),
        terms_sha256=escrow.terms_sha256,
        created_at=escrow.created_at,
        submit_by=escrow.terms.submit_by,
        decided_at=escrow.decided_at,
        cancel_asked_at=escrow.cancel_asked_at,
        milestones=[
            _to_milestone(escrow, place, milestone)
            for place, milestone in enumerate(escrow.milestones)
        ],
    )


def _to_milestone(escrow: Escrow, place: int, milestone: MilestoneStanding) -> MilestoneShape:
    agreed = escrow.terms.milestones[place]
    decision = milestone.decision
    return MilestoneShape(
        name=agreed.name,
        amount=amount_text(agreed.quanta, escrow.currency),
        condition=agreed.condition,
        state=milestone.state.value,
        submission=_to_submission(milestone.submission) if milestone.submission else None,
        disputed_by=milestone.disputed_by,
        decision=None if decision is None else _to_decision(escrow, decision),
    )


def _to_submission(submission: Submission) -> SubmissionShape:
    verdict = submission.verdict
    return SubmissionShape(
        number=submission.number,
        submitted_at=submission.submitted_at,
        result_sha256=submission.result_sha256,
        attestations=[
            AttestationShape(
                verifier=item.verifier,
                sha256=item.sha256,
                claims=dict(item.claims),
                refusal=item.refusal,
            )
            for item in submission.attestations
        ],
        verdict=None
        if verdict is None
        else VerdictShape(
            is_met=verdict.is_met,
            share=f"{verdict.share.part}/{verdict.share.whole}",
            error=verdict.error,
            engine=verdict.engine,
        ),
        waits_for=list(submission.silent),
        calls=list(submission.calls),
        metered=None if submission.metered is None else dict(submission.metered),
        metered_sha256=submission.metered_sha256,
    )


def _to_decision(escrow: Escrow, decision: Decision) -> DecisionShape:
    carried_out = escrow.decisions[decision.ordinal].is_carried_out
    path = f"/hub/v1/payments/{escrow.escrow_id}/receipt?ordinal={decision.capture}"
    return DecisionShape(
        amount=amount_text(decision.quanta, escrow.currency),
        ground=decision.ground.value,
        reason=decision.reason,
        decided_at=decision.decided_at,
        is_carried_out=carried_out,
        receipt=path if carried_out and decision.capture is not None else None,
    )


def _to_event(escrow: Escrow, event: EscrowEvent) -> EscrowEventShape:
    place = event.milestone
    return EscrowEventShape(
        kind=event.kind.value,
        occurred_at=event.occurred_at,
        actor=event.actor,
        milestone=None if place is None else escrow.terms.milestones[place].name,
        reason=event.reason or (event.decision.reason if event.decision else ""),
        evidence=_to_evidence(event.evidence),
    )


def _to_evidence(evidence: Sequence[Evidence]) -> list[EvidenceIn]:
    return [EvidenceIn(sha256=item.sha256, uri=item.uri) for item in evidence]


def _share_of(part: PartIn, currency: str) -> Share | int:
    if part.ppm is not None:
        return Share(part=part.ppm, whole=PPM)
    assert part.amount is not None, "one of the two is there"
    return Amount.from_text(part.amount, ASSETS[currency]).quanta


def _members(content: bytes, known: set[str]) -> Mapping[str, object]:
    body = read_strictly(content)
    if not isinstance(body, dict):
        raise InvalidError("Send a JSON object.")
    members = cast("dict[str, object]", body)
    unknown = sorted(members.keys() - known)
    if unknown:
        raise InvalidError(f"{unknown[0][:64]!r} is not known here.", param=unknown[0][:64])
    return members
