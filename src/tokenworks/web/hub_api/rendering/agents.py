"""
Turn agents and mandates into the shapes of this API; pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tokenworks.agents.mandates.judging import refusal_of_state
from tokenworks.agents.mandates.model import Mandate, MandateEvent, Wallet
from tokenworks.agents.mandates.terms import terms_to_json
from tokenworks.identity.model import Level, Party, PartyState
from tokenworks.ledger.model import LimitView
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes import agents as shapes
from tokenworks.web.hub_api.shapes.parts import PartyRef

_UNITS = {"LIMIT.TOK": "tokens", "LIMIT.PAYMENTS": "payments"}


def to_wallet(wallet: Wallet) -> shapes.WalletShape:
    """
    Return a wallet.
    """
    return shapes.WalletShape(
        address=wallet.address,
        label=wallet.label,
        created_at=wallet.created_at,
        revoked_at=wallet.revoked_at,
    )


def to_agent(
    chain: Sequence[Party], wallets: Iterable[Wallet], *, network: str
) -> shapes.AgentShape:
    """
    Return an agent, the last of a chain that begins with its organisation.
    """
    assert len(chain) > 1, "an agent has an owner"
    agent = chain[-1]
    return shapes.AgentShape(
        party_id=agent.party_id,
        name=agent.name,
        owner=_ref(chain[-2]),
        organisation=_ref(chain[0]),
        state=str(agent.state),
        is_frozen=any(party.state is PartyState.FROZEN for party in chain),
        network=network,
        wallets=[to_wallet(wallet) for wallet in wallets],
        created_at=agent.created_at,
    )


def to_spend_limit(limit: LimitView) -> shapes.SpendLimit:
    """
    Return a limit with what is spent and held of it in the window of now.
    """
    remaining = max(limit.remaining, 0)

    def text(quanta: int) -> str:
        return amount_text(max(quanta, 0), limit.asset)

    return shapes.SpendLimit(
        unit=_UNITS.get(limit.asset) or limit.asset.removeprefix("LIMIT."),
        per=limit.window,
        amount=text(limit.quanta),
        spent=text(limit.quanta - remaining - limit.held),
        held=text(limit.held),
        remaining=text(remaining),
        resets_at=limit.resets_at,
    )


def terms_object(mandate: Mandate) -> dict[str, Any]:
    """
    Return a mandate's terms as they are signed.
    """
    return msgspec.json.decode(terms_to_json(mandate.terms), type=dict[str, Any])


def to_mandate(mandate: Mandate, directory: Directory) -> shapes.MandateShape:
    """
    Return a mandate; its parties were loaded.
    """
    return shapes.MandateShape(**_mandate_fields(mandate, directory))


def to_mandate_detail(
    chain: Sequence[Mandate],
    directory: Directory,
    *,
    limits: Iterable[LimitView],
    events: Iterable[MandateEvent],
    is_party_stopped: bool,
    now: datetime,
) -> shapes.MandateDetail:
    """
    Return the last mandate of a chain with what is left of it.
    """
    refused = next((r for m in chain if (r := refusal_of_state(m, now=now)) is not None), None)
    status = "active" if refused is None else refused.code
    if refused is None and is_party_stopped:
        status = "mandate_frozen"
    return shapes.MandateDetail(
        **_mandate_fields(chain[-1], directory),
        status=status,
        limits=[to_spend_limit(limit) for limit in limits],
        chain=[mandate.jws for mandate in chain],
        events=[
            shapes.MandateEventShape(
                kind=event.kind,
                happened_at=event.happened_at,
                actor=event.actor,
                details=dict(event.details),
            )
            for event in events
        ],
    )


def to_tree(
    parties: Sequence[Party],
    mandates: Sequence[Mandate],
    limits: Iterable[LimitView],
    *,
    beyond: Iterable[Mandate],
    stopped: Container[UUID],
    frozen_above: bool,
    is_cut: bool,
    now: datetime,
) -> shapes.AgentTree:
    """
    Return agents below their owners; owners without any agent are left out.

    Args:
        parties: Parents first.
        mandates: Of these agents.
        limits: Of the parties and mandates.
        beyond: Mandates above these that are not shown.
        stopped: Agents of any of these mandates that may not act, or below one who may not.
        frozen_above: Whether somebody above all of them is frozen.
        is_cut: Whether there are more.
        now: When.
    """
    by_scope: dict[UUID, list[shapes.SpendLimit]] = {}
    for limit in limits:
        by_scope.setdefault(limit.scope_id, []).append(to_spend_limit(limit))
    frozen: dict[UUID, bool] = {}
    for party in parties:
        above = frozen.get(party.parent_id, frozen_above) if party.parent_id else frozen_above
        frozen[party.party_id] = above or party.state is PartyState.FROZEN
    known = {mandate.mandate_id: mandate for mandate in (*mandates, *beyond)}
    return shapes.AgentTree(
        as_of=now,
        parties=[
            shapes.TreeParty(
                party_id=party.party_id,
                name=party.name,
                level=str(party.level),
                parent_id=party.parent_id if party.parent_id in frozen else None,
                state=str(party.state),
                is_frozen=frozen[party.party_id],
                limits=by_scope.get(party.party_id, []),
            )
            for party in with_agents(parties)
        ],
        mandates=[
            shapes.TreeMandate(
                mandate_id=mandate.mandate_id,
                agent_id=mandate.agent_id,
                parent_id=mandate.parent_id,
                depth=mandate.depth,
                label=mandate.label,
                currency=mandate.terms.currency,
                state=str(mandate.state),
                is_usable=_is_usable(mandate, known, stopped, now=now),
                expires_at=mandate.expires_at,
                limits=by_scope.get(mandate.mandate_id, []),
            )
            for mandate in mandates
        ],
        is_cut=is_cut,
    )


def with_agents(parties: Sequence[Party]) -> list[Party]:
    """
    Return the agents among parties given parents first, and everybody above an agent.
    """
    by_id = {party.party_id: party for party in parties}
    kept: set[UUID] = set()
    for party in parties:
        if party.level is not Level.AGENT:
            continue
        above: UUID | None = party.party_id
        while above is not None and above in by_id and above not in kept:
            kept.add(above)
            above = by_id[above].parent_id
    return [party for party in parties if party.party_id in kept]


def _is_usable(
    mandate: Mandate, known: Mapping[UUID, Mandate], stopped: Container[UUID], *, now: datetime
) -> bool:
    one: Mandate | None = mandate
    while one is not None:
        if one.agent_id in stopped or refusal_of_state(one, now=now) is not None:
            return False
        one = None if one.parent_id is None else known.get(one.parent_id)
    return True


def _mandate_fields(mandate: Mandate, directory: Directory) -> dict[str, Any]:
    return {
        "mandate_id": mandate.mandate_id,
        "agent": directory.party(mandate.agent_id),
        "issuer": directory.party(mandate.issuer_id),
        "organisation": directory.party(mandate.organisation_id),
        "parent_id": mandate.parent_id,
        "depth": mandate.depth,
        "terms": terms_object(mandate),
        "state": str(mandate.state),
        "label": mandate.label,
        "created_at": mandate.created_at,
        "expires_at": mandate.expires_at,
        "revoked_at": mandate.revoked_at,
    }


def _ref(party: Party) -> PartyRef:
    return PartyRef(party_id=party.party_id, name=party.name)
