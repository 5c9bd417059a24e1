"""
What payments need from others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tokenworks.agents.brake.model import Decision, Review, Subject
from tokenworks.agents.mandates.model import Authority, Purchase
from tokenworks.foundation.errors import TokenworksError
from tokenworks.identity.model import Party, PartyState
from tokenworks.ledger.model import Outcome


class MandateBook(Protocol):
    """
    Says what a wallet may spend.
    """

    async def authorise(
        self, address: str, mandate_id: UUID | None, purchase: Purchase, /, *, now: datetime
    ) -> Authority:
        """
        Return the mandate that allows a purchase, with the path to hold along.

        Raises:
            TokenworksError: Wallet or mandate unknown, revoked, expired; or a predicate of the
                chain says no.
        """
        ...

    async def renewed(self, authority: Authority, /) -> Authority:
        """
        Return an authority whose path the ledger called stale, with the current one.
        """
        ...

    async def refusal(self, authority: Authority, outcome: Outcome, /) -> TokenworksError:
        """
        Return the error for a hold that the ledger refused; names what stands in the way.
        """
        ...


class Brake(Protocol):
    """
    Looks at payments before they are held.
    """

    async def judge(self, subject: Subject, /) -> Decision:
        """
        Return what the rules and the score say; the same for the same payment.
        """
        ...

    async def record(self, subject: Subject, /, *, captured_quanta: int) -> None:
        """
        Learn from a payment that was captured.
        """
        ...

    async def open_review(self, subject: Subject, decision: Decision, /) -> Review:
        """
        Ask people; the same review when it is open already.
        """
        ...

    async def review(self, payment_id: UUID, /) -> Review | None:
        """
        Return what people said or still have to say; ``None``: they were not asked.
        """
        ...

    async def reviews_of(self, payment_ids: Iterable[UUID], /) -> Mapping[UUID, Review]:
        """
        Return the reviews of some payments; one that people were not asked about is left out.
        """
        ...


class Parties(Protocol):
    """
    Knows who payees are.
    """

    async def get_party(self, reference: UUID | str, /) -> Party:
        """
        Return a party, or raise a not-found error.
        """
        ...

    async def stopped(self, party_ids: Iterable[UUID], /) -> Mapping[UUID, PartyState]:
        """
        Return which of some parties may not act now, as they or somebody above is not active.
        """
        ...
