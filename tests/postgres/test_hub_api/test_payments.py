"""
Payments at the door: the payer's side, the payee's side, the operator, and strangers.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.postgres.payments_rig import NOTHING, PRICE, URL, PayingWallet
from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.agents.mandates.model import Terms
from tokenworks.agents.payments.errors import PaymentInReviewError
from tokenworks.agents.payments.identifying import payment_id_of
from tokenworks.agents.payments.model import Binding, PaymentState, Requirements, Scheme
from tokenworks.cli import payment as command
from tokenworks.cli.rendering import Output
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.receipts.jws import from_base64url
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_receipt
from tokenworks.supply.secrets import SecretBox


async def _pay(hub: Hub, wallet: PayingWallet, payee: UUID, *, settles: bool = True) -> UUID:
    payments = hub.services.agents.payments
    jws = wallet.pay(payee, aud=payments.network)
    asked = Requirements(
        scheme=Scheme.EXACT,
        network=payments.network,
        amount=PRICE,
        asset="USD",
        pay_to=payee,
        binding=Binding(method="GET", url=URL, body_sha256=NOTHING),
        timeout_s=60,
    )
    if not settles:
        return (await payments.claim(jws, asked)).payment_id
    return (await payments.settle(jws, asked)).payment.payment_id


@pytest.fixture
async def paid(hub: Hub, clock: FakeClock, ids: IdentifierSource) -> dict[str, Any]:
    """
    An agent of acme that paid a shop once, and holds money for a second payment.
    """
    await hub.services.agents.payments.ensure_partitions()
    for name in ("acme", "shop", "stranger"):
        await hub.make("parties", name=name, kind="buyer")
    agent = await hub.make("parties", name="bot", kind="buyer", level="agent", parent="acme")
    await hub.make("deposits", party="acme", amount="1", currency="USD", rail="bank", reference="1")
    shop = UUID((await hub.admin.get("parties/shop")).json()["party_id"])
    wallet = PayingWallet(clock, ids)
    mandates = hub.services.agents.mandates
    await mandates.add_wallet(UUID(agent["party_id"]), wallet.address)
    await mandates.issue(UUID(agent["party_id"]), Terms(), actor="test")
    settled = await _pay(hub, wallet, shop)
    held = await _pay(hub, wallet, shop, settles=False)
    return {"settled": str(settled), "held": str(held), "wallet": wallet.address}


async def test_each_reader_sees_its_own_side(hub: Hub, paid: dict[str, Any]) -> None:
    """
    The payee sees amount, payer and resource; mandate, agent and reasons stay with the payer.
    """
    payer, payee = await hub.key_of("acme"), await hub.key_of("shop")
    stranger = await hub.key_of("stranger")
    path = f"payments/{paid['settled']}"

    for client, sees_payer in ((hub.admin, True), (payer, True), (payee, False)):
        listed = (await client.get("payments")).json()["items"]
        shown = (await client.get(path)).json()
        held = (await client.get("payments", params={"held": "true"})).json()["items"]

        assert listed == [shown]
        assert [row["payment_id"] for row in held] == [paid["held"]]
        assert (shown["state"], shown["amount"], shown["payee"]["name"]) == (
            "captured",
            "0.00012",
            "shop",
        )
        assert (shown["payer"], shown["resource"]) == (paid["wallet"], f"GET {URL}")
        assert (shown["agent"] is not None) == sees_payer
        assert (shown["mandate_id"] is not None) == (shown["brake"] is not None) == sees_payer
    assert (await stranger.get("payments")).json()["items"] == []
    for suffix in ("", "/receipt"):
        answer = await stranger.get(path + suffix)
        assert (answer.status_code, answer.json()["code"]) == (404, "payment_not_found")
    by_payee = await payer.get("payments", params={"payee": "shop"})
    assert by_payee.json()["code"] == "party_not_found"


async def test_a_mandate_is_asked_about_by_its_own_side_alone(
    hub: Hub, paid: dict[str, Any]
) -> None:
    """
    A payee learns not even whether a mandate that it guesses paid for something.
    """
    payer, payee = await hub.key_of("acme"), await hub.key_of("shop")
    mandate = (await payer.get(f"payments/{paid['settled']}")).json()["mandate_id"]

    own = await payer.get("payments", params={"mandate": mandate})
    asked = await payee.get("payments", params={"mandate": mandate})

    assert [row["payment_id"] for row in own.json()["items"]] == [paid["settled"]]
    assert (asked.status_code, asked.json()["code"]) == (404, "mandate_not_found")


async def test_receipts_are_given_by_view_and_verify(hub: Hub, paid: dict[str, Any]) -> None:
    """
    Payer, payee and auditor; an admin may look as another reader, nobody else.
    """
    payer, payee = await hub.key_of("acme"), await hub.key_of("shop")
    published = await ReceiptKeys(hub.services.pool, SecretBox(bytes(32)), SystemClock()).jwks()
    keys = TrustedKeys.from_json(msgspec.json.encode(published))
    path = f"payments/{paid['settled']}/receipt"

    views: dict[str, set[str]] = {}
    for client in (hub.admin, payer, payee):
        document = (await client.get(path)).json()
        assert verify_receipt(document, keys).ok
        views[document["receipt"]["view"].partition(":")[0]] = set(document["receipt"])
    as_buyer = (await hub.admin.get(path, params={"view": "buyer"})).json()
    peeking = await payee.get(path, params={"view": "buyer"})

    assert set(views) == {"auditor", "buyer", "leg_owner"}
    assert "mandates" in views["buyer"]
    assert not {"mandates", "brake", "spender"} & views["leg_owner"]
    assert set(as_buyer["receipt"]) == views["buyer"]
    assert (peeking.status_code, peeking.json()["code"]) == (400, "view_not_allowed")
    missing = await hub.admin.get(path, params={"ordinal": 1})
    assert missing.status_code == 404
    assert (await hub.admin.get(f"payments/{paid['held']}/receipt")).status_code == 404


async def test_the_command_shows_what_the_door_answers(
    hub: Hub, paid: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Every column finds its field, also where the payee sees nothing.
    """
    payee = await hub.key_of("shop")
    output = Output(as_json=False)

    for client in (hub.admin, payee):
        row = (await client.get(f"payments/{paid['settled']}")).json()
        output.records([row], command.COLUMNS, empty="")
        output.record(row, command.DETAIL_COLUMNS)

    said = capsys.readouterr().out
    assert "0.00012" in said
    assert "captured" in said


