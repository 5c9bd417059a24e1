"""
From a signature to a hold: verify, ask the mandate, ask the brake, hold; once.

The ledger alone decides what is new: the hold's fact is the payment's id. So nothing is read
first. Only when something refuses (a mandate was revoked meanwhile, the authorisation expired,
the brake changed its mind) is the hold looked up, because what is held already goes on.

Invariants: an unknown payment is held only with a valid time, a mandate and the brake's word;
one that is held under review goes on only when people approved exactly its digest. What a
request notes with its hold (``claim``) is its own: so a hold that is *replayed* to it is the one
it placed, and the answer to that was lost, while another request's is a *conflict*.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.agents.brake.model import Action, Decision, ReviewState, Subject
from tokenworks.agents.brake.reviewing import decision_after, state_at
from tokenworks.agents.mandates.model import Authority, Purchase
from tokenworks.agents.payments.authorising import check_times
from tokenworks.agents.payments.errors import (
    NonceOutsideWindowError,
    PayeeIsPayerError,
    PaymentClaimedError,
    PaymentConflictError,
    PaymentDeniedError,
    PaymentHoldExpiredError,
    PaymentInReviewError,
    PaymentSettledError,
)
from tokenworks.agents.payments.held import CALL, HeldPayment, from_meta, is_waiting, to_meta
from tokenworks.agents.payments.identifying import request_digest_of
from tokenworks.agents.payments.legs import reservations
from tokenworks.agents.payments.model import Authorisation
from tokenworks.agents.payments.payees import Payees
from tokenworks.agents.payments.ports import Brake, MandateBook
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource, identifier_text
from tokenworks.foundation.limits import LEDGER_ANSWER_TIMEOUT_S
from tokenworks.ledger.model import OK, REPLAYED, Fate, Outcome, Placement, Refusal
from tokenworks.ledger.service import Ledger

HELD_REMEMBERED_MAX: Final = 20_000
CLAIM_EXTENSION: Final = 1
"""A payment whose placing claimed nothing is claimed by its hold's first extension, of nothing."""

