"""
Payer, payee, verifier and arbiter of escrows, on real books and a real sandbox.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.payments_rig import PaymentsRig, make_payments, open_payments
from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.agents.escrow.attestation import sign_attestation
from tokenworks.agents.escrow.model import Actor, Escrow
from tokenworks.agents.escrow.ports import Evaluator, Purse
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.agents.escrow.service import Escrows
from tokenworks.agents.escrow.terms import terms_sha256, terms_url
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import quanta_from_text
from tokenworks.gateway.calls import CallStore
from tokenworks.identity.model import Party, PartyKind
from tokenworks.receipts.jws import to_base64url

SCHEMA = {
    "type": "object",
    "properties": {
        "status": {"type": "integer"},
        "done": {"type": "integer"},
        "total": {"type": "integer"},
    },
    "required": ["status"],
}
CONDITION = "result.status == 200"
TESTED = "result.attested.tests.passed >= 3"


@dataclass(kw_only=True)
class EscrowRig:
    """
    Everything a test of escrows needs.
    """

    pay: PaymentsRig
    evaluator: CelSandbox
    escrows: Escrows
    arbiter: Party
    verifier: Ed25519PrivateKey = field(repr=False)

    @property
    def clock(self) -> FakeClock:
        """
        Return the one clock.
        """
        return self.pay.clock

    @property
    def payer(self) -> Actor:
        """
        Return the payer's agent.
        """
        return Actor(party_id=self.pay.agent.party_id, name="payer")

    @property
    def payee(self) -> Actor:
        """
        Return the shop.
        """
        return Actor(party_id=self.pay.shop.party_id, name="payee")

    @property
    def judge(self) -> Actor:
        """
        Return the arbiter that terms may name.
        """
        return Actor(party_id=self.arbiter.party_id, name="arbiter")

    @property
    def operator(self) -> Actor:
        """
        Return an operator of the hub.
        """
        return Actor(party_id=UUID(int=1), name="operator", is_admin=True)

    def terms(self, *conditions: tuple[str, str], **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
        """
        Return terms; each milestone is (amount in dollars, condition), named m0, m1, ...
        """
        parts = conditions or (("0.0003", CONDITION),)
        address = to_base64url(self.verifier.public_key().public_bytes_raw())
        return {
            "milestones": [
                {"name": f"m{place}", "amount": amount, "condition": condition}
                for place, (amount, condition) in enumerate(parts)
            ],
            "result_schema": SCHEMA,
            "submit_by": (self.clock.now() + timedelta(hours=1)).isoformat(),
            "review_window_s": 0,
            "decide_by_s": 600,
            "verifiers": {"tests": address},
        } | changes

    def sign(self, terms: Mapping[str, Any], **claims: Any) -> str:  # noqa: ANN401 - whatever JSON has
        """
        Return the payer's authorisation of some terms.
        """
        total = sum(quanta_from_text(part["amount"], scale=9) for part in terms["milestones"])
        wanted = {
            "scheme": "upto",
            "method": "ESCROW",
            "url": terms_url(terms_sha256(terms)),
            "amount": str(total),
        }
        return self.pay.wallet.pay(self.pay.shop.party_id, **(wanted | claims))

    async def open(self, *conditions: tuple[str, str], **changes: Any) -> Escrow:  # noqa: ANN401 - whatever JSON has
        """
        Open an escrow.
        """
        terms = self.terms(*conditions, **changes)
        return await self.escrows.open(self.sign(terms), terms)

    async def submit(
        self,
        escrow: Escrow,
        result: Mapping[str, Any] | None = None,
        *attestations: str,
        milestone: str = "m0",
    ) -> Escrow:
        """
        Submit as the payee.
        """
        return await self.escrows.submit(
            escrow.escrow_id,
            milestone,
            {"status": 200} if result is None else result,
            attestations,
            by=self.payee,
        )

    def attest(
        self,
        escrow: Escrow,
        result: Mapping[str, Any],
        claims: Mapping[str, Any],
        *,
        milestone: str = "m0",
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        """
        Sign what the verifier found.
        """
        return sign_attestation(
            key or self.verifier,
            escrow_id=escrow.escrow_id,
            milestone=milestone,
            result_sha256=sha256_hex(canonical(result)),
            claims=claims,
            now=self.clock.now(),
        )

    async def later(self, seconds: int) -> int:
        """
        Let time pass and the worker look; return how many escrows it looked at.
        """
        self.clock.advance(timedelta(seconds=seconds))
        return await self.escrows.settle_due()

    async def now(self, escrow: Escrow) -> Escrow:
        """
        Return an escrow as it stands.
        """
        return (await self.escrows.get(escrow.escrow_id, by=self.operator)).escrow

    async def money(self) -> tuple[int, int, int]:
        """
        Return what the payer may spend, what it holds, and what the payee has.
        """
        available, balance = await self.pay.cash(self.pay.organisation)
        _, paid = await self.pay.cash(self.pay.shop)
        return available, balance - available, paid

    async def service(
        self, *, purse: Purse | None = None, evaluator: Evaluator | None = None
    ) -> Escrows:
        """
        Return the service as another process has it.
        """
        return Escrows(
            self.pay.books.pool,
            purse=purse or await make_payments(self.pay, self.pay.books.ledger),
            mandates=self.pay.mandates,
            parties=self.pay.identity,
            evaluator=evaluator or self.evaluator,
            calls=CallStore(self.pay.books.pool, self.clock),
            clock=self.clock,
        )


@asynccontextmanager
async def open_escrows(
    dsn: str, clock: FakeClock, ids: IdentifierSource
) -> AsyncGenerator[EscrowRig]:
    """
    Open a business that pays for what works; its books are right at the end.
    """
    evaluator = CelSandbox()
    async with open_payments(dsn, clock, ids) as pay:
        arbiter = await pay.identity.add_party("court", kind=PartyKind.BUYER)
        escrows = Escrows(
            pay.books.pool,
            purse=pay.payments,
            mandates=pay.mandates,
            parties=pay.identity,
            evaluator=evaluator,
            calls=CallStore(pay.books.pool, clock),
            clock=clock,
        )
        try:
            yield EscrowRig(
                pay=pay,
                evaluator=evaluator,
                escrows=escrows,
                arbiter=arbiter,
                verifier=Ed25519PrivateKey.generate(),
            )
        finally:
            await evaluator.close()


def grounds(escrow: Escrow) -> Sequence[tuple[str, int]]:
    """
    Return (ground, quanta) of each decision, in their order.
    """
    return [(decision.ground.value, decision.quanta) for decision in escrow.decisions]
