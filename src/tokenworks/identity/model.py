"""
Parties, API keys and the principal that a presented key stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from tokenworks.identity.errors import ModelNotAllowedError, RoleNotAllowedError

PLATFORM_ID: Final = UUID(int=1)
"""The hub operator's own party; owner of every admin key."""

TAX_ID: Final = UUID(int=2)
"""The party that the tax leg of a sale is owed to."""

DEFAULT_TIER: Final = "standard"
"""The tier of a party when neither it nor any of its ancestors names one."""


class PartyKind(StrEnum):
    """
    What a party is to the hub.
    """

    BUYER = "buyer"
    SUPPLIER = "supplier"
    POWER_PRODUCER = "power_producer"
    RIGHTS_HOLDER = "rights_holder"
    RESELLER = "reseller"
    PLATFORM = "platform"
    TAX_AUTHORITY = "tax_authority"


class Level(StrEnum):
    """
    Where a party stands in its tree; only buyers have more than an organisation.
    """

    ORGANISATION = "organisation"
    TEAM = "team"
    USER = "user"
    AGENT = "agent"


class PartyState(StrEnum):
    """
    Whether a party may act; ``CLOSED`` is final.
    """

    ACTIVE = "active"
    FROZEN = "frozen"
    CLOSED = "closed"


class Role(StrEnum):
    """
    What a key is for.

    ``SUPPLIER`` is also the role of every other owner of a leg: power producers, rights
    holders, resellers and the tax authority read what they are owed with it.
    """

    ADMIN = "admin"
    BUYER = "buyer"
    SUPPLIER = "supplier"


ROLES_BY_KIND: Final[dict[PartyKind, frozenset[Role]]] = {
    PartyKind.BUYER: frozenset({Role.BUYER}),
    PartyKind.SUPPLIER: frozenset({Role.SUPPLIER}),
    PartyKind.POWER_PRODUCER: frozenset({Role.SUPPLIER}),
    PartyKind.RIGHTS_HOLDER: frozenset({Role.SUPPLIER}),
    PartyKind.RESELLER: frozenset({Role.BUYER, Role.SUPPLIER}),
    PartyKind.PLATFORM: frozenset({Role.ADMIN}),
    PartyKind.TAX_AUTHORITY: frozenset({Role.SUPPLIER}),
}
"""Roles that a key of a party of that kind may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """
    An organisation, a person or an agent that owns accounts.
    """

    party_id: UUID
    kind: PartyKind
    level: Level
    name: str  # unique in the hub, [a-z0-9][a-z0-9._-]{0,62}
    organisation_id: UUID  # the root of the tree; the party itself when it is the root
    parent_id: UUID | None  # None for an organisation
    default_tier: str | None  # None: the parent's
    state: PartyState
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """
    A key as its owner may see it: everything but the secret.
    """

    key_id: UUID
    party_id: UUID
    role: Role
    prefix: str  # first characters of the current secret, to recognise it by
    label: str
    models: frozenset[str] | None  # "model" or "model@tier"; None: every model
    requests_per_minute: int | None  # None: no limit of the key's own
    spend_path_version: int
    expires_at: datetime | None  # None: never
    revoked_at: datetime | None
    created_at: datetime
    mandate_id: UUID | None = None  # whose limits its calls meet too; None: its party's alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """
    Who a call is made by, and the bounds that are judged before the ledger.
    """

    key_id: UUID
    role: Role
    party_id: UUID
    organisation_id: UUID
    organisation_name: str
    chain: tuple[UUID, ...]  # party ids from the organisation down to ``party_id``
    models: frozenset[str] | None  # None: every model
    requests_per_minute: int | None  # None: no limit
    expires_at: datetime | None
    default_tier: str
    spend_path_id: UUID
    spend_path_version: int
    is_frozen: bool = False  # the party or one of its ancestors is frozen
    mandate_id: UUID | None = None  # the mandate that the key spends through
    call_quanta_max: int | None = None  # what one call may cost at most; None: no bound
    wallet: str | None = None  # the address that signed the request; None: an API key came

    def allows_model(self, model: str, tier: str) -> bool:
        """
        Return whether the key may call ``model`` at ``tier``.

        An entry without a tier allows every tier of that model.
        """
        return self.models is None or model in self.models or f"{model}@{tier}" in self.models

    def require_model(self, model: str, tier: str) -> None:
        """
        Refuse a model the key is not meant for.

        Raises:
            ModelNotAllowedError: The key lists models, and this one is not among them.
        """
        if not self.allows_model(model, tier):
            message = f"This API key does not allow the model {model!r} at tier {tier!r}."
            raise ModelNotAllowedError(message, param="model")

    def require_role(self, *roles: Role) -> None:
        """
        Refuse a key of another role.

        Raises:
            RoleNotAllowedError: The key's role is not one of ``roles``.
        """
        if self.role not in roles:
            message = f"This needs a key with the role {' or '.join(roles)}, not {self.role}."
            raise RoleNotAllowedError(message)
