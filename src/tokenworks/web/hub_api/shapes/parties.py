"""
Parties and API keys as they leave the hub API.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Moment, PartyRef, Shape


class Whoami(Shape):
    """
    What the caller's key is and may do.
    """

    key_id: UUID
    prefix: str
    role: str
    party: PartyRef
    organisation: PartyRef
    chain: list[PartyRef]
    models: list[str] | None
    requests_per_minute: int | None
    expires_at: Moment | None
    default_tier: str


class PartyShape(Shape):
    """
    An organisation, team, user or agent that owns accounts or limits.
    """

    party_id: UUID
    name: str
    kind: str
    level: str
    parent: PartyRef | None
    default_tier: str
    state: str
    created_at: Moment


class KeyShape(Shape):
    """
    An API key; ``secret`` is set in the one answer that made it.
    """

    key_id: UUID
    party: PartyRef
    role: str
    prefix: str
    label: str
    models: list[str] | None
    requests_per_minute: int | None
    expires_at: Moment | None
    revoked_at: Moment | None
    created_at: Moment
    state: Literal["active", "expired", "revoked"]
    mandate_id: UUID | None = None
    secret: str | None = None
