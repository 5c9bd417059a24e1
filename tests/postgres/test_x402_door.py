"""
The facilitator over HTTP, in x402's own shapes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from tests.postgres.payments_rig import NETWORK, NOTHING, PRICE, URL, PaymentsRig, open_payments
from tokenworks.agents.brake.model import Action
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import X402_BODY_BYTES_MAX, X402_REQUESTS_PER_MINUTE_MAX
from tokenworks.identity.model import Role
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.x402_api.app import X402Api


@pytest.fixture
async def rig(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[PaymentsRig]:
    """
    A business that pays; the books are checked when the test is over.
    """
    async with open_payments(dsn, clock, ids) as rig:
        yield rig


@pytest.fixture
async def door(rig: PaymentsRig) -> AsyncIterator[httpx.AsyncClient]:
    """
    A client of the facilitator.
    """
    app = X402Api(
        payments=rig.payments, identity=rig.identity, clock=rig.clock, metrics=HubMetrics()
    )
    transport = httpx.ASGITransport(app=cast("Any", app))
    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
        yield client


def asked(rig: PaymentsRig, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
    """
    Return the seller's requirements on the wire.
    """
    return {
        "scheme": "exact",
        "network": NETWORK,
        "asset": "USD",
        "amount": str(PRICE),
        "payTo": str(rig.shop.party_id),
        "maxTimeoutSeconds": 60,
        "extra": {
            "name": "USD",
            "decimals": 9,
            "binding": {"method": "GET", "url": URL, "bodySha256": NOTHING},
        },
    } | changes


def body(requirements: dict[str, Any], **payload: str) -> dict[str, Any]:
    """
    Return the body of a verify or settle.
    """
    return {
        "x402Version": 2,
        "paymentPayload": {"x402Version": 2, "accepted": requirements, "payload": payload},
        "paymentRequirements": requirements,
    }


async def test_supported_names_schemes_network_and_binding(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    What the official clients register by.
    """
    answer = (await door.get("/x402/supported")).json()

    assert [kind["scheme"] for kind in answer["kinds"]] == ["exact", "upto"]
    assert {kind["network"] for kind in answer["kinds"]} == {NETWORK}
    assert answer["kinds"][0]["extra"]["binding"] == "required"
    assert (answer["extensions"], list(answer["signers"])) == ([], ["hub:*"])


async def test_verify_then_settle_then_settle_again(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    Verified once, settled once, and the first answer again; the shapes are x402's.
    """
    jws = rig.wallet.pay(rig.shop.party_id)
    request = body(asked(rig), authorization=jws)

    verified = await asyncio.gather(*(door.post("/x402/verify", json=request) for _ in range(8)))
    settled = await asyncio.gather(*(door.post("/x402/settle", json=request) for _ in range(8)))

    answers = [answer.json() for answer in verified]
    good = [answer for answer in answers if answer["isValid"]]
    assert len(good) == 1
    assert good[0]["payer"] == rig.wallet.address
    bad = next(answer for answer in answers if not answer["isValid"])
    assert bad["invalidReason"] == "payment_already_claimed"
    assert {answer.status_code for answer in (*verified, *settled)} == {200}
    assert [answer.json() for answer in settled] == 8 * [
        {
            "success": True,
            "transaction": good[0]["extra"]["paymentId"],
            "network": NETWORK,
            "payer": rig.wallet.address,
            "amount": str(PRICE),
        }
    ]
    assert await rig.cash(rig.shop) == (PRICE, PRICE)
    late = (await door.post("/x402/verify", json=request)).json()
    assert late["invalidReason"] == "payment_already_settled"


DIFFERENT_REQUIREMENTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"network": "eip155:8453"}, "invalid_network"),
    ({"scheme": "batch-settlement"}, "unsupported_scheme"),
    ({"scheme": "upto"}, "invalid_scheme"),
    ({"asset": "EUR"}, "requirements_mismatch"),
    ({"amount": "119999"}, "requirements_mismatch"),
    ({"amount": "-5"}, "invalid_amount"),
    ({"amount": "0120000"}, "invalid_amount"),
    ({"amount": "1.5"}, "invalid_amount"),
    ({"amount": str(2**62 + 1)}, "amount_too_large"),
    ({"payTo": "merchant"}, "payee_unknown"),
    ({"payTo": "018f0000-0000-7000-8000-000000000000"}, "requirements_mismatch"),
    ({"maxTimeoutSeconds": 0}, "invalid_payment_requirements"),
    ({"maxTimeoutSeconds": 3601}, "invalid_payment_requirements"),
    ({"extra": {}}, "request_binding_required"),
    ({"extra": None}, "request_binding_required"),
)


async def test_requirements_that_differ_are_judged_by_name(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    A judged payment is 200 with the reason, on verify and on settle; nothing is held.
    """
    jws = rig.wallet.pay(rig.shop.party_id)
    for changes, reason in DIFFERENT_REQUIREMENTS:
        request = body(asked(rig, **changes), authorization=jws)

        verified = await door.post("/x402/verify", json=request)
        settled = await door.post("/x402/settle", json=request)

        assert verified.status_code == settled.status_code == 200
        verdict, answer = verified.json(), settled.json()
        assert (verdict["isValid"], verdict["invalidReason"]) == (False, reason), changes
        assert (answer["success"], answer["errorReason"]) == (False, reason), changes
        assert answer["transaction"] == ""
    nothing = await door.post("/x402/verify", json=body(asked(rig, amount="0"), authorization=jws))
    assert nothing.json()["invalidReason"] == "requirements_mismatch"
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)


