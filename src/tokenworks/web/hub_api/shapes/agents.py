"""
What leaves about agents and mandates; amounts are decimal text in whole units.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


class WalletShape(Shape):
    """
    A public key that speaks for an agent.
    """

    address: str
    label: str
    created_at: Moment
    revoked_at: Moment | None


class AgentShape(Shape):
    """
    An agent; ``is_frozen`` when it or somebody above it is.
    """

    party_id: UUID
    name: str
    owner: PartyRef
    organisation: PartyRef
    state: str
    is_frozen: bool
    network: str
    wallets: list[WalletShape]
    created_at: Moment


class SpendLimit(Shape):
    """
    One limit of a mandate or party in the window of now.
    """

    unit: str  # a currency, ``payments`` or ``tokens``
    per: str
    amount: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    resets_at: Moment | None


class MandateShape(Shape):
    """
    A mandate as it stands; ``status`` regards those above it and the dates too.
    """

    mandate_id: UUID
    agent: PartyRef
    issuer: PartyRef
    organisation: PartyRef
    parent_id: UUID | None
    depth: int
    terms: dict[str, Any]
    state: str
    label: str
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None


class MandateEventShape(Shape):
    """
    What was done to a mandate.
    """

    kind: str
    happened_at: Moment
    actor: str
    details: dict[str, Any]


class MandateDetail(MandateShape):
    """
    A mandate with what is left of it, its signed chain and its history.
    """

    status: str  # active, or why nothing can be paid: a code such as ``mandate_frozen``
    limits: list[SpendLimit]
    chain: list[str]  # signed, root first; verified offline with the hub's root key
    events: list[MandateEventShape]


class Ap2Export(Shape):
    """
    A mandate in AP2's words, and what these cannot say.
    """

    mandate: dict[str, Any]
    not_expressed: list[str]


class TreeParty(Shape):
    """
    An owner or an agent in the tree.
    """

    party_id: UUID
    name: str
    level: str
    parent_id: UUID | None
    state: str
    is_frozen: bool
    limits: list[SpendLimit]


class TreeMandate(Shape):
    """
    A mandate in the tree, below its agent and its parent.
    """

    mandate_id: UUID
    agent_id: UUID
    parent_id: UUID | None
    depth: int
    label: str
    currency: str
    state: str
    is_usable: bool
    expires_at: Moment | None
    limits: list[SpendLimit]


class AgentTree(Shape):
    """
    Agents below their owners with what they may still spend, parents first.
    """

    as_of: Moment
    parties: list[TreeParty]
    mandates: list[TreeMandate]
    is_cut: bool  # there is more than one picture holds: ask for an owner's part


class Frozen(Shape):
    """
    What was frozen or thawed.
    """

    kind: Literal["party", "mandate"]
    id: UUID
    name: str
    state: str
