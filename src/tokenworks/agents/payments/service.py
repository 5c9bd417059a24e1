"""
Authorise, capture, release and show payments.

Order of a payment's life: ``claim`` (or ``authorise``) -> ``capture``* | ``release``; ``settle`` is
authorise and capture in one go. Each may be repeated, by any process, at any time: the answer is
the first one. A seller that works between hold and capture asks ``claim``, so that one payment
never buys two pieces of work.

The parts, each with its own rules: ``placing`` (judge and hold), ``holding`` (the same by id),
``attesting`` (a hold shown to a seller), ``capturing`` and ``settling`` (how it ends), ``standing``
(how it stands).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.agents.brake.model import Decision, Subject
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
    PaymentClaimedError,
    PaymentConflictError,
)
from tokenworks.agents.payments.held import CALL, ESCROW, HeldPayment
from tokenworks.agents.payments.holding import Holding
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
from tokenworks.agents.payments.placing import NOTHING_ELSE, Placing, Sold
from tokenworks.agents.payments.ports import Brake, MandateBook, Parties
from tokenworks.agents.payments.settling import Settling
from tokenworks.agents.payments.standing import Standing
from tokenworks.agents.payments.store import PaymentFilter, PaymentStore, payment_of
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.model import Fate
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.model import JsonValue

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
        self._ledger = ledger
        self._clock = clock
        self.store = PaymentStore(pool)
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
        self._settling = Settling(store=self.store, capturing=self._capturing, claim_key=claim_key)
        self._standing = Standing(
            store=self.store,
            ledger=ledger,
            placing=self._placing,
            brake=brake,
            receipts=receipts,
            clock=clock,
        )
        self._holding = Holding(
            store=self.store,
            placing=self._placing,
            payees=self._payees,
            brake=brake,
            standing=self._standing,
        )

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
        may_take_less = is_payee or is_new or self._settling.is_claimer(held, claim)
        return await self._settling.end(held, requirements.amount, may_take_less=may_take_less)

    def claim_of(self, payment_id: UUID) -> str:
        """
        Return what proves that one was given a payment, to be told to whom ``claim`` gave it.

        Nobody else can make it, and nobody is told twice: so a seller without a key of its own
        can give back what its failed work was held for, and the payer cannot.
        """
        return self._settling.claim_of(payment_id)

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
            TokenworksError: As ``authorise``.
        """
        authorisation = self._read(jws, requirements, is_settling=False)
        held, _ = await self._placing.open(
            authorisation, _lifetime(requirements), sold, is_attested=True
        )
        view = await self._ledger.hold(held.payment_id)
        if not held.is_attested or view is None:
            raise PaymentClaimedError("This payment was used without an attestation before.")
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
        may_take_less = is_payee or self._settling.is_claimer(held, claim)
        return await self._settling.end(held, requirements.amount, may_take_less=may_take_less)

    async def _attested(
        self, attestation: str, requirements: Requirements, *, is_settling: bool
    ) -> HeldPayment:
        said = await self._attesting.read(attestation)
        check_attested(said, requirements, network=self.network, is_settling=is_settling)
        held = await self._holding.find_admitted(said.payment_id)
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
        return await self._holding.hold(
            authority,
            subject,
            quanta=quanta,
            expires_at=expires_at,
            fate=fate,
            payer=payer,
            kind=kind,
            decision=decision,
            jws=jws,
        )

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
        held = await self._holding.find_admitted(payment_id)
        if ordinal > 0 or not closes or held.kind not in _SIGNED:
            await self._holding.require_left(held, quanta=quanta, ordinal=ordinal)
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
        held = await self._holding.find(payment_id)
        return await self._capturing.release(held, reason=reason)

    # ------------------------------------------------------------------ looking

    async def get(self, payment_id: UUID) -> Payment:
        """
        Return a payment as it stands in the books.

        Raises:
            PaymentNotFoundError: There is none.
        """
        return await self._standing.get(payment_id)

    async def list_payments(
        self, wanted: PaymentFilter, cursor: str | None, limit: int
    ) -> tuple[list[Payment], str | None]:
        """
        Return one page of payments, newest first, and the next page's cursor.
        """
        return await self._standing.list_payments(wanted, cursor, limit)

    async def receipt(self, payment_id: UUID, view: str, ordinal: int = 0) -> dict[str, Any]:
        """
        Return a reader's view of a captured payment's receipt, with its certificate.

        Raises:
            PaymentNotFoundError: There is no such payment, or this part was not captured.
            ReceiptViewEmptyError: Nothing in it is for this reader.
        """
        return await self._standing.receipt(payment_id, view, ordinal)

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
