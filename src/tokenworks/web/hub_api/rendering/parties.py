"""
Draw parties and API keys; a key's secret only in the answer that made it.
"""

from __future__ import annotations

from datetime import datetime

from tokenworks.identity.model import ApiKey, Party
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.shapes.parties import KeyShape, PartyShape


def to_party(party: Party, directory: Directory, *, default_tier: str) -> PartyShape:
    """
    Return a party; its parent was loaded.
    """
    return PartyShape(
        party_id=party.party_id,
        name=party.name,
        kind=str(party.kind),
        level=str(party.level),
        parent=directory.party_or_none(party.parent_id),
        default_tier=default_tier,
        state=str(party.state),
        created_at=party.created_at,
    )


def to_key(
    key: ApiKey, directory: Directory, *, now: datetime, secret: str | None = None
) -> KeyShape:
    """
    Return a key; its party was loaded.
    """
    state = "active"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    return KeyShape(
        key_id=key.key_id,
        party=directory.party(key.party_id),
        role=str(key.role),
        prefix=key.prefix,
        label=key.label,
        models=None if key.models is None else sorted(key.models),
        requests_per_minute=key.requests_per_minute,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        created_at=key.created_at,
        state=state,
        mandate_id=key.mandate_id,
        secret=secret,
    )
