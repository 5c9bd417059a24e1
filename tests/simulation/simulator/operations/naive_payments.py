"""
Payments of agents, naively: what was signed, what became of it, and what is to be answered.

Known of a payment is what its wallet signed, what the brake and people have to say by the rules of
``world.py``, and the naive ledger's hold; nothing is asked of the hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.naive_mandates import (
    LIMIT_USD_ID,
    PAYMENTS_ID,
    NaiveMandate,
)
from tests.simulation.simulator.world import (
    NEW_PAYEE_ABOVE,
    NIGHT_ABOVE,
    NIGHT_HOURS,
    TWO_PERSONS_ABOVE,
    USD_ID,
    Payee,
    SimulatedAgent,
    SimulatedWallet,
)
from tokenworks.agents.payments import placing
from tokenworks.agents.payments.model import Requirements
from tokenworks.ledger.service import PLATFORM_ID

if TYPE_CHECKING:
    from tests.simulation.simulator.simulation import Simulation

SIGNED_AHEAD = timedelta(seconds=60)
REVIEW_LIFETIME = timedelta(minutes=15)

Content = tuple[str, UUID, UUID, int, str, str, str, bytes]


@dataclass(frozen=True, kw_only=True)
class Signed:
    """
    What a wallet signed once.
    """

    agent: SimulatedAgent
    wallet: SimulatedWallet
    mandate: NaiveMandate
    payee: Payee
    quanta: int
    scheme: str
    url: str
    nonce: UUID
    jws: str
    requirements: Requirements
    issued_at: datetime
    expires_at: datetime
    method: str = "GET"
    body: bytes = b""

    @property
    def content(self) -> Content:
        """
        Return what has to be the same in a repeat; its times may be later ones.
        """
        return (
            self.wallet.address,
            self.mandate.mandate_id,
            self.payee.party,
            self.quanta,
            self.scheme,
            self.url,
            self.method,
            self.body,
        )


@dataclass
class NaiveReview:
    """
    People who are asked.
    """

    expires_at: datetime
    needed: int
    approved_by: list[UUID] = field(default_factory=list[UUID])
    scopes: list[str] = field(default_factory=list[str])
    """How far each of them went."""
    state: str = "pending"

    def state_at(self, now: datetime) -> str:
        """
        Return its state, whether or not anybody has noticed that its time is over.
        """
        return "expired" if self.state == "pending" and now >= self.expires_at else self.state


@dataclass
class NaivePayment:
    """
    One payment, by its id: everything that was signed under it, and what of that is held.
    """

    payment_id: UUID
    number: int
    signed: list[Signed] = field(default_factory=list[Signed])
    held: Signed | None = None
    """What its hold was placed for; nothing else may use the id any more."""
    stopped: set[Content] = field(default_factory=set[Content])
    """What the brake did not allow by itself."""
    allowed: set[Content] = field(default_factory=set[Content])
    review: NaiveReview | None = None
    about: Signed | None = None
    """What people were asked about."""
    is_claimed: bool = True
    is_attested: bool = False
    """Whether it was held ahead, for a seller that is to show the hub's word."""
    attestations: list[str] = field(default_factory=list[str])
    is_call: bool = False
    """Whether it is held for a call that the hub itself sells."""
    captures: dict[int, tuple[int, bool]] = field(default_factory=dict[int, tuple[int, bool]])
    """By part: how much, and whether it was the last."""

    def said(self, signed: Signed, now: datetime) -> str | None:
        """
        Return what was said of it before, by the brake or by people; ``None``: nothing that lasts.
        """
        if signed.content not in self.stopped:
            return None
        if self.review is None:
            return "deny"
        state = self.review.state_at(now)
        return {"pending": "hold", "approved": "allow"}.get(state, "deny")

    @property
    def asked(self) -> Signed:
        """
        Return what people were asked about.
        """
        assert self.about is not None, "they were asked"
        return self.about

    @property
    def captured(self) -> int:
        """
        Return how much was paid of it.
        """
        return sum(quanta for quanta, _ in self.captures.values())


@dataclass
class NaivePayments:
    """
    All payments, and which payees an agent's owner has seen paid.
    """

    by_id: dict[UUID, NaivePayment] = field(default_factory=dict[UUID, NaivePayment])
    known_payees: set[tuple[UUID, UUID]] = field(default_factory=set[tuple[UUID, UUID]])

    def brake(self, signed: Signed, now: datetime) -> str:
        """
        Return what the brake says by the rules: ``allow``, ``hold`` or ``deny``.
        """
        if now.hour in NIGHT_HOURS and signed.quanta > NIGHT_ABOVE:
            return "deny"
        is_known = (signed.agent.agent_id, signed.payee.party) in self.known_payees
        return "hold" if not is_known and signed.quanta > NEW_PAYEE_ABOVE else "allow"


