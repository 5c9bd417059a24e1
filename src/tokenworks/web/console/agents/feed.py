"""
What a session's pages know of agents, reviews and escrows, and what they ask the hub to do.

Each list is one request, shared by all tabs of the session; after something was done it is
asked for anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ForbiddenError, NotFoundError
from tokenworks.web.console.agents.model import (
    AgentTree,
    Escrow,
    EscrowPage,
    Mandate,
    Milestone,
    PaymentPage,
    Review,
    ReviewPage,
)
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.model import Document, PartyRef
from tokenworks.web.console.polling import Polled

if TYPE_CHECKING:
    from tokenworks.web.console.sessions import Session

TREE_FRESH_FOR_S: Final = 1.8
NEWEST_FRESH_FOR_S: Final = 4.5
REVIEWS_FRESH_FOR_S: Final = 1.8
DECIDED_FRESH_FOR_S: Final = 4.5
ESCROWS_FRESH_FOR_S: Final = 1.8

REVIEWS_MAX: Final = 100
DECIDED_MAX: Final = 20
PAYMENTS_MAX: Final = 20
NEWEST_MAX: Final = 200
ESCROWS_MAX: Final = 100
NAMES_MAX: Final = 5_000


def _new_idempotency_key() -> str:
    return secrets.token_hex(16)


class AgentFeed:
    """
    One session's view of what agents do.

    Args:
        hub: Asked with the session's key.
        session: Whose.
        clock: Says what is old.
        new_idempotency_key: Names one action.
    """

    def __init__(
        self,
        hub: Hub,
        session: Session,
        clock: Clock,
        *,
        new_idempotency_key: Callable[[], str] = _new_idempotency_key,
    ) -> None:
        self._hub = hub
        self._session = session
        self._new_idempotency_key = new_idempotency_key
        self._names: dict[str, str] = {}  # of parties; they never change
        self.tree = Polled(self._read_tree, clock, fresh_for_s=TREE_FRESH_FOR_S)
        self.newest = Polled(self._read_newest, clock, fresh_for_s=NEWEST_FRESH_FOR_S)
        self.pending = Polled(self._read_pending, clock, fresh_for_s=REVIEWS_FRESH_FOR_S)
        self.decided = Polled(self._read_decided, clock, fresh_for_s=DECIDED_FRESH_FOR_S)
        self.escrows = Polled(self._read_escrows, clock, fresh_for_s=ESCROWS_FRESH_FOR_S)

    async def mandate(self, mandate_id: str) -> Mandate:
        """
        Return a mandate with its terms.
        """
        return await self._hub.get(Mandate, self._session.key, f"/hub/v1/mandates/{mandate_id}")

    async def names_of(self, party_ids: Iterable[str]) -> Mapping[str, str]:
        """
        Return parties' names, or the end of the id of one that this key may not know.
        """
        for party_id in dict.fromkeys(party_ids):
            if party_id not in self._names and len(self._names) < NAMES_MAX:
                self._names[party_id] = await self._name_of(party_id)
        return self._names

    async def _name_of(self, party_id: str) -> str:
        path = f"/hub/v1/parties/{party_id}"
        try:
            return (await self._hub.get(PartyRef, self._session.key, path)).name
        except (NotFoundError, ForbiddenError):
            return f"…{party_id[-12:]}"

    async def payments(self, mandate_id: str) -> PaymentPage:
        """
        Return the payments within a mandate that are held, and its newest others.
        """
        key, path = self._session.key, "/hub/v1/payments"
        asked: dict[str, str | int] = {"mandate": mandate_id, "limit": PAYMENTS_MAX}
        held = await self._hub.get(PaymentPage, key, path, **asked, held="true")
        done = await self._hub.get(PaymentPage, key, path, **asked)
        return PaymentPage(items=(*held.items, *done.items))

    async def review(self, review_id: str) -> Review:
        """
        Return a review with everything that was said about it.
        """
        return await self._hub.get(Review, self._session.key, f"/hub/v1/reviews/{review_id}")

    async def result(self, escrow_id: str, milestone: str) -> Document:
        """
        Return what was last submitted for a milestone.
        """
        path = f"/hub/v1/escrows/{escrow_id}/result"
        return await self._hub.get(Document, self._session.key, path, milestone=milestone)

    async def escrow(self, escrow_id: str) -> Escrow:
        """
        Return an escrow with its terms and events.
        """
        return await self._hub.get(Escrow, self._session.key, f"/hub/v1/escrows/{escrow_id}")

    # ------------------------------------------------------------------ doing

    async def freeze(self, kind: str, identifier: str) -> None:
        """
        Stop everything below an agent, its owner or a mandate.
        """
        await self._do(f"/hub/v1/{kind}/{identifier}/freeze", {})
        self.tree.forget()

    async def thaw(self, kind: str, identifier: str) -> None:
        """
        Let it go on.
        """
        await self._do(f"/hub/v1/{kind}/{identifier}/thaw", {})
        self.tree.forget()

    async def revoke(self, mandate_id: str) -> None:
        """
        End a mandate for good.
        """
        await self._do(f"/hub/v1/mandates/{mandate_id}/revoke", {})
        self.tree.forget()

    async def approve(self, review: Review, *, scope: str, answers: Mapping[str, str]) -> None:
        """
        Approve exactly the payload that was shown.
        """
        note = answers.get("note", "")
        content: dict[str, object] = {"digest": review.digest, "scope": scope, "note": note}
        if scope == "raise":
            raised = {"per": answers.get("per", ""), "amount": answers.get("amount", "")}
            content["raise_limit"] = raised
        await self._do(f"/hub/v1/reviews/{review.review_id}/approve", content)
        self._forget_reviews()

    async def deny(self, review: Review, *, note: str) -> None:
        """
        Deny exactly the payload that was shown.
        """
        content = {"digest": review.digest, "note": note}
        await self._do(f"/hub/v1/reviews/{review.review_id}/deny", content)
        self._forget_reviews()

    async def arbitrate(
        self, escrow: Escrow, milestone: Milestone, *, amount: str, reason: str
    ) -> None:
        """
        Decide a disputed milestone for good.
        """
        parts = [{"milestone": milestone.name, "amount": amount}]
        content = {"parts": parts, "reason": reason}
        await self._do(f"/hub/v1/escrows/{escrow.escrow_id}/arbitrate", content)
        self.escrows.forget()

    async def _do(self, path: str, content: Mapping[str, object]) -> Document:
        return await self._hub.post(
            Document,
            self._session.key,
            path,
            content,
            idempotency_key=self._new_idempotency_key(),
        )

    def _forget_reviews(self) -> None:
        self.pending.forget()
        self.decided.forget()

    # ------------------------------------------------------------------ reading

    async def _read_tree(self) -> AgentTree:
        return await self._hub.get(AgentTree, self._session.key, "/hub/v1/agents/tree")

    async def _read_newest(self) -> PaymentPage:
        return await self._hub.get(
            PaymentPage, self._session.key, "/hub/v1/payments", limit=NEWEST_MAX
        )

    async def _read_pending(self) -> ReviewPage:
        return await self._hub.get(
            ReviewPage,
            self._session.key,
            "/hub/v1/reviews",
            state="pending",
            limit=REVIEWS_MAX,
        )

    async def _read_decided(self) -> ReviewPage:
        return await self._hub.get(
            ReviewPage, self._session.key, "/hub/v1/reviews", limit=DECIDED_MAX
        )

    async def _read_escrows(self) -> EscrowPage:
        return await self._hub.get(
            EscrowPage, self._session.key, "/hub/v1/escrows", limit=ESCROWS_MAX
        )
