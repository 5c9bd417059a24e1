"""
What escrows need from others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tokenworks.agents.brake.model import Subject
from tokenworks.agents.escrow.model import Evaluation, MeteredCall
from tokenworks.agents.mandates.model import Authority, Purchase
from tokenworks.agents.payments.model import Payment
from tokenworks.identity.model import Party
from tokenworks.ledger.model import Fate
from tokenworks.receipts.model import JsonValue


class Evaluator(Protocol):
    """
    Evaluates conditions where they can do no harm.
    """

    engine: str

    async def check(self, condition: str, /) -> str | None:
        """
        Return why a condition cannot be read; ``None`` when it can.
        """
        ...

    async def evaluate(self, condition: str, document: bytes, /) -> Evaluation:
        """
        Return what a condition says of a document; always the same of the same two.

        Raises:
            EvaluatorUnavailableError: There is no verdict now.
        """
        ...


class MeteredCalls(Protocol):
    """
    Knows what calls of models used.
    """

    async def metered_calls(self, call_ids: Sequence[UUID], /) -> Sequence[MeteredCall]:
        """
        Return those of some calls that have ended, in any order.
        """
        ...


class MandateBook(Protocol):
    """
    Says what a wallet may spend.
    """

    async def authorise(
        self, address: str, mandate_id: UUID | None, purchase: Purchase, /, *, now: datetime
    ) -> Authority:
        """
        Return the mandate that allows a purchase, or raise why none does.
        """
        ...


class Purse(Protocol):
    """
    Holds the money, pays from it and gives it back; each of them once.
    """

    network: str

    async def hold(
        self,
        authority: Authority,
        subject: Subject,
        *,
        quanta: int,
        expires_at: datetime,
        fate: Fate,
        payer: str,
        jws: str | None,
    ) -> Payment:
        """
        Hold a payment; the same subject has the same hold. Raises when people decide first.
        """
        ...

    async def capture(
        self,
        payment_id: UUID,
        *,
        quanta: int,
        closes: bool,
        ordinal: int,
        details: Mapping[str, JsonValue],
    ) -> object:
        """
        Pay a part; a repeat is answered by what is recorded. ``details`` go on the receipt.
        """
        ...

    async def release(self, payment_id: UUID, *, reason: str) -> object:
        """
        Give back what is left; a repeat is answered by what is recorded.
        """
        ...

    async def get(self, payment_id: UUID) -> Payment:
        """
        Return a payment as it stands in the books, or raise a not-found error.
        """
        ...


class Parties(Protocol):
    """
    Knows who belongs to whom.
    """

    async def get_party(self, reference: UUID | str, /) -> Party:
        """
        Return a party, or raise a not-found error.
        """
        ...

    async def get_chain(self, reference: UUID | str, /) -> Sequence[Party]:
        """
        Return the parties from the organisation down to this one.
        """
        ...
