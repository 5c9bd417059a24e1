"""
What the brake needs from others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from tokenworks.agents.mandates.model import Window
from tokenworks.ledger.model import LimitView


class LedgerLimits(Protocol):
    """
    What is left of the limits of scopes.
    """

    async def limits(self, scope_ids: Sequence[UUID], /) -> Sequence[LimitView]:
        """
        Return the open limits of some scopes.
        """
        ...


class LimitRaiser(Protocol):
    """
    Raises a mandate's limit as its owner.
    """

    async def raise_limit(
        self, mandate_id: UUID, window: Window, quanta: int, /, *, actor: str
    ) -> object:
        """
        Let the mandate spend up to so much in each window; a repeat changes nothing.
        """
        ...


class HoldRelease(Protocol):
    """
    Gives back what is held for a payment that will not be made.
    """

    async def __call__(self, payment_id: UUID, /, *, reason: str) -> object:
        """
        Release the payment's hold; a repeat changes nothing.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """
    What became of one attempt to deliver a webhook.
    """

    http_status: int | None  # ``None``: no answer
    error: str | None  # in our words; ``None``: accepted


class WebhookSender(Protocol):
    """
    Posts one message to an owner's address: no redirects, bounded in time and size.
    """

    async def send(
        self, url: str, *, headers: Mapping[str, str], body: bytes, allow_private: bool
    ) -> Sent:
        """
        Send and say what the receiver answered; never raises for what it does.
        """
        ...