@dataclass(frozen=True)
class Doubts:
    """
    Why a payment that is new has to be refused before the ledger is asked, or may be.
    """

    certain: set[str]
    possible: set[str]

    def allow(self, code: str | None) -> bool:
        """
        Tell whether a refusal is for one of the reasons.
        """
        return code in self.certain | self.possible


def doubts(simulation: Simulation, signed: Signed) -> Doubts:
    """
    Return what speaks against a payment, money, limits and the brake aside.
    """
    now, world = simulation.clock.now(), simulation.world
    ledger_now = simulation.auditor.ledger_now()
    certain = signed.mandate.refused(signed.payee.party, signed.quanta)
    certain |= signed.mandate.stopped(now)
    if signed.expires_at <= now:
        certain.add("authorisation_expired")
    if signed.issued_at > now + SIGNED_AHEAD:
        certain.add("authorisation_not_yet_valid")
    if signed.wallet.revoked_at is not None:
        certain.add("wallet_revoked")
    if signed.mandate.agent is not signed.agent:
        certain.add("mandate_unknown")
    if signed.payee.organisation == signed.agent.scopes[0]:
        certain.add("payee_is_payer")
    states = simulation.auditor.scope_states
    if any(states.get(party, "active") != "active" for party in world.above(signed.payee.party)):
        certain.add("payee_not_active")
    possible: set[str] = set()
    # What the ledger alone sees: a party above that is frozen, an end in ledger time.
    above = {scope for m in signed.mandate.chain() for scope in m.agent.scopes}
    if any(states[scope] != "active" for scope in above):
        possible.add("mandate_frozen")
    if signed.mandate.stopped(ledger_now):
        possible.add("mandate_revoked")
    return Doubts(certain, possible)


def closed_code(state: str) -> str:
    """
    Return why a hold that ended takes nothing more.
    """
    codes = {"captured": "payment_already_settled", "voided": "payment_conflict"}
    return codes.get(state, "hold_expired")


def review_code(payment: NaivePayment, now: datetime) -> str | None:
    """
    Return what is answered while people think, or after they said no.
    """
    if payment.review is None:
        return None
    state = payment.review.state_at(now)
    return {"pending": "payment_in_review", "approved": None}.get(state, "payment_denied")


def persons_needed(quanta: int) -> int:
    """
    Return how many people have to approve.
    """
    return 2 if quanta > TWO_PERSONS_ABOVE else 1


def expect_capture(
    simulation: Simulation, payment_id: UUID, payee: Payee, quanta: int, *, is_first: bool
) -> None:
    """
    Expect what a capture moves: money to the payee, and every limit of the path by as much.
    """
    auditor = simulation.auditor
    for account in auditor.naive.holds[payment_id].held:
        name = auditor.names[account]
        if name[2] == USD_ID:
            simulation.expect(name, payee.account, quanta)
        elif name[2] == LIMIT_USD_ID:
            simulation.expect(name, (PLATFORM_ID, "limit_spent", LIMIT_USD_ID), quanta)
        elif name[2] == PAYMENTS_ID and is_first:
            simulation.expect(name, (PLATFORM_ID, "limit_spent", PAYMENTS_ID), 1)
    if not payee.is_client:
        simulation.expect(
            (PLATFORM_ID, "own_funds", USD_ID), (PLATFORM_ID, "safeguarded", USD_ID), quanta
        )


def claim_code(simulation: Simulation, payment: NaivePayment) -> str | None:
    """
    Return why nobody may work for a payment any more; ``None``: it is given away now.
    """
    state = simulation.auditor.naive.holds[payment.payment_id].state
    # A request to the ledger is good for as long as its caller waits, in ledger time.
    waits = timedelta(seconds=vars(placing)["LEDGER_ANSWER_TIMEOUT_S"])
    is_late = simulation.auditor.ledger_now() > simulation.clock.now() + waits
    if not payment.is_claimed and is_late:
        return "ledger_unavailable"
    if payment.is_claimed and state == "open":
        return "payment_already_claimed"
    return None if state == "open" else closed_code(state)


def attest_code(payment: NaivePayment, state: str) -> str | None:
    """
    Return why the hub does not give its word for a payment: it is not held, or not for that.
    """
    if not payment.is_attested:
        return "payment_already_claimed"
    return None if state == "open" else closed_code(state)


def know_payee(simulation: Simulation, signed: Signed) -> None:
    """
    Note that an agent has paid somebody: the brake knows it from now on.
    """
    simulation.model(NaivePayments).known_payees.add((signed.agent.agent_id, signed.payee.party))


def require(is_lawful: bool, payment: NaivePayment, message: str, law: Law = Law.PAYMENT) -> None:
    """
    Raise when a payment did not fare as it has to.

    Raises:
        BrokenLawError: It did not.
    """
    if not is_lawful:
        raise BrokenLawError(law, f"payment {payment.number} ({payment.payment_id}): {message}")
