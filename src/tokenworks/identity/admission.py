"""
Judge what is recorded of a key against the present moment; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tokenworks.identity.errors import (
    KeyExpiredError,
    KeyRevokedError,
    PartyClosedError,
    PartyFrozenError,
)
from tokenworks.identity.model import DEFAULT_TIER, Party, PartyState, Principal, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """
    What a principal takes over from one party of its chain.
    """

    party_id: UUID
    name: str
    state: PartyState
    default_tier: str | None  # None: the parent's


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """
    Everything recorded about one secret, judged anew on each call.
    """

    secret_sha256: str
    principal: Principal
    secret_valid_until: datetime | None  # set when the key was rotated
    revoked_at: datetime | None
    is_closed: bool  # the party or one of its ancestors is closed


def admit(record: KeyRecord, *, now: datetime, may_be_frozen: bool) -> Principal:
    """
    Return the principal if the key may act at ``now``.

    The order of the checks: revoked, replaced by a rotation, expired, closed, frozen.

    Args:
        record: What the database (or the cache) holds.
        now: The present, in UTC; an expiry is the first moment that is refused.
        may_be_frozen: Admit a frozen party, for doors that only read.

    Raises:
        KeyRevokedError: The key was revoked, or this secret of it was replaced.
        KeyExpiredError: The expiry has come.
        PartyClosedError: The party or an ancestor is closed.
        PartyFrozenError: The party or an ancestor is frozen.
    """
    principal = record.principal
    if record.revoked_at is not None:
        message = "This API key has been revoked."
        raise KeyRevokedError(message)
    if record.secret_valid_until is not None and now >= record.secret_valid_until:
        message = "This API key has been rotated; use its new secret."
        raise KeyRevokedError(message)
    if principal.expires_at is not None and now >= principal.expires_at:
        message = f"This API key expired at {principal.expires_at.isoformat()}."
        raise KeyExpiredError(message)
    if record.is_closed:
        message = "The party of this API key is closed."
        raise PartyClosedError(message)
    if principal.is_frozen and not may_be_frozen:
        message = "The party of this API key is frozen; ask the operator of the hub."
        raise PartyFrozenError(message)
    return principal


def make_record(
    *,
    secret_sha256: str,
    key_id: UUID,
    role: Role,
    models: frozenset[str] | None,
    requests_per_minute: int | None,
    spend_path_version: int,
    expires_at: datetime | None,
    revoked_at: datetime | None,
    secret_valid_until: datetime | None,
    chain: Sequence[ChainLink],
    mandate_id: UUID | None = None,
    call_quanta_max: int | None = None,
) -> KeyRecord:
    """
    Put together what is recorded of a key and of the chain it hangs on, root first.
    """
    assert chain, "a key belongs to a party"
    principal = Principal(
        key_id=key_id,
        role=role,
        party_id=chain[-1].party_id,
        organisation_id=chain[0].party_id,
        organisation_name=chain[0].name,
        chain=tuple(link.party_id for link in chain),
        models=models,
        requests_per_minute=requests_per_minute,
        expires_at=expires_at,
        default_tier=resolve_tier(chain),
        spend_path_id=key_id,
        spend_path_version=spend_path_version,
        is_frozen=any(link.state is PartyState.FROZEN for link in chain),
        mandate_id=mandate_id,
        call_quanta_max=call_quanta_max,
    )
    return KeyRecord(
        secret_sha256=secret_sha256,
        principal=principal,
        secret_valid_until=secret_valid_until,
        revoked_at=revoked_at,
        is_closed=any(link.state is PartyState.CLOSED for link in chain),
    )


def resolve_tier(chain: Sequence[ChainLink | Party]) -> str:
    """
    Return the tier nearest to the leaf of a chain given root first.
    """
    named = (link.default_tier for link in reversed(chain))
    return next((tier for tier in named if tier is not None), DEFAULT_TIER)
