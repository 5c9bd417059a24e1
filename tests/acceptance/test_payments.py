"""
Agents pay at a running hub: the facilitator of two gateway processes, and a kill between hold
and capture.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Shop
from tests.acceptance.hub_process import ANSWER_TIMEOUT_S, Document, wait_for
from tests.crash.victims import is_back
from tests.postgres.payments_rig import NOTHING, URL, PayingWallet
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource

PRICE = "0.0002"
ATOMIC = "200000"
TOGETHER = 50


@dataclass(kw_only=True)
class Buyer:
    """
    An agent with a wallet, and whom it pays.
    """

    shop: Shop
    name: str
    wallet: PayingWallet
    network: str
    payee: str

    def request(self, **claims: str) -> Document:
        """
        Sign a payment; return the body of a verify or settle.
        """
        asked = {
            "scheme": "exact",
            "network": self.network,
            "asset": "USD",
            "amount": ATOMIC,
            "payTo": self.payee,
            "maxTimeoutSeconds": 120,
            "extra": {"binding": {"method": "GET", "url": URL, "bodySha256": NOTHING}},
        }
        signed = self.wallet.claims(IdentifierSource(SystemClock()).mint())
        signed |= {"aud": self.network, "amount": ATOMIC, "pay_to": self.payee, **claims}
        return {
            "x402Version": 2,
            "paymentPayload": {
                "x402Version": 2,
                "accepted": asked,
                "payload": {"authorization": self.wallet.sign(signed)},
            },
            "paymentRequirements": asked,
        }

    def send(self, door: str, request: Document) -> Document:
        """
        Ask the facilitator, on a connection of its own: any of the gateways answers.
        """
        with httpx.Client(timeout=ANSWER_TIMEOUT_S) as http:
            answer = http.post(f"{self.shop.url}/x402/{door}", json=request)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def cash(self) -> Decimal:
        """
        Return what the organisation has.
        """
        return Decimal(self.shop.get("balance", party=self.name)["cash"][0]["posted"])


@pytest.fixture
def buyer(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Buyer]:
    """
    An organisation with ten dollars, its agent under a mandate, and a payee that is known.
    """
    name = f"pays-{abs(hash(request.node.name)) % 10**6}"
    clock = SystemClock()
    wallet = PayingWallet(clock, IdentifierSource(clock))
    shop.add_buyer(name)
    shop.add_buyer(f"{name}-seller", amount=None)
    agent = shop.post("agents", name=f"{name}-bot", owner=name, public_key=wallet.address)
    shop.post("mandates", agent=agent["party_id"], terms={"currency": "USD"})
    with httpx.Client(timeout=ANSWER_TIMEOUT_S) as http:
        supported = http.get(f"{shop.url}/x402/supported").json()
    yield Buyer(
        shop=shop,
        name=name,
        wallet=wallet,
        network=supported["kinds"][0]["network"],
        payee=str(shop.get(f"parties/{name}-seller")["party_id"]),
    )
    shop.check_books()


def test_fifty_at_once_verify_one_and_settle_once(buyer: Buyer, tmp_path: Path) -> None:
    """
    One payment sent fifty times to two processes: one works, one capture, one answer; and the
    receipt that the payee has verifies offline.
    """
    request = buyer.request()

    with ThreadPoolExecutor(TOGETHER) as pool:
        verified = list(pool.map(lambda _: buyer.send("verify", request), range(TOGETHER)))
        settled = list(pool.map(lambda _: buyer.send("settle", request), range(TOGETHER)))

    assert sum(answer["isValid"] for answer in verified) == 1
    assert {answer.get("invalidReason") for answer in verified} == {
        None,
        "payment_already_claimed",
    }
    assert all(answer == settled[0] for answer in settled)
    assert settled[0]["success"]
    assert buyer.cash() == Decimal(10) - Decimal(PRICE)
    payment_id = settled[0]["transaction"]
    payee_key = str(buyer.shop.post("keys", party=buyer.payee)["secret"])
    shown = buyer.shop.run("payment", "receipt", payment_id, key=payee_key)
    receipt, keys = tmp_path / "receipt.json", tmp_path / "keys.json"
    receipt.write_text(shown.stdout, encoding="utf-8")
    keys.write_text(buyer.shop.run("receipt", "keys").stdout, encoding="utf-8")
    checked = buyer.shop.run("receipt", "verify", str(receipt), "--keys", str(keys), "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(shown.stdout)["receipt"]["amount"] == PRICE
    listed = buyer.shop.tell("payment", "list", "--party", buyer.name)["items"]
    assert [row["payment_id"] for row in listed] == [payment_id]


def test_a_gateway_killed_between_hold_and_capture_charges_once(buyer: Buyer) -> None:
    """
    ``kill -9`` of every gateway after the verify; the same settle afterwards, many times at
    once: held once, charged once.
    """
    request = buyer.request()
    held = buyer.send("verify", request)
    assert held["isValid"], held

    for name in ("gateway-0", "gateway-1"):
        pid = buyer.shop.children()[name]
        os.kill(pid, signal.SIGKILL)
        wait_for(f"{name} is started again", lambda: is_back(buyer.shop, name, pid))  # noqa: B023 - asked at once
    wait_for("the hub answers", lambda: _answers(buyer.shop))
    with ThreadPoolExecutor(8) as pool:
        settled = list(pool.map(lambda _: buyer.send("settle", request), range(16)))

    assert {answer["success"] for answer in settled} == {True}, settled
    assert {answer["transaction"] for answer in settled} == {held["extra"]["paymentId"]}
    assert buyer.cash() == Decimal(10) - Decimal(PRICE)
    entries = buyer.shop.get(f"ledger/entries/{held['extra']['paymentId']}")["items"]
    assert sorted(entry["operation"] for entry in entries) == ["capture", "place"]
    late = buyer.send("verify", request)
    assert late["invalidReason"] == "payment_already_settled"


def _answers(shop: Shop) -> bool:
    with httpx.Client(timeout=ANSWER_TIMEOUT_S) as http:
        try:
            return http.get(f"{shop.url}/healthz").status_code == 200
        except httpx.HTTPError:
            return False