async def test_people_decide_about_a_large_payment_to_a_stranger(
    hub: Hub, clock: FakeClock, ids: IdentifierSource, paid: dict[str, Any]
) -> None:
    """
    With the real mandates and the real brake: held for a person, approved once and settled;
    denied, and the money is back at once.
    """
    payments, brake = hub.services.agents.payments, hub.services.agents.brake
    await hub.make(
        "deposits", party="acme", amount="100", currency="USD", rail="bank", reference="2"
    )
    agent = UUID((await hub.admin.get("parties/bot")).json()["party_id"])
    payee = UUID((await hub.admin.get("parties/stranger")).json()["party_id"])
    acme = UUID((await hub.admin.get("parties/acme")).json()["party_id"])
    wallet = PayingWallet(clock, ids)
    await hub.services.agents.mandates.add_wallet(agent, wallet.address)
    amount = 20 * 10**9
    asked = Requirements(
        scheme=Scheme.EXACT,
        network=payments.network,
        amount=amount,
        asset="USD",
        pay_to=payee,
        binding=Binding(method="GET", url=URL, body_sha256=NOTHING),
        timeout_s=60,
    )
    signed = [wallet.pay(payee, aud=payments.network, amount=str(amount)) for _ in range(2)]

    for jws in signed:
        with pytest.raises(PaymentInReviewError):
            await payments.claim(jws, asked)
    held = (await hub.admin.get("payments", params={"held": "true"})).json()["items"]
    waiting = [UUID(row["payment_id"]) for row in held if row["state"] == "in_review"]
    assert len(waiting) == 2
    texts = [command.verdict_text(row) for row in held if row["state"] == "in_review"]
    assert all(text.startswith("hold -> waits until 20") for text in texts)
    reviews = {review_id: await brake.review(review_id) for review_id in waiting}
    by_payment = {payment_id_of(wallet.address, nonce_of(jws)): jws for jws in signed}
    (approved, good), (denied, bad) = by_payment.items()
    for review_id in (approved, denied):
        review = reviews[review_id]
        assert review is not None
        decide = brake.approve if review_id == approved else brake.deny
        await decide(
            review_id, digest=review.subject.digest, actor="ann", person=acme, note="looked at"
        )

    settled = await payments.settle(good, asked)
    with pytest.raises(TokenworksError) as refused:
        await payments.settle(bad, asked)

    assert settled.captured_quanta == amount
    assert refused.value.code == "payment_denied"
    assert (await payments.get(denied)).state is PaymentState.RELEASED
    receipt = (await hub.admin.get(f"payments/{approved}/receipt")).json()["receipt"]
    assert receipt["brake"]["review"] == str(approved)
    balance = (await hub.admin.get("balance", params={"party": "acme"})).json()["cash"][0]
    assert balance["posted"] == "80.99988"
    payer, payee_key = await hub.key_of("acme"), await hub.key_of("stranger")
    rows = {r["payment_id"]: r for r in (await payer.get("payments")).json()["items"]}
    moment = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    for payment_id, word in ((approved, "approved"), (denied, "denied")):
        review = rows[str(payment_id)]["review"]
        assert (review["state"], review["by"], review["note"]) == (word, ["ann"], "looked at")
        shown = (await payer.get(f"payments/{payment_id}")).json()
        assert command.verdict_text(shown) == f"hold -> {word} by ann at {moment}"
    for row in (await payee_key.get("payments")).json()["items"]:
        assert (row["brake"], row["review"]) == (None, None)


def nonce_of(jws: str) -> UUID:
    """
    Return the nonce in an authorisation.
    """
    claims = msgspec.json.decode(from_base64url(jws.split(".")[1]))
    return UUID(claims["jti"])
