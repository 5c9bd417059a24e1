"""
Escrows on the real books: who is paid what, when, and on whose word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.escrow_rig import (
    CONDITION,
    TESTED,
    EscrowRig,
    grounds,
    open_escrows,
)
from tokenworks.agents.brake.model import Action, ReviewState, Subject
from tokenworks.agents.escrow.errors import (
    ConditionInvalidError,
    EscrowConflictError,
    EscrowForbiddenError,
    EscrowNotFoundError,
    EscrowStateError,
    EvaluatorUnavailableError,
    ResultInvalidError,
    ResultTooLargeError,
    TermsInvalidError,
)
from tokenworks.agents.escrow.model import (
    Actor,
    EscrowState,
    Evaluation,
    EventKind,
    Evidence,
    MilestoneState,
    Share,
)
from tokenworks.agents.mandates.model import Authority
from tokenworks.agents.payments.errors import (
    AuthorisationExpiredError,
    BindingMismatchError,
    PaymentInReviewError,
)
from tokenworks.agents.payments.model import Payment
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InsufficientFundsError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Fate
from tokenworks.receipts.model import JsonValue

MONEY = 1_000_000
WHOLE = 300_000


@pytest.fixture
async def rig(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncGenerator[EscrowRig]:
    """
    A payer with a tenth of a cent, and everybody else.
    """
    async with open_escrows(dsn, clock, ids) as rig:
        yield rig


# ---------------------------------------------------------------------- met and not met


async def test_met_condition_pays_at_once_and_the_receipt_says_why(rig: EscrowRig) -> None:
    """
    Held, delivered, paid; condition, hashes and verdict stand on a receipt that both can read.
    """
    escrow = await rig.open()
    assert escrow.state is EscrowState.FUNDED
    assert await rig.money() == (MONEY - WHOLE, WHOLE, 0)
    escrow = await rig.submit(escrow)
    assert escrow.state is EscrowState.SETTLED
    assert grounds(escrow) == [("condition_met", WHOLE)]
    assert escrow.captured_quanta == WHOLE
    assert await rig.money() == (MONEY - WHOLE, 0, WHOLE)
    again = await rig.submit(escrow)
    assert again == escrow, "a repeat is answered by what is recorded"
    document = await rig.pay.payments.receipt(escrow.escrow_id, "buyer")
    said = document["receipt"]["escrow"]
    assert said["condition"] == CONDITION
    assert said["submission"]["verdict"] == {
        "is_met": True,
        "share": "1/1",
        "error": None,
        "engine": rig.evaluator.engine,
    }
    payee_view = f"leg_owner:{rig.pay.shop.party_id}"
    theirs = await rig.pay.payments.receipt(escrow.escrow_id, payee_view)
    assert theirs["receipt"]["escrow"] == said


async def test_share_is_paid_rounded_down_and_the_rest_goes_back(rig: EscrowRig) -> None:
    """
    Two of three parts of an amount that does not divide.
    """
    escrow = await rig.open(("0.0001", "[result.done, result.total]"))
    escrow = await rig.submit(escrow, {"status": 200, "done": 2, "total": 3})
    assert grounds(escrow) == [("condition_met", 66_666)]
    assert await rig.money() == (MONEY - 66_666, 0, 66_666)


async def test_milestones_are_paid_one_by_one_and_sum_to_the_hold(rig: EscrowRig) -> None:
    """
    Three parts: one paid, one in part, one never delivered; the last decision closes.
    """
    escrow = await rig.open(
        ("0.0001", CONDITION), ("0.0001", "[result.done, result.total]"), ("0.0001", CONDITION)
    )
    escrow = await rig.submit(escrow, milestone="m0")
    assert escrow.state is EscrowState.FUNDED
    assert await rig.money() == (MONEY - WHOLE, 200_000, 100_000)
    half = {"status": 200, "done": 1, "total": 2}
    escrow = await rig.submit(escrow, half, milestone="m1")
    assert await rig.money() == (MONEY - WHOLE, 150_000, 150_000)
    await rig.later(3_600)
    escrow = await rig.now(escrow)
    assert escrow.state is EscrowState.SETTLED
    assert grounds(escrow) == [
        ("condition_met", 100_000),
        ("condition_met", 50_000),
        ("not_delivered", 0),
    ]
    assert await rig.money() == (MONEY - 150_000, 0, 150_000)
    for ordinal, milestone in enumerate(("m0", "m1")):
        document = await rig.pay.payments.receipt(escrow.escrow_id, "buyer", ordinal)
        assert document["receipt"]["escrow"]["milestone"] == milestone


async def test_condition_that_is_not_met_may_be_tried_again_and_is_never_paid(
    rig: EscrowRig,
) -> None:
    """
    A second submission is judged on its own; after the deadline the payer has the money.
    """
    escrow = await rig.open()
    escrow = await rig.submit(escrow, {"status": 500})
    assert escrow.milestones[0].state is MilestoneState.NOT_MET
    assert escrow.state is EscrowState.FUNDED
    await rig.later(1_200)
    assert (await rig.now(escrow)).state is EscrowState.FUNDED
    await rig.submit(escrow, {"status": 404})
    await rig.later(3_600)
    escrow = await rig.now(escrow)
    assert (escrow.state, grounds(escrow)) == (EscrowState.REFUNDED, [("condition_not_met", 0)])
    assert await rig.money() == (MONEY, 0, 0)
    with pytest.raises(EscrowStateError):
        await rig.submit(escrow, {"status": 200})


async def test_nothing_delivered_goes_back_at_the_deadline(rig: EscrowRig) -> None:
    """
    Not a second before.
    """
    escrow = await rig.open()
    assert await rig.later(3_599) == 0
    assert await rig.later(1) == 1
    assert (await rig.now(escrow)).state is EscrowState.REFUNDED
    assert await rig.money() == (MONEY, 0, 0)
    assert await rig.later(100) == 0


async def test_condition_that_overruns_is_not_met_with_the_reason(rig: EscrowRig) -> None:
    """
    An explosion costs the payee the verdict and nobody else anything.
    """
    schema = {"type": "object"}
    condition = "result.l.map(x, result.l).size() > 0"
    escrow = await rig.open(("0.0003", condition), result_schema=schema)
    escrow = await rig.submit(escrow, {"l": list(range(9_000)), "s": "a" * 100_000})
    verdict = escrow.milestones[0].submission
    assert verdict is not None
    assert verdict.verdict is not None
    error = verdict.verdict.error or ""
    assert escrow.milestones[0].state is MilestoneState.MET or error.startswith("out_of")


# ---------------------------------------------------------------------- verifiers


async def test_statement_of_the_named_verifier_makes_the_condition_true(rig: EscrowRig) -> None:
    """
    Waits for the verifier; whoever hands the statement in, it counts.
    """
    escrow = await rig.open(("0.0003", TESTED))
    escrow = await rig.submit(escrow)
    assert escrow.state is EscrowState.SUBMITTED
    submission = escrow.milestones[0].submission
    assert submission is not None
    assert submission.silent == ("tests",)
    jws = rig.attest(escrow, {"status": 200}, {"passed": 3})
    escrow = await rig.escrows.attest(escrow.escrow_id, "m0", [jws], by=rig.payer)
    assert grounds(escrow) == [("condition_met", WHOLE)]
    document = await rig.pay.payments.receipt(escrow.escrow_id, "buyer")
    [stated] = document["receipt"]["escrow"]["submission"]["attestations"]
    assert (stated["verifier"], stated["refusal"]) == ("tests", None)


async def test_silent_verifier_is_no_free_refund(rig: EscrowRig) -> None:
    """
    At the end of its time the payee is paid, unless the payer spoke up.
    """
    paid, disputed = [await rig.submit(await rig.open(("0.0001", TESTED))) for _ in range(2)]
    await rig.escrows.dispute(disputed.escrow_id, ["m0"], reason="no tests", by=rig.payer)
    await rig.later(599)
    assert (await rig.now(paid)).state is EscrowState.SUBMITTED
    await rig.later(1)
    assert grounds(await rig.now(paid)) == [("silence", 100_000)]
    assert (await rig.now(disputed)).state is EscrowState.DISPUTED
    await rig.escrows.cancel(disputed.escrow_id, by=rig.payee)


async def test_payee_cannot_keep_back_a_statement_against_it(rig: EscrowRig) -> None:
    """
    The payer hands in what the verifier found: not met, and no silence pays it any more.
    """
    escrow = await rig.submit(await rig.open(("0.0003", TESTED)))
    jws = rig.attest(escrow, {"status": 200}, {"passed": 0})
    escrow = await rig.escrows.attest(escrow.escrow_id, "m0", [jws], by=rig.payer)
    assert escrow.milestones[0].state is MilestoneState.NOT_MET
    # One altered byte, and silence again: an arbiter has to look at it.
    escrow = await rig.submit(escrow, {"status": 201})
    await rig.later(600)
    escrow = await rig.now(escrow)
    assert (escrow.state, escrow.milestones[0].disputed_by) == (EscrowState.DISPUTED, "hub")
    escrow = await rig.escrows.arbitrate(
        escrow.escrow_id, {"m0": 0}, reason="failed its tests", by=rig.operator
    )
    assert escrow.state is EscrowState.REFUNDED


async def test_junk_leaves_room_for_the_verifier_that_objects(rig: EscrowRig) -> None:
    """
    A payee that fills its submission with refused statements is stopped, the verifier is not.
    """
    condition = "has(result.attested.tests) ? result.attested.tests.ok : true"
    escrow = await rig.open(("0.0003", condition), review_window_s=600)
    result = {"status": 200}
    junk = [
        rig.attest(escrow, result, {"n": n}, key=Ed25519PrivateKey.generate()) for n in range(9)
    ]
    with pytest.raises(EscrowStateError, match="as many that were refused"):
        await rig.submit(escrow, result, *junk)
    escrow = await rig.submit(escrow, result, *junk[:8])
    objection = rig.attest(escrow, result, {"ok": False})
    escrow = await rig.escrows.attest(escrow.escrow_id, "m0", [objection], by=rig.payer)
    assert escrow.milestones[0].state is MilestoneState.NOT_MET


async def test_each_side_has_room_for_its_evidence(rig: EscrowRig) -> None:
    """
    What one side hands in takes nothing from the other.
    """
    escrow = await rig.submit(await rig.open(review_window_s=600))
    page = [Evidence(sha256="0" * 64, uri=f"https://x.example/{n}") for n in range(32)]

    async def dispute(evidence: list[Evidence], by: Actor) -> None:
        await rig.escrows.dispute(
            escrow.escrow_id, ["m0"], reason="see there", evidence=evidence, by=by
        )

    await dispute(page, rig.payer)
    with pytest.raises(EscrowStateError, match="Each side has at most 32"):
        await dispute(page[:1], rig.payer)
    await dispute(page, rig.payee)


async def test_forged_statements_are_kept_with_the_reason_and_seen_by_no_condition(
    rig: EscrowRig,
) -> None:
    """
    Forged, for another escrow, milestone or result, of a stranger: not met, not silence either.
    """
    other = await rig.open(("0.0001", TESTED))
    good = {"status": 200}
    attacks: Mapping[str, Any] = {
        "unknown_verifier": lambda escrow: rig.attest(
            escrow, good, {"passed": 9}, key=Ed25519PrivateKey.generate()
        ),
        "wrong_escrow": lambda _escrow: rig.attest(other, good, {"passed": 9}),
        "wrong_milestone": lambda escrow: rig.attest(escrow, good, {"passed": 9}, milestone="m1"),
        "altered_result": lambda escrow: rig.attest(escrow, {"status": 1}, {"passed": 9}),
        "forged": lambda escrow: _altered(rig.attest(escrow, good, {"passed": 9})),
        "malformed": lambda _escrow: "not a jws",
    }
    for refusal, make in attacks.items():
        escrow = await rig.open(("0.0001", TESTED))
        jws = make(escrow)
        escrow = await rig.submit(escrow, good, jws)
        milestone = escrow.milestones[0]
        assert milestone.state is MilestoneState.NOT_MET, refusal
        assert milestone.submission is not None
        assert [item.refusal for item in milestone.submission.attestations] == [refusal]
        await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)
    escrow = await rig.submit(other, good)
    with pytest.raises(ResultInvalidError) as refused:
        await rig.escrows.attest(escrow.escrow_id, "m0", ["x.y.z"], by=rig.payer)
    assert refused.value.code == "attestation_malformed"
    assert (await rig.now(escrow)).state is EscrowState.SUBMITTED


def _altered(jws: str) -> str:
    head, payload, signature = jws.split(".")
    flipped = "B" if signature[0] == "A" else "A"
    return f"{head}.{payload}.{flipped}{signature[1:]}"


# ---------------------------------------------------------------------- disputes


async def test_dispute_in_the_window_stops_the_payment_and_the_arbiter_splits(
    rig: EscrowRig,
) -> None:
    """
    The arbiter named in the terms decides, once and for good; its words are on the receipt.
    """
    escrow = await rig.open(
        ("0.0001", CONDITION),
        ("0.0001", CONDITION),
        review_window_s=60,
        arbiter=str(rig.arbiter.party_id),
    )
    escrow = await rig.submit(escrow, milestone="m0")
    await rig.submit(escrow, milestone="m1")
    assert await rig.money() == (MONEY - 200_000, 200_000, 0)
    evidence = Evidence(sha256="a" * 64, uri="https://example.com/log")
    escrow = await rig.escrows.dispute(
        escrow.escrow_id, ["m0"], reason="empty", evidence=[evidence], by=rig.payer
    )
    await rig.later(60)
    escrow = await rig.now(escrow)
    assert escrow.state is EscrowState.DISPUTED
    assert grounds(escrow) == [("condition_met", 100_000)]
    for side in (rig.payer, rig.payee, rig.operator):
        with pytest.raises(EscrowForbiddenError):
            await rig.escrows.arbitrate(escrow.escrow_id, {"m0": 1}, reason="mine", by=side)
    share = Share(part=333_333, whole=1_000_000)
    escrow = await rig.escrows.arbitrate(
        escrow.escrow_id, {"m0": share}, reason="a third of it works", by=rig.judge
    )
    assert escrow.state is EscrowState.SETTLED
    assert grounds(escrow) == [("condition_met", 100_000), ("arbitrated", 33_333)]
    assert await rig.money() == (MONEY - 133_333, 0, 133_333)
    document = await rig.pay.payments.receipt(escrow.escrow_id, "buyer", 1)
    assert document["receipt"]["escrow"]["reason"] == "a third of it works"
    with pytest.raises(EscrowStateError):
        await rig.escrows.arbitrate(escrow.escrow_id, {"m0": 0}, reason="no", by=rig.judge)
    with pytest.raises(EscrowStateError):
        await rig.escrows.dispute(escrow.escrow_id, ["m0"], reason="no", by=rig.payer)


async def test_operator_decides_when_the_named_arbiter_lets_its_time_pass(
    rig: EscrowRig,
) -> None:
    """
    No dispute holds money for ever.
    """
    escrow = await rig.open(arbiter=str(rig.arbiter.party_id), review_window_s=60)
    escrow = await rig.submit(escrow)
    await rig.escrows.dispute(escrow.escrow_id, ["m0"], reason="no", by=rig.payer)
    with pytest.raises(EscrowForbiddenError):
        await rig.escrows.arbitrate(escrow.escrow_id, {"m0": 7}, reason="y", by=rig.operator)
    await rig.later(600)
    escrow = await rig.escrows.arbitrate(
        escrow.escrow_id, {"m0": 7}, reason="nobody came", by=rig.operator
    )
    assert grounds(escrow) == [("arbitrated", 7)]


async def test_payee_disputes_a_verdict_and_nothing_is_refunded_meanwhile(
    rig: EscrowRig,
) -> None:
    """
    A verdict is the condition's, not the last word.
    """
    escrow = await rig.submit(await rig.open(), {"status": 500})
    with pytest.raises(EscrowStateError):
        await rig.escrows.dispute(escrow.escrow_id, ["m0"], reason="no", by=rig.payer)
    await rig.escrows.dispute(escrow.escrow_id, ["m0"], reason="their proxy", by=rig.payee)
    await rig.later(10_000)
    assert (await rig.now(escrow)).state is EscrowState.DISPUTED
    whole = Share(part=1, whole=1)
    escrow = await rig.escrows.arbitrate(
        escrow.escrow_id, {"m0": whole}, reason="it was", by=rig.operator
    )
    assert await rig.money() == (MONEY - WHOLE, 0, WHOLE)


async def test_arbiter_is_of_neither_side(rig: EscrowRig) -> None:
    """
    A judge in its own cause is refused before work begins.
    """
    for party in (rig.pay.organisation, rig.pay.agent, rig.pay.shop):
        with pytest.raises(TermsInvalidError) as refused:
            await rig.open(arbiter=str(party.party_id))
        assert refused.value.param == "arbiter"
    with pytest.raises(TermsInvalidError):
        await rig.open(arbiter=str(UUID(int=99)))


# ---------------------------------------------------------------------- cancelling


async def test_cancelling_takes_the_payee(rig: EscrowRig) -> None:
    """
    The payer's wish changes nothing until the payee agrees; the payee may let go at any time.
    """
    escrow = await rig.open()
    escrow = await rig.escrows.cancel(escrow.escrow_id, by=rig.payer)
    assert (escrow.state, escrow.cancel_asked_at is not None) == (EscrowState.FUNDED, True)
    escrow = await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)
    assert escrow.state is EscrowState.CANCELLED
    assert await rig.money() == (MONEY, 0, 0)
    with pytest.raises(EscrowStateError):
        await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)
    escrow = await rig.submit(await rig.open(("0.0003", TESTED)))
    with pytest.raises(EscrowStateError):
        await rig.escrows.cancel(escrow.escrow_id, by=rig.payer)
    assert (await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)).state is (
        EscrowState.CANCELLED
    )
    assert await rig.money() == (MONEY, 0, 0)


# ---------------------------------------------------------------------- who, and what is refused


async def test_strangers_see_nothing_and_sides_do_their_own_part_only(rig: EscrowRig) -> None:
    """
    To others an escrow is not there; the payer cannot submit, the arbiter cannot dispute.
    """
    escrow = await rig.open(arbiter=str(rig.arbiter.party_id))
    stranger = Actor(party_id=rig.pay.supplier.party_id, name="stranger")
    with pytest.raises(EscrowNotFoundError):
        await rig.escrows.get(escrow.escrow_id, by=stranger)
    with pytest.raises(EscrowNotFoundError):
        await rig.escrows.submit(escrow.escrow_id, "m0", {"status": 200}, by=stranger)
    with pytest.raises(EscrowNotFoundError):
        await rig.escrows.get(UUID(int=5), by=rig.operator)
    for actor in (rig.payer, rig.judge, rig.operator):
        with pytest.raises(EscrowForbiddenError):
            await rig.escrows.submit(escrow.escrow_id, "m0", {"status": 200}, by=actor)
    for actor in (rig.judge, rig.operator):
        with pytest.raises(EscrowForbiddenError):
            await rig.escrows.cancel(escrow.escrow_id, by=actor)
        with pytest.raises(EscrowForbiddenError):
            await rig.escrows.dispute(escrow.escrow_id, ["m0"], reason="x", by=actor)
    owner = Actor(party_id=rig.pay.organisation.party_id, name="owner")
    assert (await rig.escrows.get(escrow.escrow_id, by=owner)).sides == {"payer"}
    listed, _ = await rig.escrows.list_escrows(by=rig.judge, state=None, cursor=None, limit=10)
    assert [item.escrow_id for item in listed] == [escrow.escrow_id]
    assert (await rig.escrows.list_escrows(by=stranger, state=None, cursor=None, limit=10))[0] == []


BAD_TERMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("milestones", {"milestones": []}),
    ("milestones", {"milestones": [{"name": "a", "amount": "0", "condition": "true"}]}),
    ("milestones", {"milestones": [{"name": "A b", "amount": "1", "condition": "true"}]}),
    ("milestones", {"milestones": [{"name": "a", "amount": "1", "condition": "true"}] * 2}),
    ("milestones", {"milestones": [{"name": "a", "amount": "1", "condition": "int(1)"}]}),
    ("milestones", {"milestones": [{"name": "a", "amount": "1", "condition": "result.a &&"}]}),
    ("result_schema", {"result_schema": {"type": "object", "pattern": "x"}}),
    ("review_window_s", {"review_window_s": -1}),
    ("decide_by_s", {"decide_by_s": 1}),
    ("verifiers", {"verifiers": {"tests": "no key"}}),
    ("verifiers", {"verifiers": {"Tests!": "A" * 43}}),
    ("submit_by", {"submit_by": "2020-01-01T00:00:00Z"}),
    ("submit_by", {"submit_by": "2120-01-01T00:00:00Z"}),
    ("submit_by", {"submit_by": "2026-12-31T00:00:00"}),
    ("terms", {"more": 1}),
)


async def test_terms_that_cannot_be_agreed_to_are_refused_and_nothing_is_held(
    rig: EscrowRig,
) -> None:
    """
    Each fault by its place.
    """
    for param, change in BAD_TERMS:
        terms = rig.terms() | change
        is_payable = any(part["amount"] != "0" for part in terms["milestones"])
        jws = rig.sign(terms if is_payable else rig.terms())
        with pytest.raises((TermsInvalidError, ConditionInvalidError)) as refused:
            await rig.escrows.open(jws, terms)
        assert refused.value.param == param, change
    assert await rig.money() == (MONEY, 0, 0)


async def test_signature_binds_the_terms(rig: EscrowRig) -> None:
    """
    Other terms, another method, another amount, the same signature twice: refused.
    """
    terms = rig.terms()
    other = rig.terms(review_window_s=5)
    with pytest.raises(BindingMismatchError):
        await rig.escrows.open(rig.sign(terms), other)
    with pytest.raises(BindingMismatchError):
        await rig.escrows.open(rig.sign(terms, method="POST"), terms)
    with pytest.raises(TokenworksError) as refused:
        await rig.escrows.open(rig.sign(terms, amount="300001"), terms)
    assert refused.value.code == "requirements_mismatch"
    jws = rig.sign(terms)
    first = await rig.escrows.open(jws, terms)
    assert await rig.escrows.open(jws, dict(reversed(terms.items()))) == first
    with pytest.raises(EscrowConflictError):
        await rig.escrows.open(jws, other)
    assert await rig.money() == (MONEY - WHOLE, WHOLE, 0)


async def test_bad_results_are_refused_and_lose_nothing(rig: EscrowRig) -> None:
    """
    Against the schema, too large, the hub's own member, no such milestone: try again.
    """
    escrow = await rig.open()
    bad: tuple[tuple[Any, type[TokenworksError]], ...] = (
        ({}, ResultInvalidError),
        ({"status": "200"}, ResultInvalidError),
        ([200], ResultInvalidError),
        ({"status": 200, "attested": {}}, ResultInvalidError),
        ({"status": 200, "metered": {}}, ResultInvalidError),
        ({"status": 200, "x": "a" * 262_144}, ResultTooLargeError),
    )
    for result, error in bad:
        with pytest.raises(error):
            await rig.escrows.submit(escrow.escrow_id, "m0", result, by=rig.payee)
    with pytest.raises(EscrowNotFoundError) as unknown:
        await rig.submit(escrow, milestone="m9")
    assert unknown.value.code == "milestone_not_found"
    assert (await rig.now(escrow)).events == escrow.events
    assert (await rig.submit(escrow)).state is EscrowState.SETTLED


# ---------------------------------------------------------------------- opening


async def test_opening_is_refused_for_funds_and_goes_on_when_they_are_there(
    rig: EscrowRig,
) -> None:
    """
    The same authorisation, sent again after a deposit, opens the escrow.
    """
    terms = rig.terms(("0.002", CONDITION))
    jws = rig.sign(terms)
    with pytest.raises(InsufficientFundsError):
        await rig.escrows.open(jws, terms)
    await rig.pay.books.deposit(rig.pay.organisation.party_id, MONEY)
    escrow = await rig.escrows.open(jws, terms)
    assert escrow.state is EscrowState.FUNDED
    await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)


async def test_expired_authorisation_holds_nothing_more(rig: EscrowRig) -> None:
    """
    It was refused for funds; when they are there its time is over, and a new one is signed.
    """
    terms = rig.terms(("0.002", CONDITION))
    jws = rig.sign(terms)
    with pytest.raises(InsufficientFundsError):
        await rig.escrows.open(jws, terms)
    await rig.pay.books.deposit(rig.pay.organisation.party_id, MONEY)
    rig.clock.advance(timedelta(seconds=61))
    with pytest.raises(AuthorisationExpiredError):
        await rig.escrows.open(jws, terms)
    assert (await rig.pay.cash(rig.pay.organisation))[0] == 2 * MONEY


async def test_escrow_that_was_never_held_lapses(rig: EscrowRig) -> None:
    """
    Only after nothing can be held any more.
    """
    terms = rig.terms(("0.002", CONDITION))
    with pytest.raises(InsufficientFundsError):
        await rig.escrows.open(rig.sign(terms), terms)
    [escrow], _ = await rig.escrows.list_escrows(
        by=rig.payer, state=EscrowState.OPENING, cursor=None, limit=10
    )
    with pytest.raises(EscrowStateError) as refused:
        await rig.submit(escrow)
    assert refused.value.code == "escrow_not_funded"
    await rig.later(60)
    assert (await rig.now(escrow)).state is EscrowState.OPENING
    await rig.later(3_700)
    assert (await rig.now(escrow)).state is EscrowState.CANCELLED


@pytest.mark.parametrize("word", [ReviewState.APPROVED, ReviewState.DENIED])
async def test_escrow_that_people_look_at_waits_for_their_word(
    rig: EscrowRig, word: ReviewState
) -> None:
    """
    Held, not funded; the worker goes on by itself when they approve, and gives back when not.
    """
    terms = rig.terms()
    jws = rig.sign(terms)
    rig.pay.brake.action = Action.HOLD
    with pytest.raises(PaymentInReviewError):
        await rig.escrows.open(jws, terms)
    with pytest.raises(PaymentInReviewError):
        await rig.escrows.open(jws, terms)
    assert await rig.money() == (MONEY - WHOLE, WHOLE, 0)
    await rig.later(30)
    [escrow], _ = await rig.escrows.list_escrows(by=rig.payer, state=None, cursor=None, limit=10)
    assert escrow.state is EscrowState.OPENING
    [review] = rig.pay.brake.reviews.values()
    rig.pay.brake.reviews[review.review_id] = replace(review, state=word)
    await rig.later(30)
    escrow = await rig.now(escrow)
    if word is ReviewState.APPROVED:
        assert escrow.state is EscrowState.FUNDED
        assert (await rig.submit(escrow)).state is EscrowState.SETTLED
    else:
        assert escrow.state is EscrowState.CANCELLED
        assert await rig.money() == (MONEY, 0, 0)


# ---------------------------------------------------------------------- races and crashes


async def test_fifty_submissions_at_once_are_one(rig: EscrowRig) -> None:
    """
    From several processes; one fact, one capture.
    """
    escrow = await rig.open()
    processes = [await rig.service() for _ in range(5)]
    answers = await asyncio.gather(
        *(
            processes[number % 5].submit(escrow.escrow_id, "m0", {"status": 200}, by=rig.payee)
            for number in range(50)
        )
    )
    assert {answer.state for answer in answers} <= {EscrowState.SETTLED}
    kinds = [event.kind for event in (await rig.now(escrow)).events]
    assert kinds.count(EventKind.SUBMITTED) == 1
    assert kinds.count(EventKind.DECIDED) == 1
    assert kinds.count(EventKind.CARRIED_OUT) == 1
    assert await rig.money() == (MONEY - WHOLE, 0, WHOLE)


async def test_dispute_and_the_clock_race_and_one_of_them_wins(rig: EscrowRig) -> None:
    """
    Either the money is paid and the dispute is refused, or the dispute stands and nothing moves.
    """
    for _ in range(6):
        escrow = await rig.submit(await rig.open(("0.0001", CONDITION), review_window_s=60))
        rig.clock.advance(timedelta(seconds=60))
        other = await rig.service()
        disputed, *_ = await asyncio.gather(
            other.dispute(escrow.escrow_id, ["m0"], reason="no", by=rig.payer),
            rig.escrows.settle_due(),
            other.settle_due(),
            return_exceptions=True,
        )
        escrow = await rig.now(escrow)
        if isinstance(disputed, EscrowStateError):
            assert grounds(escrow) == [("condition_met", 100_000)]
        else:
            assert (escrow.state, escrow.decisions) == (EscrowState.DISPUTED, ())
            await rig.escrows.cancel(escrow.escrow_id, by=rig.payee)


class _DyingPurse:
    """
    A process that dies before, or just after, the money moves.
    """

    def __init__(self, rig: EscrowRig, *, moves_first: bool) -> None:
        self._payments = rig.pay.payments
        self._moves_first = moves_first
        self.network = rig.pay.payments.network
        self.captures = 0

    async def hold(
        self,
        authority: Authority,
        subject: Subject,
        *,
        quanta: int,
        expires_at: Any,  # noqa: ANN401 - passed on
        fate: Fate,
        payer: str,
        jws: str | None,
    ) -> Payment:
        return await self._payments.hold(
            authority,
            subject,
            quanta=quanta,
            expires_at=expires_at,
            fate=fate,
            payer=payer,
            jws=jws,
        )

    async def capture(
        self,
        payment_id: UUID,
        *,
        quanta: int,
        closes: bool,
        ordinal: int,
        details: Mapping[str, JsonValue],
    ) -> object:
        self.captures += 1
        if self._moves_first:
            await self._payments.capture(
                payment_id, quanta=quanta, closes=closes, ordinal=ordinal, details=details
            )
        raise LedgerUnavailableError("gone")

    async def release(self, payment_id: UUID, *, reason: str) -> object:
        if self._moves_first:
            await self._payments.release(payment_id, reason=reason)
        raise LedgerUnavailableError("gone")

    async def get(self, payment_id: UUID) -> Payment:
        return await self._payments.get(payment_id)


@pytest.mark.parametrize("moves_first", [False, True])
async def test_decision_of_a_process_that_died_is_carried_out_once(
    rig: EscrowRig, *, moves_first: bool
) -> None:
    """
    Whether or not the money had moved: the worker asks for the same fact, and says so.
    """
    escrow = await rig.open(("0.0001", CONDITION), ("0.0002", CONDITION))
    purse = _DyingPurse(rig, moves_first=moves_first)
    dying = await rig.service(purse=purse)
    escrow = await dying.submit(escrow.escrow_id, "m0", {"status": 200}, by=rig.payee)
    assert purse.captures == 1
    assert [item.is_carried_out for item in escrow.decisions] == [False]
    assert await rig.money() == (
        MONEY - WHOLE,
        *((200_000, 100_000) if moves_first else (WHOLE, 0)),
    )
    await rig.later(10)
    escrow = await rig.now(escrow)
    assert [item.is_carried_out for item in escrow.decisions] == [True]
    assert await rig.money() == (MONEY - WHOLE, 200_000, 100_000)
    escrow = await dying.cancel(escrow.escrow_id, by=rig.payee)
    assert escrow.captured_quanta == 100_000
    await rig.later(20)
    escrow = await rig.now(escrow)
    assert all(item.is_carried_out for item in escrow.decisions)
    assert await rig.money() == (MONEY - 100_000, 0, 100_000)
    assert await rig.later(1_000) == 0


async def test_process_that_died_between_hold_and_fact_is_found_out(rig: EscrowRig) -> None:
    """
    The hold is there, the fact is not: the worker writes it down.
    """
    terms = rig.terms()
    jws = rig.sign(terms)

    class _Dying(_DyingPurse):
        async def hold(self, authority: Authority, subject: Subject, **more: Any) -> Payment:  # noqa: ANN401 - passed on
            await super().hold(authority, subject, **more)
            raise LedgerUnavailableError("gone")

    dying = await rig.service(purse=_Dying(rig, moves_first=True))
    with pytest.raises(LedgerUnavailableError):
        await dying.open(jws, terms)
    await rig.later(10)
    [escrow], _ = await rig.escrows.list_escrows(by=rig.payer, state=None, cursor=None, limit=10)
    assert escrow.state is EscrowState.FUNDED
    assert (await rig.submit(escrow)).state is EscrowState.SETTLED


class _AwayEvaluator:
    """
    An evaluator that nobody reaches, for a while.
    """

    def __init__(self, rig: EscrowRig) -> None:
        self._evaluator = rig.evaluator
        self.engine = rig.evaluator.engine
        self.is_away = True

    async def check(self, condition: str) -> str | None:
        return await self._evaluator.check(condition)

    async def evaluate(self, condition: str, document: bytes) -> Evaluation:
        if self.is_away:
            raise EvaluatorUnavailableError("away")
        return await self._evaluator.evaluate(condition, document)


async def test_submission_waits_for_an_evaluator_that_is_away(rig: EscrowRig) -> None:
    """
    Recorded, judged when it is back; if it never is, its absence is no free refund.
    """
    evaluator = _AwayEvaluator(rig)
    away = await rig.service(evaluator=evaluator)
    results = {"status": 200}, {"status": 500}, {"status": 200}
    opened = [await rig.open(("0.0001", CONDITION)) for _ in results]
    for escrow, result in zip(opened, results, strict=True):
        waiting = await away.submit(escrow.escrow_id, "m0", result, by=rig.payee)
        assert waiting.state is EscrowState.SUBMITTED
    good, bad, never = opened
    evaluator.is_away = False
    rig.clock.advance(timedelta(seconds=10))
    for escrow in (good, bad):
        await away._advancing.advance(escrow.escrow_id)
    assert (await rig.now(good)).state is EscrowState.SETTLED
    assert (await rig.now(bad)).milestones[0].state is MilestoneState.NOT_MET
    evaluator.is_away = True
    rig.clock.advance(timedelta(seconds=600))
    await away.settle_due()
    assert grounds(await rig.now(never)) == [("silence", 100_000)]
    await rig.later(3_600)
    assert (await rig.now(bad)).state is EscrowState.REFUNDED


async def test_clock_that_jumps_back_reopens_nothing(rig: EscrowRig) -> None:
    """
    New facts are never before those that are there; what is over stays over.
    """
    escrow = await rig.open(("0.0001", CONDITION))
    second = await rig.open(("0.0001", CONDITION), review_window_s=60)
    third = await rig.submit(await rig.open(("0.0001", TESTED)))
    second = await rig.submit(second)
    rig.clock.advance(timedelta(seconds=-30))
    disputed = await rig.escrows.dispute(second.escrow_id, ["m0"], reason="no", by=rig.payer)
    times = [event.occurred_at for event in disputed.events]
    assert times == sorted(times)
    # The books themselves take nothing from a clock that ran backwards; it waits.
    await rig.later(3_630)
    await rig.escrows.cancel(second.escrow_id, by=rig.payee)
    rig.clock.advance(timedelta(seconds=-3_590))
    with pytest.raises(EscrowStateError):
        await rig.submit(escrow)
    assert grounds(await rig.now(third)) == [("silence", 100_000)]
    assert grounds(await rig.now(escrow)) == [("not_delivered", 0)]


async def test_facts_and_terms_never_change(rig: EscrowRig) -> None:
    """
    Not even for the owner of the tables.
    """
    escrow = await rig.submit(await rig.open())
    attempts = (
        "UPDATE agents.escrow_events SET actor = 'me'",
        "DELETE FROM agents.escrow_events",
        "TRUNCATE agents.escrow_events",
        "UPDATE agents.escrows SET quanta = 1",
        "UPDATE agents.escrows SET terms = '{}'",
        "UPDATE agents.escrows SET state = 'funded'",
        "DELETE FROM agents.escrows",
    )
    async with await psycopg.AsyncConnection.connect(rig.pay.books.dsn, autocommit=True) as owner:
        for attempt in attempts:
            with pytest.raises(psycopg.errors.DatabaseError):
                await owner.execute(attempt)  # pyright: ignore[reportArgumentType] - a text above
    assert await rig.now(escrow) == escrow
