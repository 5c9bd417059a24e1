"""
Stand-ins for mandates and the brake, so that payments are tried without either.

They keep the ports' promises: a revoked mandate refuses, a judgement is the same for the same
payment, a review is opened once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from tokenworks.agents.brake.model import (
    Action,
    Decision,
    Reason,
    Review,
    ReviewState,
    Subject,
)
from tokenworks.agents.mandates.model import Authority, Mandate, MandateState, Purchase, Terms
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ForbiddenError, TokenworksError, UnauthenticatedError
from tokenworks.ledger.model import Outcome, Refusal
from tokenworks.ledger.service import Ledger

REVIEW_LIFETIME = timedelta(minutes=30)


class FakeMandates:
    """
    One mandate a wallet, over a spend path of the real ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._authorities: dict[str, Authority] = {}
        self.revoked: set[str] = set()
        self.asked: list[Purchase] = []

    async def allow(
        self,
        address: str,
        *,
        mandate_id: UUID,
        agent_id: UUID,
        organisation_id: UUID,
        now: datetime,
    ) -> Authority:
        """
        Let a wallet spend its organisation's money under a mandate; its scope is the mandate's id.
        """
        scopes = [organisation_id, agent_id, mandate_id]
        for scope_id in scopes:
            await self._ledger.open_scope(scope_id)
        version = await self._ledger.publish_path(
            path_id=mandate_id, scope_ids=scopes, funding_party_id=organisation_id
        )
        mandate = Mandate(
            mandate_id=mandate_id,
            agent_id=agent_id,
            issuer_id=organisation_id,
            organisation_id=organisation_id,
            parent_id=None,
            depth=1,
            terms=Terms(),
            state=MandateState.ACTIVE,
            label="",
            jws="",
            created_at=now,
            expires_at=None,
            revoked_at=None,
        )
        authority = Authority(
            mandate=mandate,
            chain=(mandate,),
            agent_name="agent",
            party_chain=(organisation_id, agent_id),
            path_id=mandate_id,
            path_version=version,
        )
        self._authorities[address] = authority
        return authority

    async def authorise(
        self, address: str, mandate_id: UUID | None, purchase: Purchase, /, *, now: datetime
    ) -> Authority:
        """
        Return the wallet's authority.
        """
        self.asked.append(purchase)
        authority = self._authorities.get(address)
        if authority is None:
            raise UnauthenticatedError("No such wallet.", code="wallet_unknown")
        if address in self.revoked:
            raise ForbiddenError("The mandate was revoked.", code="mandate_revoked")
        if mandate_id is not None and mandate_id != authority.mandate.mandate_id:
            raise ForbiddenError("No such mandate.", code="mandate_unknown")
        return authority

    async def renewed(self, authority: Authority, /) -> Authority:
        """
        Return the authority as it is.
        """
        return authority

    async def refusal(self, authority: Authority, outcome: Outcome, /) -> TokenworksError:
        """
        Return the ledger's refusal.
        """
        if outcome.code == Refusal.SCOPE_CLOSED:
            return ForbiddenError("The mandate was revoked.", code="mandate_revoked")
        if outcome.code == Refusal.SCOPE_FROZEN:
            return ForbiddenError("The mandate is frozen.", code="mandate_frozen")
        return await self._ledger.refusal(outcome)


class FakeBrake:
    """
    Says what it was told to say.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.action = Action.ALLOW
        self.judged: list[Subject] = []
        self.recorded: list[tuple[UUID, int]] = []
        self.reviews: dict[UUID, Review] = {}

    async def judge(self, subject: Subject, /) -> Decision:
        """
        Return the decision of the moment.
        """
        self.judged.append(subject)
        if self.action is Action.ALLOW:
            return Decision(action=Action.ALLOW, reasons=(), score_ppm=0, rules_version=1)
        reason = Reason(
            rule="new_payee", action=self.action, text="First payment to it.", figures={"seen": 0}
        )
        return Decision(action=self.action, reasons=(reason,), score_ppm=1_200_000, rules_version=1)

    async def record(self, subject: Subject, /, *, captured_quanta: int) -> None:
        """
        Note what was learned.
        """
        self.recorded.append((subject.payment_id, captured_quanta))

    async def open_review(self, subject: Subject, decision: Decision, /) -> Review:
        """
        Open a review, or return the one there is.
        """
        now = self._clock.now()
        return self.reviews.setdefault(
            subject.payment_id,
            Review(
                review_id=subject.payment_id,
                subject=subject,
                decision=decision,
                state=ReviewState.PENDING,
                approvals_needed=1,
                approved_by=(),
                created_at=now,
                expires_at=now + REVIEW_LIFETIME,
                decided_at=None,
                note="",
            ),
        )

    async def review(self, payment_id: UUID, /) -> Review | None:
        """
        Return the review of a payment.
        """
        return self.reviews.get(payment_id)

    async def reviews_of(self, payment_ids: Iterable[UUID], /) -> dict[UUID, Review]:
        """
        Return the reviews of some payments.
        """
        return {one: self.reviews[one] for one in payment_ids if one in self.reviews}