_encode = msgspec.json.Encoder(order="sorted").encode
_HOLD_STATES: Final = {"captured", "voided", "expired"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """
    What else the predicates of a mandate may ask about.
    """

    model: str | None = None  # ``model@tier``
    tool: str | None = None
    provider: str | None = None
    description: str = ""  # for the person who looks at it
    tokens: int = 0  # the most that a call may use; above 0 the hub's own gateway sells and settles


NOTHING_ELSE: Final = Sold()


class Placing:
    """
    Hold what a wallet authorised.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        mandates: MandateBook,
        brake: Brake,
        payees: Payees,
        clock: Clock,
        ids: IdentifierSource,
    ) -> None:
        self._ledger = ledger
        self._mandates = mandates
        self._brake = brake
        self._payees = payees
        self._clock = clock
        self._ids = ids
        self._held: OrderedDict[UUID, HeldPayment] = OrderedDict()

    # ------------------------------------------------------------------ from a signature

    async def claim(self, authorisation: Authorisation, timeout_s: int, sold: Sold) -> HeldPayment:
        """
        Hold a payment for exactly one caller: whoever asks second is refused.

        Raises:
            PaymentClaimedError: It is held for another caller.
            PaymentSettledError, PaymentHoldExpiredError: It is over.
            TokenworksError: As ``open``.
        """
        held, is_new = await self.open(authorisation, timeout_s, sold)
        if held.is_unclaimed:
            return await self.claim_held(held, timeout_s)
        if is_new:
            return held
        raise await self._claimed(held.payment_id)

    async def claim_held(self, held: HeldPayment, timeout_s: int) -> HeldPayment:
        """
        Give a payment that is held already to one caller: the first to extend its hold.
        """
        if not held.is_unclaimed:
            raise await self._claimed(held.payment_id)
        outcome = await self._ledger.place(
            Placement(
                hold_id=held.payment_id,
                extension=CLAIM_EXTENSION,
                reservations=(),
                expires_at=self._clock.now() + timedelta(seconds=timeout_s),
                deadline=self._deadline(),
                meta=_encode({"claim": identifier_text(self._ids.mint())}).decode(),
            )
        )
        if outcome.is_done:
            return held
        if outcome.code in {Refusal.CONFLICT, Refusal.HOLD_CLOSED}:
            raise await self._claimed(held.payment_id)
        raise await self._ledger.refusal(outcome)

    async def open(
        self,
        authorisation: Authorisation,
        timeout_s: int,
        sold: Sold,
        *,
        is_attested: bool = False,
    ) -> tuple[HeldPayment, bool]:
        """
        Return the payment's hold, placed now or before, and whether it is new.

        Raises:
            PaymentInReviewError: The money is held and people decide.
            PaymentDeniedError: The brake or a person said no.
            PaymentConflictError: The nonce stands for another payment.
            TokenworksError: Time, mandate, payee, money or a limit refuse.
        """
        known = self._held.get(authorisation.payment_id)
        if known is not None and known.digest == authorisation.digest:
            return known, False
        try:
            held, subject, authority = await self._judge(authorisation, sold)
        except TokenworksError:
            # What is held already is a promise; only what is new is refused.
            found = await self._find(authorisation)
            if found is None:
                raise
            return found, False
        if is_attested:
            held = replace(held, is_attested=True, is_unclaimed=True)
        else:
            held = replace(held, claim=self._ids.mint())
        expires_at = self._clock.now() + timedelta(seconds=timeout_s)
        waits = is_waiting(held.decision)
        if waits:
            found = await self._find(authorisation)
            if found is not None:
                return found, False
            if held.decision.action is Action.DENY:
                raise _denied(held.decision)
            review = await self._brake.open_review(subject, held.decision)
            if review.state in {ReviewState.DENIED, ReviewState.EXPIRED}:
                raise _denied(held.decision)
            expires_at = review.expires_at
        outcome = await self.place(held, authority, expires_at=expires_at)
        if outcome.code == OK or (outcome.code == REPLAYED and held.claim is not None):
            if waits:
                raise _in_review(held.payment_id, expires_at)
            return self._remember(replace(held, parts=outcome.parts)), True
        if outcome.code in {REPLAYED, Refusal.CONFLICT}:
            # In the books already, perhaps along another path or with another word of the brake.
            found = await self._find(authorisation)
            if found is not None:
                return found, False
            raise PaymentConflictError("The nonce stands for something else in the books.")
        raise await self.refusal(authority, outcome)

    async def _judge(
        self, authorisation: Authorisation, sold: Sold
    ) -> tuple[HeldPayment, Subject, Authority]:
        now = self._clock.now()
        check_times(authorisation, now=now)
        payee = await self._payees.payable(authorisation.pay_to)
        authority = await self._mandates.authorise(
            authorisation.payer,
            authorisation.mandate_id,
            Purchase(
                payee_id=payee.party_id,
                quanta=authorisation.amount,
                currency=authorisation.asset,
                instrument=authorisation.network,
                provider=sold.provider,
                reference=authorisation.reference,
                tool=sold.tool,
                model=sold.model,
            ),
            now=now,
        )
        if payee.organisation_id == authority.mandate.organisation_id:
            message = "The payee belongs to the payer's own organisation."
            raise PayeeIsPayerError(message, param="pay_to")
        binding = authorisation.binding
        subject = subject_of(
            authority,
            payment_id=authorisation.payment_id,
            digest=authorisation.digest,
            payee_id=payee.party_id,
            quanta=authorisation.amount,
            currency=authorisation.asset,
            resource=f"{binding.method} {binding.url}",
            request_digest=request_digest_of(binding.method, binding.url, binding.body_sha256),
            description=sold.description,
        )
        decision = await self._brake.judge(subject)
        held = held_of(
            subject,
            decision,
            kind=CALL if sold.tokens else authorisation.scheme.value,
            payer=authorisation.payer,
            jws=authorisation.jws,
        )
        return replace(held, tokens=sold.tokens), subject, authority

    # ------------------------------------------------------------------ the ledger

    async def place(
        self,
        held: HeldPayment,
        authority: Authority,
        *,
        expires_at: datetime,
        fate: Fate = Fate.VOID,
    ) -> Outcome:
        """
        Place a payment's hold along its mandate's path; refusals come back as codes.
        """
        placement = Placement(
            hold_id=held.payment_id,
            path_id=authority.path_id,
            path_version=authority.path_version,
            reservations=reservations(held.currency, held.authorised_quanta, tokens=held.tokens),
            expires_at=expires_at,
            deadline=self._deadline(),
            fate=fate,
            meta=to_meta(held),
        )
        outcome = await self._ledger.place(placement)
        if outcome.code == Refusal.SPEND_PATH_STALE:
            current = await self._mandates.renewed(authority)
            outcome = await self._ledger.place(
                replace(placement, path_id=current.path_id, path_version=current.path_version)
            )
        return outcome

    async def find(self, payment_id: UUID) -> tuple[HeldPayment, str] | None:
        """
        Return a payment as its hold notes it, and the hold's state.
        """
        view = await self._ledger.hold(payment_id)
        noted = None if view is None else from_meta(payment_id, view.meta)
        if view is None or noted is None:
            return None
        return replace(noted, parts=view.parts), view.state

    def known(self, payment_id: UUID) -> HeldPayment | None:
        """
        Return a payment that this process holds.
        """
        return self._held.get(payment_id)

    def forget(self, payment_id: UUID) -> None:
        """
        Forget a payment that has ended.
        """
        self._held.pop(payment_id, None)

    async def refusal(self, authority: Authority, outcome: Outcome) -> TokenworksError:
        """
        Turn the refusal of a hold into the error a payer should see.
        """
        if outcome.code == Refusal.ID_OUTSIDE_WINDOW:
            message = "The nonce's time is in the future, or older than the books go back."
            return NonceOutsideWindowError(message, param="jti")
        if outcome.code == Refusal.CONFLICT:
            return PaymentConflictError("The payment is in the books with other content.")
        return await self._mandates.refusal(authority, outcome)

    async def closed(self, payment_id: UUID) -> TokenworksError:
        """
        Say why a payment's hold takes nothing more.
        """
        view = await self._ledger.hold(payment_id)
        if view is not None and view.state == "captured":
            return PaymentSettledError("The payment was settled before.")
        if view is not None and view.state == "voided":
            return PaymentConflictError("The payment was released before.")
        return PaymentHoldExpiredError("The payment's hold has ended; nothing was taken.")

    async def admitted(self, held: HeldPayment) -> HeldPayment:
        """
        Return a payment that was held before, if people had nothing against it.
        """
        review = await self._brake.review(held.payment_id)
        if review is None:
            return held
        state = state_at(review, self._clock.now())
        if state is ReviewState.PENDING:
            raise _in_review(held.payment_id, review.expires_at)
        if state is not ReviewState.APPROVED:
            raise _denied(review.decision)
        if review.subject.digest != held.digest:
            raise PaymentConflictError("What was approved is another payment.")
        return replace(held, decision=decision_after(review, self._clock.now()))

    # ------------------------------------------------------------------ plumbing

    async def _find(self, authorisation: Authorisation) -> HeldPayment | None:
        found = await self.find(authorisation.payment_id)
        if found is None:
            return None
        noted, _ = found
        if noted.digest != authorisation.digest:
            raise PaymentConflictError("The nonce was used for another payment.")
        binding = authorisation.binding
        admitted = await self.admitted(
            replace(noted, jws=authorisation.jws, resource=f"{binding.method} {binding.url}")
        )
        return self._remember(admitted)

    async def _claimed(self, payment_id: UUID) -> TokenworksError:
        found = await self.find(payment_id)
        if found is not None and found[1] in _HOLD_STATES:
            return await self.closed(payment_id)
        return PaymentClaimedError("This payment was taken by an earlier request.")

    def _remember(self, held: HeldPayment) -> HeldPayment:
        self._held[held.payment_id] = held
        if len(self._held) > HELD_REMEMBERED_MAX:
            self._held.popitem(last=False)
        return held

    def _deadline(self) -> datetime:
        return self._clock.now() + timedelta(seconds=LEDGER_ANSWER_TIMEOUT_S)


def subject_of(
    authority: Authority,
    *,
    payment_id: UUID,
    digest: bytes,
    payee_id: UUID,
    quanta: int,
    currency: str,
    resource: str,
    request_digest: bytes,
    description: str = "",
) -> Subject:
    """
    Return what the brake looks at.
    """
    mandate = authority.mandate
    return Subject(
        payment_id=payment_id,
        digest=digest,
        agent_id=mandate.agent_id,
        mandate_id=mandate.mandate_id,
        organisation_id=mandate.organisation_id,
        party_chain=authority.party_chain,
        payee_id=payee_id,
        quanta=quanta,
        currency=currency,
        resource=resource,
        request_digest=request_digest,
        description=description,
        mandate_chain=tuple(link.mandate_id for link in authority.chain),
        overseers=authority.parties,
    )


def held_of(
    subject: Subject,
    decision: Decision,
    *,
    kind: str,
    payer: str,
    jws: str | None = None,
) -> HeldPayment:
    """
    Return the payment as it is to be held.
    """
    return HeldPayment(
        payment_id=subject.payment_id,
        digest=subject.digest,
        kind=kind,
        payer=payer,
        agent_id=subject.agent_id,
        organisation_id=subject.organisation_id,
        party_chain=subject.party_chain,
        mandate_id=subject.mandate_id,
        chain=subject.mandate_chain,
        payee_id=subject.payee_id,
        currency=subject.currency,
        authorised_quanta=subject.quanta,
        resource=subject.resource,
        request_digest=subject.request_digest,
        decision=decision,
        jws=jws,
    )


def _in_review(payment_id: UUID, expires_at: datetime) -> PaymentInReviewError:
    message = "A person decides about this payment; send the same authorisation again later."
    return PaymentInReviewError(
        message,
        details={"payment_id": str(payment_id), "expires_at": expires_at.isoformat()},
    )


def _denied(decision: Decision) -> PaymentDeniedError:
    reasons = [{"rule": reason.rule, "text": reason.text} for reason in decision.reasons]
    message = "The payment was stopped: " + (
        "; ".join(reason.text for reason in decision.reasons) or "by a person."
    )
    return PaymentDeniedError(message, details={"reasons": reasons})
