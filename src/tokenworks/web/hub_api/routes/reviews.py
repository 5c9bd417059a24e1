"""
The inbox: payments that wait for people.

An owner sees the payments of its tree and decides on them; an agent's key or wallet sees its
own and never decides; an admin sees all and decides as one person.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.agents.brake.errors import ReviewNotFoundError
from tokenworks.agents.brake.model import Review, ReviewFilter
from tokenworks.agents.brake.reviewing import person_of
from tokenworks.agents.mandates.model import MoneyLimit
from tokenworks.foundation.money import ASSETS, quanta_from_text
from tokenworks.identity.model import Principal, Role
from tokenworks.web.hub_api.access import Caller, Services, actor_of, visible_party
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.reviews import review_parties, to_review, to_review_detail
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parts import Page
from tokenworks.web.hub_api.shapes.reviews import (
    ApproveIn,
    DenyIn,
    ReviewDetail,
    ReviewQuery,
    ReviewShape,
)

router: Final = APIRouter(tags=["reviews"])


@router.get("/reviews")
async def list_reviews(
    query: Annotated[ReviewQuery, Query()], services: Services, caller: Caller
) -> Page[ReviewShape]:
    """
    List reviews, newest first.
    """
    caller.require_role(Role.ADMIN, Role.BUYER)
    agent_id = None
    if query.agent is not None:
        agent_id = (await visible_party(services, caller, query.agent)).party_id
    is_admin = caller.role is Role.ADMIN
    rows = await services.agents.brake.list_reviews(
        ReviewFilter(
            organisation_id=None if is_admin else caller.organisation_id,
            party_id=None if is_admin else caller.party_id,
            agent_id=agent_id,
            state=query.state,
        ),
        before=None if query.cursor is None else from_cursor_id(query.cursor),
        count=query.limit + 1,
    )
    page, has_more = rows[: query.limit], len(rows) > query.limit
    await services.directory.load(review_parties(page))
    now = services.clock.now()
    return Page(
        items=[to_review(row, services.directory, now=now) for row in page],
        next_cursor=to_cursor(str(page[-1].review_id)) if has_more else None,
    )


@router.get("/reviews/{review_id}")
async def get_review(review_id: UUID, services: Services, caller: Caller) -> ReviewDetail:
    """
    Show one review with everything that was said about it.
    """
    return await _detail(services, await _visible(services, caller, review_id))


@router.post("/reviews/{review_id}/approve")
async def approve(
    review_id: UUID, body: ApproveIn, services: Services, caller: Caller
) -> ReviewDetail:
    """
    Let exactly this payload pass; where two persons are needed, the second one does.
    """
    review = await _visible(services, caller, review_id)
    raised = None
    if body.raise_limit is not None:
        scale = ASSETS[review.subject.currency].scale
        raised = MoneyLimit(
            window=body.raise_limit.per,
            quanta=quanta_from_text(body.raise_limit.amount, scale=scale),
        )
    approved = await services.agents.brake.approve(
        review_id,
        digest=bytes.fromhex(body.digest),
        actor=actor_of(caller, body.actor),
        person=await _person(services, caller),
        scope=body.scope,
        note=body.note,
        raised=raised,
    )
    return await _detail(services, approved)


@router.post("/reviews/{review_id}/deny")
async def deny(review_id: UUID, body: DenyIn, services: Services, caller: Caller) -> ReviewDetail:
    """
    Let a payment not be made.
    """
    await _visible(services, caller, review_id)
    denied = await services.agents.brake.deny(
        review_id,
        digest=bytes.fromhex(body.digest),
        actor=actor_of(caller, body.actor),
        person=await _person(services, caller),
        note=body.note,
    )
    return await _detail(services, denied)


async def _visible(services: HubServices, caller: Principal, review_id: UUID) -> Review:
    caller.require_role(Role.ADMIN, Role.BUYER)
    review = await services.agents.brake.review(review_id)
    if review is not None and (
        caller.role is Role.ADMIN or caller.party_id in review.subject.party_chain
    ):
        return review
    message = f"There is no review {review_id}."
    raise ReviewNotFoundError(message)


async def _person(services: HubServices, caller: Principal) -> UUID:
    return person_of(caller.role, await services.identity.get_chain(caller.party_id))


async def _detail(services: HubServices, review: Review) -> ReviewDetail:
    said = await services.agents.brake.said_of(review.review_id)
    await services.directory.load(review_parties([review]))
    await services.directory.load(entry.person_id for entry in said)
    return to_review_detail(review, said, services.directory, now=services.clock.now())
