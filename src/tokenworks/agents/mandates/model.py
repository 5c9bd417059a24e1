"""
Wallets, terms and mandates.

Money is in quanta of the mandate's currency (10**-9), so terms reach far below a cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

MANDATE_DEPTH_MAX: Final = 8
"""Mandates in one chain, the root included."""

TERMS_LIST_MAX: Final = 1_000
"""Entries of one list (payees, models, ...) of a mandate."""


class Window(StrEnum):
    """
    How long a limit counts before a new one opens; ``EVER`` never opens again.
    """

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"
    EVER = "ever"


class MandateState(StrEnum):
    """
    Where a mandate stands; expiry is judged by its date, not stored.
    """

    ACTIVE = "active"
    FROZEN = "frozen"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyLimit:
    """
    At most so much money in each window.
    """

    window: Window
    quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLimit:
    """
    At most so many payments in each window.
    """

    window: Window
    payments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """
    What a mandate allows. ``None`` and empty limits mean: not narrowed here.

    Sums (``budgets``, ``counts``, ``payee_budgets``) become limits of the ledger; the rest is
    judged before it (LEDGER law 17). AP2 v0.2's eight constraints and ours:

    ==========================  ======================================================
    AP2 constraint              here
    ==========================  ======================================================
    payment.amount_range        ``amount_min``, ``amount_max`` (each payment)
    payment.budget              ``budgets`` with ``EVER``
    payment.agent_recurrence    ``counts`` (``ON_DEMAND``: ``EVER``)
    payment.allowed_payees      ``payees``
    ..instruments               ``instruments`` (networks such as ``hub:..``)
    ..pisps                     ``providers``
    payment.execution_date      ``not_before``, ``not_after``
    payment.reference           ``reference``
    ==========================  ======================================================
    """

    currency: str = "USD"
    amount_min: int | None = None
    amount_max: int | None = None
    budgets: tuple[MoneyLimit, ...] = ()
    counts: tuple[CountLimit, ...] = ()
    payee_budgets: tuple[MoneyLimit, ...] = ()  # for each payee by itself
    payees: frozenset[UUID] | None = None
    instruments: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    reference: str | None = None  # only payments that name this transaction
    tools: frozenset[str] | None = None  # MCP tools, by name
    models: frozenset[str] | None = None  # "model" or "model@tier"
    delegations_max: int = 0  # how many levels below this one may still be made


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """
    A public key that speaks for an agent.
    """

    address: str  # the Ed25519 public key, base64url: 43 characters
    agent_id: UUID
    label: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """
    What one agent may spend of its owner's money.
    """

    mandate_id: UUID  # also the scope in the ledger
    agent_id: UUID  # who may spend
    issuer_id: UUID  # the owner's party, or the agent that delegated
    organisation_id: UUID  # whose money it is
    parent_id: UUID | None
    depth: int  # 1 for a root
    terms: Terms
    state: MandateState  # of this one alone; its chain may still be frozen
    label: str
    jws: str  # signed by the hub, or for a delegation by the parent's wallet
    created_at: datetime
    expires_at: datetime | None  # the earliest of its own, its terms' and its parent's; None: never
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MandateEvent:
    """
    What was done to a mandate.
    """

    event_id: UUID
    kind: str  # issued, delegated, frozen, thawed, revoked, raised
    happened_at: datetime
    actor: str
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """
    What the predicates of a chain are judged against.
    """

    payee_id: UUID
    quanta: int
    currency: str
    instrument: str  # the network, e.g. ``hub:..``
    provider: str | None = None
    reference: str | None = None
    tool: str | None = None
    model: str | None = None  # ``model@tier``


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """
    A mandate that allows a purchase, with the path the ledger holds along.
    """

    mandate: Mandate
    chain: tuple[Mandate, ...]  # from the root down to ``mandate``
    agent_name: str
    party_chain: tuple[UUID, ...]  # from the organisation down to the agent
    path_id: UUID
    path_version: int
    parties: tuple[UUID, ...] = ()  # all parties of the path, above each agent of the chain
    wallet: str | None = None  # the address that acts; None: nobody signed, e.g. an API key
    payee_id: UUID | None = None  # whose limits are on the path too; None: no payee was named