DIFFERENT_CLAIMS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"aud": "hub:other"}, "invalid_network"),
    ({"amount": 5}, "invalid_payload"),
    ({"jti": "4f0e8a54-3f0f-4f6e-9c0a-0d6a3b0f0c11"}, "invalid_payload"),
    ({"surprise": True}, "invalid_payload"),
    ({"asset": "EUR"}, "asset_unknown"),
    ({"asset": "CNY"}, "asset_unknown"),
)


async def test_signatures_that_say_something_else_are_judged_by_name(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    Another hub, another type, another version of the nonce, a claim nobody knows.
    """
    for claims, reason in DIFFERENT_CLAIMS:
        request = body(asked(rig), authorization=rig.wallet.pay(rig.shop.party_id, **claims))

        answer = (await door.post("/x402/verify", json=request)).json()

        assert (answer["isValid"], answer["invalidReason"]) == (False, reason), claims


async def test_a_forged_signature_and_another_version_are_refused(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    A claim changed after signing; x402 of version 1.
    """
    head, claims, signature = rig.wallet.pay(rig.shop.party_id).split(".")
    other = rig.wallet.pay(rig.shop.party_id).split(".")[1]
    forged = body(asked(rig), authorization=f"{head}.{other}.{signature}")
    old = body(asked(rig), authorization=f"{head}.{claims}.{signature}") | {"x402Version": 1}

    assert (await door.post("/x402/verify", json=forged)).json()["invalidReason"] == (
        "authorisation_signature"
    )
    assert (await door.post("/x402/settle", json=old)).json()["errorReason"] == (
        "invalid_x402_version"
    )


async def test_a_body_that_is_no_request_is_400_and_large_ones_are_413(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    Problem details, with the members that x402's clients look for.
    """
    for content in (b"", b"{", b"[]", b'{"x402Version":2}', b"\xff"):
        verified = await door.post("/x402/verify", content=content)
        settled = await door.post("/x402/settle", content=content)
        assert (verified.status_code, settled.status_code) == (400, 400)
        assert verified.json()["isValid"] is False
        assert settled.json()["success"] is False
        assert verified.json()["invalidReason"] == "invalid_payload"
    large = await door.post("/x402/verify", content=b" " * (X402_BODY_BYTES_MAX + 1))
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert (await door.get("/x402/verify")).status_code == 400
    assert (await door.get("/x402/discovery")).status_code == 404


async def test_upto_settles_less_only_for_the_payee(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    The payer has the signature too: it must not end the payment cheaply during the work.
    """
    await rig.books.ledger.open_scope(rig.shop.party_id)
    _, payee_key = await rig.identity.add_key(rig.shop.party_id, role=Role.BUYER)
    _, other_key = await rig.identity.add_key(rig.organisation.party_id, role=Role.BUYER)
    jws = rig.wallet.pay(rig.shop.party_id, scheme="upto")
    most = asked(rig, scheme="upto")
    assert (await door.post("/x402/verify", json=body(most, authorization=jws))).json()["isValid"]
    actual = body(asked(rig, scheme="upto", amount="7"), authorization=jws)

    for headers in ({}, {"authorization": f"Bearer {other_key}"}):
        refused = (await door.post("/x402/settle", json=actual, headers=headers)).json()
        assert (refused["success"], refused["errorReason"]) == (False, "unauthorized_server")
    headers = {"authorization": f"Bearer {payee_key}"}
    settled = (await door.post("/x402/settle", json=actual, headers=headers)).json()
    again = (await door.post("/x402/settle", json=actual)).json()

    assert (settled["success"], settled["amount"]) == (True, "7")
    assert again == settled
    assert await rig.cash(rig.organisation) == (999_993, 999_993)


async def test_whoever_was_given_a_payment_may_give_it_back_without_a_key(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    Verify tells its first caller a claim, and nobody else; with it a failed handler's hold is
    free at once, with a made up one or another payment's it is not.
    """
    jws, other = (rig.wallet.pay(rig.shop.party_id) for _ in range(2))
    first = (await door.post("/x402/verify", json=body(asked(rig), authorization=jws))).json()
    second = (await door.post("/x402/verify", json=body(asked(rig), authorization=jws))).json()
    beside = (await door.post("/x402/verify", json=body(asked(rig), authorization=other))).json()
    claim = first["extra"]["claim"]
    assert (second["isValid"], "extra" in second) == (False, False)

    def nothing(claim: str | None) -> dict[str, Any]:
        requirements = asked(rig, amount="0")
        requirements["extra"] |= {} if claim is None else {"claim": claim}
        return body(requirements, authorization=jws)

    for wrong in (None, "", "A" * 43, "\u00e9", beside["extra"]["claim"]):
        refused = (await door.post("/x402/settle", json=nothing(wrong))).json()
        assert refused["errorReason"] == "unauthorized_server", wrong
    freed = (await door.post("/x402/settle", json=nothing(claim))).json()

    assert (freed["success"], freed["amount"]) == (True, "0")
    assert (await rig.cash(rig.organisation))[0] == 1_000_000 - PRICE  # the other's


async def test_a_seller_learns_nothing_of_what_the_payer_has_or_forbids(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    ``insufficient_funds`` and other reasons without balance, limits or the owner's rules.
    """
    claims = rig.wallet.claims(rig.shop.party_id, amount="2000000", mandate=str(rig.mandate_id))
    jws = rig.wallet.sign(claims)
    request = body(asked(rig, amount="2000000"), authorization=jws)
    credit = {
        "bundleId": str(rig.mandate_id),
        "amount": "2000000",
        "asset": "USD",
        "resource": URL,
        "idempotencyKey": claims["jti"],
        "authorization": jws,
    }

    short = await door.post("/x402/settle", json=request)
    no_credit = await door.post("/x402/authorize", json=credit)
    await rig.limit("LIMIT.USD", 777)
    small = body(asked(rig), authorization=rig.wallet.pay(rig.shop.party_id))
    limited = await door.post("/x402/verify", json=small)
    rig.brake.action = Action.DENY
    denied = await door.post("/x402/verify", json=small)

    assert short.json()["errorReason"] == "insufficient_funds"
    assert (no_credit.status_code, no_credit.json()["code"]) == (402, "insufficient_credits")
    assert limited.json()["invalidReason"] == "limit_exceeded"
    assert denied.json()["invalidReason"] == "payment_denied"
    for answer in (short, no_credit, limited, denied):
        for secret in ("0.001", "777", "First payment", str(rig.mandate_id)):
            assert secret not in answer.text
        assert "extra" not in answer.json()


async def test_a_settle_with_unknown_outcome_is_pending_not_failed(
    rig: PaymentsRig, door: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A client that took it for failed would sign again and pay twice.
    """
    jws = rig.wallet.pay(rig.shop.party_id)
    request = body(asked(rig), authorization=jws)
    with monkeypatch.context() as patch:

        async def silent(*_: object, **__: object) -> None:
            raise LedgerUnavailableError("no answer in time")

        patch.setattr(rig.books.ledger, "post", silent)
        pending = (await door.post("/x402/settle", json=request)).json()
    settled = (await door.post("/x402/settle", json=request)).json()

    assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
    assert settled["success"]
    assert pending["transaction"] == settled["transaction"]


async def test_authorize_attests_a_hold_that_settle_takes(
    rig: PaymentsRig, door: httpx.AsyncClient
) -> None:
    """
    The credit proposal's flow and its words.
    """
    claims = rig.wallet.claims(rig.shop.party_id, mandate=str(rig.mandate_id))
    request = {
        "bundleId": str(rig.mandate_id),
        "amount": str(PRICE),
        "asset": "USD",
        "resource": URL,
        "idempotencyKey": claims["jti"],
        "authorization": rig.wallet.sign(claims),
    }

    first = await door.post("/x402/authorize", json=request)
    again = await door.post("/x402/authorize", json=request)
    other = rig.wallet.sign(claims | {"amount": "5"})
    conflict = await door.post(
        "/x402/authorize", json=request | {"amount": "5", "authorization": other}
    )
    differs = await door.post("/x402/authorize", json=request | {"amount": "5"})

    assert first.status_code == 200
    assert first.json() == again.json()
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")
    assert differs.json()["code"] == "requirements_mismatch"
    attestation = first.json()["attestation"]
    elsewhere = body(asked(rig, payTo=str(rig.supplier.party_id)), attestation=attestation)
    refused = (await door.post("/x402/settle", json=elsewhere)).json()
    assert refused["errorReason"] == "unauthorized_server"
    settled = (
        await door.post("/x402/settle", json=body(asked(rig), attestation=attestation))
    ).json()
    assert (settled["success"], settled["transaction"]) == (True, first.json()["paymentId"])

    rig.mandates.revoked.add(rig.wallet.address)
    fresh = rig.wallet.claims(rig.shop.party_id, mandate=str(rig.mandate_id))
    revoked = await door.post(
        "/x402/authorize",
        json=request | {"idempotencyKey": fresh["jti"], "authorization": rig.wallet.sign(fresh)},
    )
    assert (revoked.status_code, revoked.json()["code"]) == (403, "bundle_revoked")


async def test_an_address_is_limited(rig: PaymentsRig, door: httpx.AsyncClient) -> None:
    """
    One address at most so often; an answer says when to come again.
    """
    app = cast("Any", door)._transport.app
    for _ in range(X402_REQUESTS_PER_MINUTE_MAX):
        assert (
            app._rate._limiter.take(
                "127.0.0.1", per_minute=X402_REQUESTS_PER_MINUTE_MAX, now_s=rig.clock.monotonic_s()
            )
            == 0.0
        )

    answer = await door.get("/x402/supported")

    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert "retry-after" in answer.headers


async def test_nothing_that_was_signed_is_logged(
    rig: PaymentsRig, door: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A signature is as good as money until it is used.
    """
    jws = rig.wallet.pay(rig.shop.party_id)
    for content in (
        json.dumps(body(asked(rig, amount="1"), authorization=jws)),
        json.dumps(body(asked(rig), authorization=jws)),
        json.dumps(body(asked(rig), authorization=jws))[:-1],
    ):
        await door.post("/x402/settle", content=content)

    said = capsys.readouterr()
    assert jws.split(".")[2] not in said.out + said.err
