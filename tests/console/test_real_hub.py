"""
A real hub as people meet it: calls, and payments of agents that are decided in the browser.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import expect

from tests.acceptance.hub_process import HubProcess
from tests.console.conftest import Console, Visitors, read

pytestmark = [pytest.mark.console, pytest.mark.timeout(180)]

Document = dict[str, Any]
URL = "https://shop.example/v1/report"
NANO = 10**9


def base64url(content: bytes) -> str:
    """
    Return bytes as JWS writes them.
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode()


NOTHING = base64url(hashlib.sha256(b"").digest())


class Wallet:
    """
    An agent's key; signs as docs/internals/agents.md says, with nothing of the product's code.
    """

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.address = base64url(self._private.public_key().public_bytes_raw())

    def sign(self, hub: HubProcess, payee: str, nano_usd: int, **changes: str) -> str:
        """
        Return a signed authorisation of a payment for a GET of ``URL``, or for something else.
        """
        now_ms = time.time_ns() // 1_000_000
        nonce = uuid.UUID(int=now_ms << 80 | 7 << 76 | 2 << 62 | secrets.randbits(60))
        claims = {
            "iss": self.address,
            "aud": network_of(hub),
            "jti": str(nonce),
            "iat": now_ms // 1000,
            "exp": now_ms // 1000 + 600,
            "scheme": "exact",
            "amount": str(nano_usd),
            "asset": "USD",
            "pay_to": payee,
            "method": "GET",
            "url": URL,
            "body_sha256": NOTHING,
        } | changes
        head = {"alg": "EdDSA", "kid": self.address, "typ": "tokenworks-payment+jwt"}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{base64url(self._private.sign(signed.encode()))}"

    def pay(self, hub: HubProcess, payee: str, nano_usd: int) -> Document:
        """
        Return a settle request that carries a signed payment.
        """
        required = {
            "scheme": "exact",
            "network": network_of(hub),
            "asset": "USD",
            "amount": str(nano_usd),
            "payTo": payee,
            "maxTimeoutSeconds": 60,
            "extra": {
                "name": "USD",
                "decimals": 9,
                "binding": {"method": "GET", "url": URL, "bodySha256": NOTHING},
            },
        }
        payload = {"authorization": self.sign(hub, payee, nano_usd)}
        paid = {"x402Version": 2, "accepted": required, "payload": payload}
        return {"x402Version": 2, "paymentPayload": paid, "paymentRequirements": required}


def network_of(hub: HubProcess) -> str:
    """
    Return what the hub calls its own network.
    """
    return str(hub.http.get(f"{hub.url}/x402/supported").json()["kinds"][0]["network"])


