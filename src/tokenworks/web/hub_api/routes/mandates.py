"""
Mandates: what agents may spend.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.agents.mandates.ap2 import from_ap2, merchants_of, to_ap2
from tokenworks.agents.mandates.ap2_signed import jwk_thumbprint, read_signed_ap2
from tokenworks.agents.mandates.errors import MandateParentError
from tokenworks.agents.mandates.model import Mandate
from tokenworks.agents.mandates.signing import read_mandate
from tokenworks.agents.mandates.terms import moment_from_text, terms_from_object
from tokenworks.foundation.errors import NotFoundError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.foundation.money import ASSETS, quanta_from_text
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Level, Role
from tokenworks.web.hub_api.access import Caller, Services, actor_of
from tokenworks.web.hub_api.agent_access import (
    owned_chain,
    owned_mandate,
    visible_chain,
    visible_mandate,
)
from tokenworks.web.hub_api.agent_bodies import (
    Ap2In,
    DelegationIn,
    MandateIn,
    MandateQuery,
    RaiseIn,
    TermsIn,
)
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.agents import to_mandate, to_mandate_detail
from tokenworks.web.hub_api.routes.agents import to_frozen
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.agents import Ap2Export, Frozen, MandateDetail, MandateShape
from tokenworks.web.hub_api.shapes.parts import Page

router: Final = APIRouter(tags=["mandates"])

NOT_CHECKED: Final = "NOT CHECKED"


@router.post("/mandates", status_code=201)
async def issue(body: MandateIn, services: Services, caller: Caller) -> MandateDetail:
    """
    Issue a mandate, signed by the hub; with a parent it narrows that one.
    """
    chain = await owned_chain(services, caller, body.agent)
    if body.parent is not None:
        await owned_mandate(services, caller, body.parent)
    fields = body.terms.model_dump(mode="json", exclude_defaults=True)
    fields |= {"currency": body.terms.currency}
    if body.terms.payees is not None:
        fields["payees"] = [str(i) for i in await _payees(services, body.terms)]
    mandate = await services.agents.mandates.issue(
        chain[-1].party_id,
        terms_from_object(fields),
        parent=body.parent,
        label=body.label,
        actor=actor_of(caller, None),
        expires_at=moment_from_text("expires_at", body.expires_at),
    )
    return await _detail(services, mandate.mandate_id)


@router.get("/mandates")
async def list_mandates(
    query: Annotated[MandateQuery, Query()], services: Services, caller: Caller
) -> Page[MandateShape]:
    """
    List mandates, oldest first; who is no admin sees those of agents at or below its party.
    """
    agent_ids: list[UUID] | None = None
    if query.agent is not None:
        agent_ids = [(await visible_chain(services, caller, query.agent))[-1].party_id]
    elif caller.role is not Role.ADMIN and caller.party_id != caller.organisation_id:
        tree = await services.identity.list_tree(caller.party_id, count=10 * PAGE_ROWS_MAX)
        agent_ids = [party.party_id for party in tree if party.level is Level.AGENT]
    rows = await services.agents.mandates.list_mandates(
        agent_ids=agent_ids,
        organisation_id=None if caller.role is Role.ADMIN else caller.organisation_id,
        after=None if query.cursor is None else from_cursor_id(query.cursor),
        count=query.limit,
    )
    await _load_names(services, rows)
    cursor = to_cursor(str(rows[-1].mandate_id)) if len(rows) == query.limit else None
    return Page(items=[to_mandate(row, services.directory) for row in rows], next_cursor=cursor)


@router.post("/mandates/import-ap2", status_code=201)
async def import_ap2(body: Ap2In, services: Services, caller: Caller) -> MandateDetail:
    """
    Issue a mandate that says what an AP2 v0.2 open payment mandate says; all of it, or nothing.

    Whether its signature was checked stands in the mandate's first event.
    """
    chain = await owned_chain(services, caller, body.agent)
    if body.parent is not None:
        await owned_mandate(services, caller, body.parent)
    claims, origin = _ap2_claims(body)
    payees: dict[str, UUID] = {}
    for merchant in merchants_of(claims):
        # Who is not named stays unknown, and the import is refused with all of them.
        if (name := body.payees.get(merchant)) is not None:
            payees[merchant] = await _payee(services, name)
    imported = from_ap2(claims, payees=payees)
    mandate = await services.agents.mandates.issue(
        chain[-1].party_id,
        imported.terms,
        parent=body.parent,
        label=body.label,
        actor=actor_of(caller, None),
        expires_at=imported.expires_at,
        origin=origin,
    )
    return await _detail(services, mandate.mandate_id)


@router.get("/mandates/{mandate_id}")
async def get_mandate(mandate_id: UUID, services: Services, caller: Caller) -> MandateDetail:
    """
    Show one mandate with what is left of it, its signed chain and its history.
    """
    await visible_mandate(services, caller, mandate_id)
    return await _detail(services, mandate_id)


@router.get("/mandates/{mandate_id}/ap2")
async def export_ap2(mandate_id: UUID, services: Services, caller: Caller) -> Ap2Export:
    """
    Say a mandate in AP2's words, as far as they go.
    """
    mandate = (await visible_mandate(services, caller, mandate_id))[-1]
    payees = mandate.terms.payees or frozenset()
    await services.directory.load(payees)
    exported = to_ap2(
        mandate.terms,
        issued_at=mandate.created_at,
        expires_at=mandate.expires_at,
        names={payee: services.directory.name(payee) for payee in payees},
    )
    return Ap2Export(mandate=dict(exported.document), not_expressed=list(exported.not_expressed))


@router.post("/mandates/{mandate_id}/delegate", status_code=201)
async def delegate(
    mandate_id: UUID, body: DelegationIn, services: Services, caller: Caller
) -> MandateDetail:
    """
    Take in a delegation of this mandate that its agent's wallet signed.
    """
    await visible_mandate(services, caller, mandate_id)
    link = read_mandate(body.jws).claims.parent
    if link is None or link.id != mandate_id:
        message = "The delegation names another parent than the path."
        raise MandateParentError(message, param="parent")
    mandate = await services.agents.mandates.delegate(body.jws)
    return await _detail(services, mandate.mandate_id)


@router.post("/mandates/{mandate_id}/revoke")
async def revoke(mandate_id: UUID, services: Services, caller: Caller) -> MandateDetail:
    """
    Revoke a mandate for good, and so all below it; a repeat changes nothing.
    """
    await owned_mandate(services, caller, mandate_id)
    await services.agents.mandates.revoke(mandate_id, actor=actor_of(caller, None))
    return await _detail(services, mandate_id)


@router.post("/mandates/{mandate_id}/freeze")
async def freeze(mandate_id: UUID, services: Services, caller: Caller) -> Frozen:
    """
    Stop a mandate and all below it at once; open holds end as they began.
    """
    await owned_mandate(services, caller, mandate_id)
    changed = await services.agents.mandates.freeze(mandate_id, actor=actor_of(caller, None))
    return to_frozen(changed)


@router.post("/mandates/{mandate_id}/thaw")
async def thaw(mandate_id: UUID, services: Services, caller: Caller) -> Frozen:
    """
    Let a frozen mandate go on.
    """
    await owned_mandate(services, caller, mandate_id)
    changed = await services.agents.mandates.thaw(mandate_id, actor=actor_of(caller, None))
    return to_frozen(changed)


@router.post("/mandates/{mandate_id}/raise")
async def raise_limit(
    mandate_id: UUID, body: RaiseIn, services: Services, caller: Caller
) -> MandateDetail:
    """
    Raise one of a mandate's budgets, never above those of the mandates above it.
    """
    mandate = (await owned_mandate(services, caller, mandate_id))[-1]
    scale = ASSETS[mandate.terms.currency].scale
    await services.agents.mandates.raise_limit(
        mandate_id,
        body.window,
        quanta_from_text(body.amount, scale=scale),
        actor=actor_of(caller, None),
    )
    return await _detail(services, mandate_id)


def _ap2_claims(body: Ap2In) -> tuple[dict[str, Any], dict[str, str]]:
    if body.sd_jwt is None:
        assert body.mandate is not None, "one of the two is given"
        return body.mandate, {"ap2_signature": NOT_CHECKED}
    claims = read_signed_ap2(body.sd_jwt, issuer_key=body.issuer_key)
    if body.issuer_key is None:
        return claims, {"ap2_signature": NOT_CHECKED}
    return claims, {"ap2_signature": "checked", "ap2_issuer_key": jwk_thumbprint(body.issuer_key)}


async def _detail(services: HubServices, mandate_id: UUID) -> MandateDetail:
    chain = await services.agents.mandates.chain(mandate_id)
    await _load_names(services, [chain[-1]])
    stopped = await services.identity.stopped({mandate.agent_id for mandate in chain})
    return to_mandate_detail(
        chain,
        services.directory,
        limits=await services.ledger.limits([mandate_id]),
        events=await services.agents.mandates.events(mandate_id),
        is_party_stopped=bool(stopped),
        now=services.clock.now(),
    )


async def _load_names(services: HubServices, mandates: list[Mandate]) -> None:
    await services.directory.load(
        party_id
        for mandate in mandates
        for party_id in (mandate.agent_id, mandate.issuer_id, mandate.organisation_id)
    )


async def _payees(services: HubServices, terms: TermsIn) -> list[UUID]:
    return [await _payee(services, name) for name in terms.payees or ()]


async def _payee(services: HubServices, reference: str) -> UUID:
    try:
        return (await services.identity.get_party(reference)).party_id
    except NotFoundError as error:
        message = f"There is no party {reference[:64]!r} to be paid."
        raise PartyNotFoundError(message, param="payees") from error
