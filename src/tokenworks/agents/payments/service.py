"""
Authorise, capture, release and show payments.

Order of a payment's life: ``claim`` (or ``authorise``) -> ``capture``* | ``release``; ``settle`` is
authorise and capture in one go. Each may be repeated, by any process, at any time: the answer is
the first one. A seller that works between hold and capture asks ``claim``, so that one payment
never buys two pieces of work.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.agents.brake.model import Action, Decision, ReviewState, Subject
from tokenworks.agents.brake.reviewing import state_at
from tokenworks.agents.mandates.model import Authority
from tokenworks.agents.payments.attesting import Attesting, check_attested
from tokenworks.agents.payments.authorising import (
    check_requirements,
    read_authorisation,
)
from tokenworks.agents.payments.capturing import Capturing
from tokenworks.agents.payments.errors import (
    AssetUnknownError,
    AttestationInvalidError,
    BindingMismatchError,
    PayeeIsPayerError,
    PaymentClaimedError,
    PaymentConflictError,
    PaymentDeniedError,
    PaymentInReviewError,
    PaymentNotFoundError,
    UnauthorizedServerError,
)
from tokenworks.agents.payments.held import CALL, ESCROW, HeldPayment, is_waiting
from tokenworks.agents.payments.identifying import request_digest_of
from tokenworks.agents.payments.model import (
    HOLD_LIFETIME_S_MAX,
    HOLD_LIFETIME_S_MIN,
    Authorisation,
    Payment,
    PaymentState,
    Receipted,
    Requirements,
    Scheme,
)
from tokenworks.agents.payments.payees import Payees
from tokenworks.agents.payments.placing import NOTHING_ELSE, Placing, Sold, held_of
from tokenworks.agents.payments.ports import Brake, MandateBook, Parties
from tokenworks.agents.payments.receipt import readers_of
from tokenworks.agents.payments.store import PaymentFilter, PaymentStore, from_row, payment_of
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.model import Fate, Outcome, Refusal
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.jws import to_base64url
from tokenworks.receipts.model import JsonValue

RELEASED_BY_SELLER: Final = "settled with nothing"
_SIGNED: Final = frozenset(scheme.value for scheme in Scheme)


class Payments:
    """
    Payments of agents.

    Args:
        pool: For reads.
        ledger: Holds and captures.
        mandates: Says what a wallet may spend.
        brake: Looks at each payment.
        parties: Knows the payees.
        receipts: Drafts and signs receipts.
        clock: When something is due.
        ids: Mints what tells one request from another.
        network: What authorisations of this hub are signed for.
        attesting: Signs and reads attestations.
        claim_key: Of the hub, secret: what the first to claim a payment is told is made by it.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        ledger: Ledger,
        mandates: MandateBook,
        brake: Brake,
        parties: Parties,
        receipts: ReceiptIssuer,
        clock: Clock,
        ids: IdentifierSource,
        network: str,
        attesting: Attesting,
        claim_key: bytes,
    ) -> None:
        self.network = network
        self.currency = ledger.currency
        self._attesting = attesting
        self._claim_key = claim_key
        self._ledger = ledger
        self._brake = brake
        self._clock = clock
        self._receipts = receipts
        self._payees = Payees(parties, ledger)
        self._placing = Placing(
            ledger=ledger,
            mandates=mandates,
            brake=brake,
            payees=self._payees,
            clock=clock,
            ids=ids,
        )
        self._capturing = Capturing(
            ledger=ledger,
            placing=self._placing,
            payees=self._payees,
            brake=brake,
            receipts=receipts,
        )
        self.store = PaymentStore(pool)

    # ------------------------------------------------------------------ signed payments

    async def claim(
        self, jws: str, requirements: Requirements, *, sold: Sold = NOTHING_ELSE
    ) -> Payment:
        """
        Verify, judge and hold a payment for one caller; to be asked before the work.

        Raises:
            PaymentClaimedError: It was claimed before.
            TokenworksError: As ``authorise``.
        """
        held = await self.claim_held(jws, requirements, sold=sold)
        return payment_of(held, state=PaymentState.HELD, recorded_at=self._clock.now())

    async def claim_held(
        self, jws: str, requirements: Requirements, *, sold: Sold = NOTHING_ELSE
    ) -> HeldPayment:
        """
        Do what ``claim`` does for a caller in this process that captures the hold itself.

        It ends the hold once, with the payment's row, and says so by ``note_sale``.

        Raises:
            TokenworksError: As ``claim``.
        """
        authorisation = self._read(jws, requirements, is_settling=False)
        held = await self._placing.claim(authorisation, _lifetime(requirements), sold)
        if sold.tokens and held.kind != CALL:
            # Held at another door, where neither the model nor its tokens were looked at.
            await self._capturing.release(held, reason="held for something else than a call")
            raise PaymentConflictError("The payment was held for something else than this call.")
        return held

    async def note_sale(self, held: HeldPayment, *, captured_quanta: int) -> None:
        """
        Learn from a payment that its claimer captured; never raises.
        """
        self._placing.forget(held.payment_id)
        await self._capturing.learn_soon(held, captured_quanta)

    async def authorise(
        self, jws: str, requirements: Requirements, *, sold: Sold = NOTHING_ELSE
    ) -> Payment:
        """
        Verify, judge and hold a payment; the same authorisation has the same hold.

        Raises:
            PaymentInReviewError: The money is held and people decide.
            TokenworksError: Signature, requirements, time, mandate, brake, money or a limit
                refuse; nothing is held.
        """
        authorisation = self._read(jws, requirements, is_settling=False)
        held, _ = await self._placing.open(authorisation, _lifetime(requirements), sold)
        return payment_of(held, state=PaymentState.HELD, recorded_at=self._clock.now())

    async def settle(
        self,
        jws: str,
        requirements: Requirements,
        *,
        is_payee: bool = False,
        claim: str | None = None,
        sold: Sold = NOTHING_ELSE,
    ) -> Receipted:
        """
        Capture what was authorised, held before or now; requirements name the actual amount.

        Zero gives the whole hold back. Whoever has the signature (the payer too) may pay the
        payee all of it; of what was held before, less is taken or given back by the payee alone, or
        by whoever was given the claim: otherwise a payer could end a payment cheaply while the
        seller works for it.

        Args:
            jws: What the wallet signed.
            requirements: What the seller asks.
            is_payee: Whether the payee itself is known to ask.
            claim: What ``claim_of`` told the one who may work for the payment.
            sold: For the mandate's predicates.

        Raises:
            UnauthorizedServerError: Somebody else asks for less than is held.
            TokenworksError: As ``authorise`` and ``capture``.
        """
        authorisation = self._read(jws, requirements, is_settling=True)
        held, is_new = await self._placing.open(authorisation, _lifetime(requirements), sold)
        if held.kind == CALL:
            # The gateway works for it at this moment, and knows alone what is due.
            raise PaymentClaimedError("This payment buys a call; the hub settles it itself.")
        may_take_less = is_payee or is_new or self._is_claimer(held, claim)
        return await self._end(held, requirements.amount, may_take_less=may_take_less)

    async def _end(self, held: HeldPayment, quanta: int, *, may_take_less: bool) -> Receipted:
        if quanta != held.authorised_quanta and not may_take_less:
            await self._require_repeat(held, quanta)
        if quanta == 0:
            return await self._capturing.release(held, reason=RELEASED_BY_SELLER)
        return await self._capturing.capture(held, quanta=quanta)

    async def _require_repeat(self, held: HeldPayment, quanta: int) -> None:
        rows = await self.store.rows(held.payment_id)
        if rows and rows[-1]["closes"]:
            return  # it is over: the answer is the first one, or a conflict
        message = (
            f"Only the payee may settle {quanta} of {held.authorised_quanta} that are held: send"
            " extra.claim as verify answered it, or its API key as 'Authorization: Bearer tw_...'."
        )
        raise UnauthorizedServerError(message, param="amount")

    def claim_of(self, payment_id: UUID) -> str:
        """
        Return what proves that one was given a payment, to be told to whom ``claim`` gave it.

        Nobody else can make it, and nobody is told twice: so a seller without a key of its own
        can give back what its failed work was held for, and the payer cannot.
        """
        return to_base64url(hmac.digest(self._claim_key, payment_id.bytes, "sha256"))

    def _is_claimer(self, held: HeldPayment, claim: str | None) -> bool:
        if claim is None:
            return False
        return hmac.compare_digest(claim.encode(), self.claim_of(held.payment_id).encode())

    async def owners_of_payee(self, payee_id: UUID) -> frozenset[UUID]:
        """
        Return the parties whose keys speak for a payee: itself and its organisation.
        """
        return await self._payees.owners(payee_id)

    # ------------------------------------------------------------------ attested payments

    async def attest(
        self, jws: str, requirements: Requirements, resource: str, *, sold: Sold = NOTHING_ELSE
    ) -> str:
        """
        Hold a payment ahead, for the seller that will show what is returned; idempotent.

        Returns:
            A short JWS of this hub: payee, resource, amount, and until when it is held.

        Raises:
            PaymentClaimedError: The payment was used without an attestation before.
            PaymentSettledError, PaymentConflictError, PaymentHoldExpiredError: It is over.
            TokenworksError: As ``authorise``.
        """
        authorisation = self._read(jws, requirements, is_settling=False)
        held, _ = await self._placing.open(
            authorisation, _lifetime(requirements), sold, is_attested=True
        )
        view = await self._ledger.hold(held.payment_id)
        if not held.is_attested or view is None:
            raise PaymentClaimedError("This payment was used without an attestation before.")
        if view.state != "open":
            # A seller reads the statement offline and works for it: nothing is held any more.
            raise await self._placing.closed(held.payment_id)
        return self._attesting.issue(
            held, resource=resource, issued_at=view.placed_at, expires_at=view.expires_at
        )

    async def claim_attested(self, attestation: str, requirements: Requirements) -> Payment:
        """
        Give an attested payment to one seller, before its work.

        Raises:
            AttestationInvalidError, RequirementsMismatchError, UnauthorizedServerError: It is
                not this hub's, or not for these requirements.
            PaymentClaimedError, PaymentSettledError, PaymentHoldExpiredError: As ``claim``.
        """
        held = await self._attested(attestation, requirements, is_settling=False)
        held = await self._placing.claim_held(held, _lifetime(requirements))
        return payment_of(held, state=PaymentState.HELD, recorded_at=self._clock.now())

    async def settle_attested(
        self,
        attestation: str,
        requirements: Requirements,
        *,
        is_payee: bool = False,
        claim: str | None = None,
    ) -> Receipted:
        """
        Capture an attested payment; as ``settle``.
        """
        held = await self._attested(attestation, requirements, is_settling=True)
        may_take_less = is_payee or self._is_claimer(held, claim)
        return await self._end(held, requirements.amount, may_take_less=may_take_less)

    async def _attested(
        self, attestation: str, requirements: Requirements, *, is_settling: bool
    ) -> HeldPayment:
        said = await self._attesting.read(attestation)
        check_attested(said, requirements, network=self.network, is_settling=is_settling)
        held = await self._held(said.payment_id)
        if not held.is_attested or held.payee_id != said.pay_to:
            raise AttestationInvalidError("The books know this payment otherwise.")
        asked = requirements.binding
        if held.request_digest != request_digest_of(asked.method, asked.url, asked.body_sha256):
            # The statement names the address alone; the wallet signed method and body too.
            raise BindingMismatchError("The payment was signed for another request.")
        return replace(held, resource=held.resource or said.resource)

    def _read(self, jws: str, requirements: Requirements, *, is_settling: bool) -> Authorisation:
        authorisation = read_authorisation(jws, network=self.network)
        if authorisation.asset != self.currency:
            message = f"This hub's money is {self.currency}, not {authorisation.asset}."
            raise AssetUnknownError(message, param="asset")
        check_requirements(authorisation, requirements, is_settling=is_settling)
        return authorisation

    # ------------------------------------------------------------------ by id

    async def hold(
        self,
        authority: Authority,
        subject: Subject,
        *,
        quanta: int,
        expires_at: datetime,
        fate: Fate = Fate.VOID,
        payer: str = "",
        kind: str = ESCROW,
        decision: Decision | None = None,
        jws: str | None = None,
    ) -> Payment:
        """
        Hold a payment whose signature somebody else has read; the same subject, the same hold.

        Args:
            authority: The mandate that allows it.
            subject: What it is; its ``payment_id`` becomes the hold's.
            quanta: The most that can be captured.
            expires_at: When the hold ends by itself.
            fate: ``VOID``, or ``WAIT``: it never ends by itself.
            payer: The wallet's address.
            kind: What stands as scheme in the books.
            decision: The brake's; asked here when omitted.
            jws: What was signed, for the receipt.

        Raises:
            PaymentInReviewError, PaymentDeniedError: The brake says so.
            PaymentConflictError: The id stands for another payment.
            TokenworksError: Payee, money or a limit refuse.
        """
        assert fate is not Fate.CAPTURE, "a capture at expiry would have no receipt"
        assert quanta == subject.quanta, "what is looked at is what is held"
        found = await self._find_same(subject)
        if found is not None:
            return found
        subject = replace(
            subject,
            mandate_chain=tuple(link.mandate_id for link in authority.chain),
            overseers=authority.parties,
        )
        payee = await self._payees.payable(subject.payee_id)
        if payee.organisation_id == authority.mandate.organisation_id:
            message = "The payee belongs to the payer's own organisation."
            raise PayeeIsPayerError(message, param="payee")
        decision = decision or await self._brake.judge(subject)
        waits = is_waiting(decision)
        if waits:
            expires_at = await self._ask(subject, decision)
        held = held_of(subject, decision, kind=kind, payer=payer, jws=jws)
        outcome = await self._placing.place(held, authority, expires_at=expires_at, fate=fate)
        if outcome.code == Refusal.CONFLICT:
            found = await self._find_same(subject)
            if found is not None:
                return found
        if not outcome.is_done:
            raise await self._placing.refusal(authority, outcome)
        assert outcome.recorded_at is not None, "a placed hold has its time"
        if waits:
            message = "A person decides about this payment; ask for it again later."
            raise PaymentInReviewError(message, details={"payment_id": str(subject.payment_id)})
        return payment_of(held, state=PaymentState.HELD, recorded_at=outcome.recorded_at)

    async def _ask(self, subject: Subject, decision: Decision) -> datetime:
        review = None
        if decision.action.value != "deny":
            review = await self._brake.open_review(subject, decision)
        if review is None or review.state in {ReviewState.DENIED, ReviewState.EXPIRED}:
            reasons = "; ".join(reason.text for reason in decision.reasons) or "by a person."
            raise PaymentDeniedError(f"The payment was stopped: {reasons}")
        return review.expires_at

    async def _find_same(self, subject: Subject) -> Payment | None:
        found = await self._placing.find(subject.payment_id)
        if found is None:
            return None
        held, _ = found
        if held.digest != subject.digest:
            raise PaymentConflictError("The id was used for another payment.")
        await self._placing.admitted(held)
        return await self.get(subject.payment_id)

    async def capture(
        self,
        payment_id: UUID,
        *,
        quanta: int,
        closes: bool = True,
        ordinal: int = 0,
        kind: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Receipted:
        """
        Pay the payee from a payment's hold; what is left goes back when it ``closes``.

        Args:
            payment_id: Of a payment that is held.
            quanta: Above zero; all parts together at most what was authorised.
            closes: Whether nothing more is to be captured.
            ordinal: The part, counted from 0; each is captured once.
            kind: What stands as scheme on the receipt; as it was held when omitted.
            details: Why an escrow pays it, for the receipt.

        Raises:
            PaymentNotFoundError: There is none.
            PaymentInReviewError, PaymentDeniedError: People did not approve it.
            PaymentConflictError: This part was captured with another amount; or the payment was
                released, or has less left.
            PaymentHoldExpiredError, PaymentSettledError: Nothing is held any more.
        """
        held = await self._held(payment_id)
        if ordinal > 0 or not closes or held.kind not in _SIGNED:
            await self._require_left(held, quanta, ordinal)
        if kind is not None:
            held = replace(held, kind=kind)
        return await self._capturing.capture(
            held, quanta=quanta, closes=closes, ordinal=ordinal, details=details
        )

    async def release(self, payment_id: UUID, *, reason: str) -> Receipted:
        """
        Give back what is held; a repeat returns the first answer.

        Also of a payment that waits for people, or that they denied.

        Raises:
            PaymentNotFoundError: There is none.
            PaymentHoldExpiredError, PaymentSettledError: There is nothing to give back.
        """
        held = self._placing.known(payment_id)
        if held is None:
            found = await self._placing.find(payment_id)
            if found is None:
                raise _not_found(payment_id)
            held = found[0]
        return await self._capturing.release(held, reason=reason)

    async def _held(self, payment_id: UUID) -> HeldPayment:
        held = self._placing.known(payment_id)
        if held is not None:
            return held
        found = await self._placing.find(payment_id)
        if found is None:
            raise _not_found(payment_id)
        return await self._placing.admitted(found[0])

    async def _require_left(self, held: HeldPayment, quanta: int, ordinal: int) -> None:
        # Two parts at once that are both within it are stopped by the row's own constraint.
        rows = await self.store.rows(held.payment_id)
        others = sum(row["captured_quanta"] for row in rows if row["ordinal"] != ordinal)
        if others + quanta > held.authorised_quanta:
            message = "All parts together are at most what was authorised."
            raise PaymentConflictError(message, param="amount")

    # ------------------------------------------------------------------ looking

    async def get(self, payment_id: UUID) -> Payment:
        """
        Return a payment as it stands in the books.

        Raises:
            PaymentNotFoundError: There is none.
        """
        payment = await self._stands(payment_id)
        return (await self._with_reviews([payment]))[0]

    async def _stands(self, payment_id: UUID) -> Payment:
        rows = await self.store.rows(payment_id)
        captured = sum(row["captured_quanta"] for row in rows)
        if rows and rows[-1]["closes"]:
            return from_row(rows[-1], captured_quanta=captured)
        found = await self._placing.find(payment_id)
        if found is None:
            raise _not_found(payment_id)
        held, hold_state = found
        view = await self._ledger.hold(payment_id)
        assert view is not None, "it was found a moment ago"
        if rows:
            payment = from_row(rows[-1], captured_quanta=captured)
            is_open = hold_state == "open"
            return replace(payment, state=PaymentState.HELD if is_open else PaymentState.CAPTURED)
        state = {
            "open": PaymentState.HELD,
            "captured": PaymentState.CAPTURED,
            "voided": PaymentState.RELEASED,
            "expired": PaymentState.EXPIRED,
        }[hold_state]
        return payment_of(held, state=state, recorded_at=view.placed_at)

    async def _with_reviews(self, payments: Sequence[Payment]) -> list[Payment]:
        """
        Say of payments that people were asked about what they said, and which still wait.
        """
        asked = [p.payment_id for p in payments if _was_asked_about(p.decision)]
        if not asked:
            return list(payments)
        reviews = await self._brake.reviews_of(asked)
        now = self._clock.now()
        told: list[Payment] = []
        for payment in payments:
            review, state = reviews.get(payment.payment_id), payment.state
            if review is not None:
                review = replace(review, state=state_at(review, now))
                if state is PaymentState.HELD and review.state is not ReviewState.APPROVED:
                    # Denied or too late too, until the hold is given back: nobody may count on it.
                    state = PaymentState.IN_REVIEW
            told.append(replace(payment, state=state, review=review))
        return told

    async def list_payments(
        self, wanted: PaymentFilter, cursor: str | None, limit: int
    ) -> tuple[list[Payment], str | None]:
        """
        Return one page of payments, newest first, and the next page's cursor.
        """
        payments, following = await self.store.list_payments(wanted, cursor, limit)
        return await self._with_reviews(payments), following

    async def receipt(self, payment_id: UUID, view: str, ordinal: int = 0) -> dict[str, Any]:
        """
        Return a reader's view of a captured payment's receipt, with its certificate.

        Raises:
            PaymentNotFoundError: There is no such payment, or this part was not captured.
            ReceiptViewEmptyError: Nothing in it is for this reader.
        """
        rows = await self.store.rows(payment_id)
        row = next(
            (r for r in rows if r["operation"] == "capture" and r["ordinal"] == ordinal), None
        )
        entry = await self._ledger.stored_entry(payment_id, "capture", ordinal)
        if row is None or entry is None:
            message = f"There is no receipt of a payment {payment_id}."
            raise PaymentNotFoundError(message, param="payment_id")
        recorded_at, _, lane, sequence, previous = entry
        fields = row["receipt"]
        if fields is None:
            message = f"The payment bought a call; its receipt is /hub/v1/receipts/{payment_id}."
            raise PaymentNotFoundError(message, param="payment_id")
        prepared = self._receipts.draft(payment_id, fields, readers_of(fields))
        position = Outcome(
            code="replayed",
            recorded_at=recorded_at,
            lane=lane,
            receipt_sequence=sequence,
            receipt_previous=bytes(previous),
        )
        return await self._receipts.document(prepared, position, view=view, with_certificate=True)

    async def quiet(self) -> None:
        """
        Return when the brake has learned from everything that was captured.
        """
        await self._capturing.quiet()

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        await self.store.ensure_partitions()


def _lifetime(requirements: Requirements) -> int:
    return max(HOLD_LIFETIME_S_MIN, min(requirements.timeout_s, HOLD_LIFETIME_S_MAX))


def _was_asked_about(decision: Decision) -> bool:
    return decision.action is not Action.ALLOW or decision.review_id is not None


def _not_found(payment_id: UUID) -> PaymentNotFoundError:
    return PaymentNotFoundError(f"There is no payment {payment_id}.", param="payment_id")