def settle(hub: HubProcess, request: Document) -> Document:
    """
    Send a settle request to the facilitator; returns its answer.
    """
    answer = hub.http.post(f"{hub.url}/x402/settle", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def real_console(
    running_hub: HubProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """
    One console before the real hub, for all tests.
    """
    console = Console(hub_url=running_hub.url, folder=tmp_path_factory.mktemp("console"))
    console.start()
    yield console
    console.stop()


def test_real_hub_is_shown_as_it_is(
    running_hub: HubProcess, demo: Document, real_console: Console, visitors: Visitors
) -> None:
    """
    Against a hub as ``make run`` starts it: a real call appears, and its legs agree.
    """
    visitor = visitors.open(real_console)
    visitor.see_live_page(str(demo["admin_key"]))
    call_id = make_a_call(demo)
    row = visitor.page.locator(f'.calls tr:has(a[href="/calls/{call_id}"])')
    row.get_by_text("settled").wait_for()
    visitor.rest(".sankey canvas", ink=0.05)
    visitor.keep("real-live")
    visitor.follow(row)
    expect(visitor.page.locator("#balanced")).to_have_text("debits = credits")
    expect(visitor.page.locator(".receipt-top .seal")).to_have_text("signature holds")
    charge = visitor.numbers("#charge")[0]
    debits = visitor.numbers(".journal tbody[data-group=sale] tr:not(.sum) .debit")
    assert sum(debits) == charge > 0
    visitor.keep("real-receipt")


def test_plant_at_work_is_shown_as_it_is(
    running_hub: HubProcess, demo: Document, real_console: Console, visitors: Visitors
) -> None:
    """
    A real model with a modelled meter: a call's joules appear by model, in the chain, on its page.
    """
    hub = running_hub
    (supplier,) = hub.get("suppliers")["items"]
    model = str(demo["model"]).partition("@")[0]
    meter = {"name": "demo", "source": "model", "tdp_w": 105, "interval_s": 1, "gap_max_s": 0.9}
    where = {"supplier": supplier["name"], "port": urlsplit(supplier["base_url"]).port}
    hub.post("factory/meters", boundary="one process", **where, **meter)
    visitor = visitors.open(real_console)
    page = visitor.page
    visitor.log_in(hub.admin_key, "/factory")
    page.locator("[aria-labelledby=watts-title] .spot").first.wait_for(state="attached")
    visitor.says("main", "No call has its energy yet")
    call_id = make_a_call(demo)
    row = page.locator(".by-model tbody tr", has_text=model)
    row.wait_for(timeout=60_000)
    visitor.says(row, "MODEL", "phases that llama.cpp told")
    page.locator("#chain-table").click()
    cell = f'.chain-table tr:has-text("{model}") td:nth-child(3)'
    visitor.numbers(cell, until=lambda energy: energy[0] == energy_uj(hub) > 0)
    visitor.keep("real-factory")
    read(lambda: hub.get(f"receipts/{call_id}/addenda")["items"], until=bool)
    page.goto(f"{real_console.url}/calls/{call_id}")
    told = ("MODEL", "one process", "as addendum 1", "the signature holds")
    visitor.says("[aria-labelledby=energy-title]", *told)


def energy_uj(hub: HubProcess) -> int:
    """
    Return the energy of the only model that has any.
    """
    (known,) = hub.get("factory/models")["items"]
    return int(known["energy_uj"])


def make_a_call(demo: Document) -> str:
    """
    Buy some tokens with the demo's key; returns the call's id.
    """
    body = {
        "model": demo["model"],
        "max_tokens": 24,
        "messages": [{"role": "user", "content": "What is a watt?"}],
    }
    headers = {"authorization": f"Bearer {demo['buyer_key']}"}
    started_s = time.monotonic()
    url = f"{demo['base_url']}/chat/completions"
    answer = httpx.post(url, json=body, headers=headers, timeout=60.0)
    assert answer.status_code == 200, f"{answer.text} after {time.monotonic() - started_s:.1f} s"
    return answer.headers["x-tokenworks-call-id"]


def test_people_decide_what_a_wallet_may_pay(
    running_hub: HubProcess, real_console: Console, visitors: Visitors
) -> None:
    """
    A held payment goes on after a press in the inbox; a frozen agent's next one is refused.
    """
    hub = running_hub
    owner_key = hub.add_buyer("northwind", "100")
    hub.add_buyer("shop", None)
    shop = str(hub.get("parties/shop")["party_id"])
    wallet = Wallet()
    hub.post("agents", name="scout", owner="northwind", public_key=wallet.address)
    terms = {"currency": "USD", "budgets": [{"window": "day", "amount": "50"}]}
    hub.post("mandates", agent="scout", terms=terms, label="errands")
    report = wallet.pay(hub, shop, 12 * NANO)
    held = settle(hub, report)
    assert (held["success"], held["errorReason"]) == (False, "payment_in_review")

    visitor = visitors.open(real_console)
    page = visitor.page
    visitor.log_in(owner_key, "/inbox")
    card = page.locator(".review")
    card.get_by_text("The first payment to this payee is 12 USD").wait_for()
    visitor.says(card, URL)
    visitor.keep("real-inbox")
    card.get_by_role("button", name="Approve once").click()
    page.locator(".question").get_by_role("button", name="Approve once").click()
    page.get_by_text("Nothing waits for you").wait_for()

    paid = settle(hub, report)
    assert paid["success"] is True, paid
    assert settle(hub, report) == paid

    page.get_by_role("link", name="Agents").click()
    row = page.locator(".tree-row", has_text="errands")
    row.get_by_text("38 of 50 USD left").wait_for()
    row.get_by_text("12.00 USD to shop").wait_for()
    page.get_by_role("button", name="Freeze scout").click()
    page.locator(".question").get_by_role("button", name="Freeze scout").click()
    row.get_by_text("stopped by scout").wait_for()
    visitor.keep("real-agents")
    cent = wallet.pay(hub, shop, NANO // 100)
    assert settle(hub, cent)["errorReason"] == "mandate_frozen"

    page.goto(f"{real_console.url}/payments/{paid['transaction']}")
    visitor.says(".receipt-top", "signature holds", "12.00")
    page.get_by_text("Approved by northwind").wait_for()
    visitor.keep("real-payment")

    page.goto(f"{real_console.url}/agents")
    page.get_by_role("button", name="Thaw scout").click()
    page.locator(".question").get_by_role("button", name="Thaw scout").click()
    row.get_by_text("stopped by scout").wait_for(state="detached")
    assert settle(hub, cent)["success"] is True
    hub.check_books()


def test_operator_decides_what_an_escrow_pays(
    running_hub: HubProcess, real_console: Console, visitors: Visitors
) -> None:
    """
    A milestone whose condition was not met is disputed; the arbiter's word moves the money.
    """
    hub = running_hub
    payer_key = hub.add_buyer("southwind", "100")
    payee_key = hub.add_buyer("writer", None)
    wallet = Wallet()
    hub.post("agents", name="editor", owner="southwind", public_key=wallet.address)
    hub.post("mandates", agent="editor", terms={"currency": "USD"}, label="texts")
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    terms: Document = {
        "milestones": [{"name": "draft", "amount": "0.5", "condition": "result.words >= 500"}],
        "result_schema": {
            "type": "object",
            "properties": {"words": {"type": "integer"}},
            "required": ["words"],
        },
        "submit_by": later,
        "review_window_s": 3600,
        "decide_by_s": 86400,
        "verifiers": {},
        "arbiter": None,
    }
    # The terms have no numbers with a point and ASCII alone: this is RFC 8785's form.
    canonical = json.dumps(terms, sort_keys=True, separators=(",", ":")).encode()
    claims = {"scheme": "upto", "method": "ESCROW"}
    claims["url"] = f"escrow:{hashlib.sha256(canonical).hexdigest()}"
    writer = str(hub.get("parties/writer")["party_id"])
    signed = wallet.sign(hub, writer, NANO // 2, **claims)
    opened = ask(hub, payer_key, "escrows", authorisation=signed, terms=terms)
    path = f"escrows/{opened['escrow_id']}"
    ask(hub, payee_key, f"{path}/submit", milestone="draft", result={"words": 412})
    ask(hub, payee_key, f"{path}/dispute", milestones=["draft"], reason="It is a good text.")

    visitor = visitors.open(real_console)
    page = visitor.page
    visitor.log_in(hub.admin_key, f"/{path}")
    panel = page.locator(".panel")
    panel.get_by_role("heading", name="editor hires writer").wait_for()
    panel.locator("summary", has_text="draft").click()
    panel.get_by_text('"words": 412').wait_for()
    panel.get_by_text("The condition is not met").wait_for()
    visitor.keep("real-escrow")
    page.get_by_role("button", name="Decide as arbiter").click()
    question = page.locator(".question")
    question.locator("#amount").fill("0.2")
    question.locator("#reason").fill("Most of it is there.")
    question.get_by_role("button", name="Decide").click()
    panel.locator(".status-settled").wait_for()
    panel.get_by_text("Decided by the arbiter").wait_for()
    panel.get_by_role("link", name="Receipt", exact=True).click()
    page.get_by_text("signature holds").wait_for()
    assert hub.get("balance", party="writer")["cash"][0]["available"] == "0.2"
    hub.check_books()


def ask(hub: HubProcess, key: str, path: str, **body: object) -> Document:
    """
    Ask the hub to do something with somebody's key; it must succeed.
    """
    headers = {"idempotency-key": str(uuid.uuid4())}
    answer = hub.ask("POST", path, key=key, json=body, headers=headers)
    assert answer.is_success, f"POST {path}: {answer.status_code} {answer.text}"
    return answer.json()
