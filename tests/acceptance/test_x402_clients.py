"""
The official x402 packages, unmodified, pay a hub that runs as its operator runs it.

Python (``x402``) and JavaScript (``@x402/fetch``) with our schemes registered by their public
interfaces and a cap set; a seller of its own with the official server middleware and the hub as
facilitator.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from x402.client import x402Client, x402ClientSync
from x402.http import x402HTTPClientSync
from x402.http.clients.httpx import PaymentError, x402AsyncTransport
from x402.http.middleware.fastapi import payment_middleware

from tests.acceptance.conftest import STUB_MODEL, Demo, Shop
from tests.acceptance.hub_process import ANSWER_TIMEOUT_S, Document, HubProcess
from tokenworks.sdk import (
    HubClient,
    PaymentRefusedError,
    SpendCap,
    Wallet,
    settlement_of,
)
from tokenworks.sdk.model import from_payment_response
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.sdk.x402 import register
from tokenworks.sdk.x402_selling import BindRequests, facilitator_of, sell

ROOT: Final = Path(__file__).parents[2]
TYPESCRIPT: Final = ROOT / "examples" / "typescript"
QUESTION: Any = [{"role": "user", "content": "What is water?"}]
HANDLER_PRICE: Final = "$0.0002"
RECEIPT_COMMENT: Final = ": tokenworks-receipt "


@dataclass(frozen=True, kw_only=True)
class Agent:
    """
    An agent of a hub's buyer, with its key.
    """

    name: str
    party_id: str
    network: str
    wallet: Wallet


def hire(hub: HubProcess, owner: str, *, key: str | None = None, **terms: object) -> Agent:
    """
    Add an agent with a wallet and a mandate below an owner.
    """
    wallet = Wallet.generate()
    name = f"bot-{uuid.uuid4().hex[:10]}"
    made = post(hub, "agents", key, name=name, owner=owner, public_key=wallet.address)
    post(hub, "mandates", key, agent=name, terms=terms)
    return Agent(name=name, party_id=made["party_id"], network=made["network"], wallet=wallet)


def post(hub: HubProcess, path: str, key: str | None, **body: object) -> Document:
    """
    Make something by the hub API with a key.
    """
    headers = {"idempotency-key": uuid.uuid4().hex}
    answer = hub.ask("POST", path, key=key, json=body, headers=headers)
    assert answer.is_success, answer.text
    return answer.json()


@pytest.fixture
def agent(shop: Shop) -> Agent:
    """
    An agent of the shop's buyer with ten cents.
    """
    return hire(shop, "buyer", budgets=[{"window": "ever", "amount": "0.1"}])


def body(model: str = STUB_MODEL, **members: object) -> bytes:
    """
    Return a chat request.
    """
    return json.dumps({"model": model, "messages": QUESTION, "max_tokens": 9, **members}).encode()


def chat_url(hub: HubProcess) -> str:
    """
    Return where answers are sold.
    """
    return f"{hub.url}/x402/v1/chat/completions"


def paid_calls(hub: HubProcess, agent: Agent) -> list[Document]:
    """
    Return the calls that an agent paid for.
    """
    return [call for call in hub.all_calls() if call["party"]["name"] == agent.name]


# ------------------------------------------------------------------ the official Python client


def official(agent: Agent, *, cap: str = "$0.05") -> httpx.AsyncClient:
    """
    Return an httpx client with the official transport and a cap.
    """
    client = x402Client()
    witness = register(client, agent.wallet, network=agent.network)
    client.set_spend_controls({"max_amount_per_payment": cap})
    transport = x402AsyncTransport(client, witness.async_transport())
    return httpx.AsyncClient(transport=transport, timeout=ANSWER_TIMEOUT_S)


async def test_official_python_client_pays_for_an_answer(shop: Shop, agent: Agent) -> None:
    """
    402, signature, answer, settlement of the actual tokens; change returned.
    """
    async with official(agent) as client:
        answer = await client.post(chat_url(shop), content=body())
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    settlement = from_payment_response(answer.headers["payment-response"])
    (call,) = paid_calls(shop, agent)
    assert settlement.is_success
    assert settlement.price == Decimal(call["charge"]) > 0
    assert settlement.transaction == call["call_id"]
    assert settlement.payer == agent.wallet.address


async def test_official_python_client_streams(shop: Shop, agent: Agent) -> None:
    """
    A stream is paid like a plain answer; its receipt line says the charge.
    """
    async with official(agent) as client:
        answer = await client.post(chat_url(shop), content=body(stream=True))
    assert answer.status_code == 200
    (line,) = [
        text for text in answer.text.splitlines() if text.startswith(": tokenworks-receipt ")
    ]
    receipt = json.loads(line.removeprefix(": tokenworks-receipt "))["receipt"]
    (call,) = paid_calls(shop, agent)
    assert Decimal(receipt["charge"]) == Decimal(call["charge"]) > 0


async def test_official_spend_control_refuses_before_signing(shop: Shop, agent: Agent) -> None:
    """
    A cap below the offer: nothing is signed, nothing is sold.
    """
    async with official(agent, cap="$0.000001") as client:
        with pytest.raises(PaymentError, match="spend_controls"):
            await client.post(chat_url(shop), content=body())
    assert paid_calls(shop, agent) == []


def test_official_python_client_pays_synchronously(shop: Shop, agent: Agent) -> None:
    """
    The synchronous client's own steps.
    """
    client = x402ClientSync()
    client.set_spend_controls({"max_amount_per_payment": "$0.05"})
    witness = register(client, agent.wallet, network=agent.network)
    steps = x402HTTPClientSync(client)
    with httpx.Client(transport=witness.transport(), timeout=ANSWER_TIMEOUT_S) as http:
        asked = http.post(chat_url(shop), content=body())
        headers, _ = steps.handle_402_response(dict(asked.headers), asked.content, chat_url(shop))
        answer = http.post(chat_url(shop), content=body(), headers=headers)
        again = http.post(chat_url(shop), content=body(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert (again.status_code, again.json()["error"]["code"]) == (409, "call_already_settled")
    first = from_payment_response(answer.headers["payment-response"])
    second = from_payment_response(again.headers["payment-response"])
    assert first.amount == second.amount
    assert len(paid_calls(shop, agent)) == 1


# ------------------------------------------------------------------ the official JavaScript client


def run_node(shop: HubProcess, wallet: Path, cap: str) -> subprocess.CompletedProcess[str]:
    """
    Run the TypeScript example; skip, loudly, where node or its packages are missing.
    """
    if shutil.which("node") is None:
        pytest.skip("SKIPPED: node is missing, so the official TypeScript client is not tested")
    if not (TYPESCRIPT / "node_modules" / "@x402" / "fetch").is_dir():
        pytest.skip("SKIPPED: run npm ci in examples/typescript (make test does it)")
    return subprocess.run(
        ["node", "pay.mjs", shop.url, str(wallet), STUB_MODEL, "What is water?", cap],
        capture_output=True,
        check=False,
        cwd=TYPESCRIPT,
        text=True,
        timeout=ANSWER_TIMEOUT_S,
    )


def test_official_typescript_client_pays_for_an_answer(
    shop: Shop, agent: Agent, tmp_path: Path
) -> None:
    """
    The official @x402/fetch with our scheme, reading the wallet that Python wrote.
    """
    agent.wallet.save(tmp_path / "wallet.json")
    done = run_node(shop, tmp_path / "wallet.json", "$0.05")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    (call,) = paid_calls(shop, agent)
    assert said["text"]
    assert said["settlement"]["success"] is True
    assert said["settlement"]["transaction"] == call["call_id"]
    assert Decimal(said["settlement"]["amount"]).scaleb(-9) == Decimal(call["charge"]) > 0


def test_official_typescript_client_keeps_its_cap(shop: Shop, agent: Agent, tmp_path: Path) -> None:
    """
    A cap below the offer: nothing is signed, nothing is sold.
    """
    agent.wallet.save(tmp_path / "wallet.json")
    done = run_node(shop, tmp_path / "wallet.json", "$0.000001")
    assert done.returncode != 0
    assert "spend" in done.stderr.lower()
    assert paid_calls(shop, agent) == []


# ------------------------------------------------------------------ the SDK


def test_sdk_reads_what_it_spent(shop: Shop, agent: Agent) -> None:
    """
    Quote, buy, and the wallet's own view of payments and mandate, signed instead of a key.
    """
    cap = SpendCap(per_payment="0.01", total="0.02")
    with HubClient(shop.url, agent.wallet, cap=cap) as hub:
        quote = hub.quote_model(STUB_MODEL, QUESTION, max_tokens=9)
        answer = hub.call_model(STUB_MODEL, QUESTION, max_tokens=9)
        assert 0 < answer.charge <= quote.amount
        assert cap.spent == answer.charge
        payment = hub.payment(answer.settlement.transaction)
        assert (payment["state"], payment["scheme"]) == ("captured", "call")
        assert Decimal(payment["amount"]) == answer.charge
        assert payment in hub.payments()
        receipt = hub.receipt(answer.settlement.transaction)["receipt"]
        assert receipt["payment"]["payer"] == agent.wallet.address
        (mandate,) = hub.mandates()
        (limit,) = hub.mandate(mandate["mandate_id"])["limits"]
        assert Decimal(limit["spent"]) == answer.charge
        assert [party["name"] for party in hub.balance()["parties"]][-1] == agent.name


async def test_fifty_sendings_over_two_processes_buy_one_answer(shop: Shop, agent: Agent) -> None:
    """
    One payment, fifty times at once, over two gateway processes: one answer, one charge.
    """
    desk = PaymentDesk(agent.wallet, network=agent.network, cap=SpendCap(per_payment="0.01"))
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, limits=limits) as plain:
        request = plain.build_request("POST", chat_url(shop), content=body())
        signed = desk.sign(request, await plain.send(request)).request
        answers = await asyncio.gather(
            *(
                plain.post(signed.url, content=signed.content, headers=signed.headers)
                for _ in range(50)
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    assert len(paid_calls(shop, agent)) == 1


def test_official_openai_client_needs_no_key(shop: Shop, agent: Agent) -> None:
    """
    Whatever is built on httpx pays: here the official OpenAI client.
    """
    cap = SpendCap(per_payment="0.01")
    with HubClient(shop.url, agent.wallet, cap=cap) as hub:
        # Its type asks for the fork of httpx it brings along; it takes httpx's own as well.
        http: Any = hub.http
        client = openai.OpenAI(
            base_url=f"{shop.url}/x402/v1", api_key="none", http_client=http, max_retries=0
        )
        answer = client.chat.completions.create(model=STUB_MODEL, messages=QUESTION, max_tokens=9)
    assert answer.choices[0].message.content
    (call,) = paid_calls(shop, agent)
    assert cap.spent == Decimal(call["charge"]) > 0


def test_real_model_is_bought_by_x402(demo: Demo) -> None:
    """
    The demo's real model sells to a wallet; what it says is not looked at.
    """
    owner = demo.get("whoami", key=demo.buyer_key)["party"]["name"]
    agent = hire(demo, owner, key=demo.buyer_key)
    with HubClient(demo.url, agent.wallet, cap=SpendCap(per_payment="0.01")) as hub:
        answer = hub.call_model(demo.fields["model"], QUESTION, max_tokens=8)
    assert answer.charge > 0
    usage = answer.document["usage"]
    assert usage["completion_tokens"] <= 8


# ------------------------------------------------------------------ a seller of its own


class Handlers:
    """
    What a third-party seller does for its money.
    """

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.fails = False


@dataclass(frozen=True, kw_only=True)
class SellerProcess:
    """
    A seller that listens, with the official middleware.
    """

    url: str
    party_id: str
    handlers: Handlers


@contextmanager
def running_seller(hub: HubProcess, party_id: str, api_key: str) -> Generator[SellerProcess]:
    """
    Serve GET /a and POST /b at the same price, the official way.
    """
    handlers = Handlers()
    facilitator = facilitator_of(hub.url, api_key=api_key)
    server, network = sell(facilitator)
    offer = {"scheme": "exact", "network": network, "payTo": party_id, "price": HANDLER_PRICE}
    routes: Any = {"GET /a": {"accepts": offer}, "POST /b": {"accepts": offer}}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await facilitator.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/a")
    def give() -> dict[str, str]:
        handlers.runs.append("a")
        return {"content": "a"}

    @app.post("/b")
    async def work(request: Request) -> Response:
        handlers.runs.append("b")
        if handlers.fails:
            return Response(status_code=500)
        return Response(await request.body())

    app.middleware("http")(payment_middleware(routes, server))
    config = uvicorn.Config(
        BindRequests(app),
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        ws="none",
        loop="asyncio",
        timeout_graceful_shutdown=5,
    )
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run, daemon=True)
    thread.start()
    try:
        while not uvicorn_server.started:
            assert thread.is_alive(), "the seller did not start"
            time.sleep(0.01)
        port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
        yield SellerProcess(url=f"http://127.0.0.1:{port}", party_id=party_id, handlers=handlers)
    finally:
        uvicorn_server.should_exit = True
        thread.join(timeout=ANSWER_TIMEOUT_S)


@pytest.fixture(scope="session")
def session_seller(session_shop: Shop) -> Iterator[SellerProcess]:
    """
    A supplier's party that sells by itself.
    """
    party = session_shop.post("parties", name="weather", kind="supplier")
    key = session_shop.post("keys", party="weather")["secret"]
    with running_seller(session_shop, party["party_id"], key) as seller:
        yield seller


@pytest.fixture
def seller(session_seller: SellerProcess) -> SellerProcess:
    """
    The seller as new.
    """
    session_seller.handlers.runs.clear()
    session_seller.handlers.fails = False
    return session_seller


async def test_seller_with_the_official_middleware_is_paid(
    shop: Shop, agent: Agent, seller: SellerProcess
) -> None:
    """
    Verify holds, the handler runs, settle captures: the seller's payable grows.
    """
    async with official(agent) as client:
        answer = await client.post(f"{seller.url}/b", content=b"question")
    assert (answer.status_code, answer.content) == (200, b"question")
    settlement = from_payment_response(answer.headers["payment-response"])
    assert settlement.is_success
    payment = shop.get(f"payments/{settlement.transaction}")
    assert payment["state"] == "captured"
    assert Decimal(payment["amount"]) == Decimal("0.0002")
    assert seller.handlers.runs == ["b"]


async def test_failed_handler_gives_the_hold_back(
    shop: Shop, agent: Agent, seller: SellerProcess
) -> None:
    """
    The handler fails after the hold: nothing is captured, the money is free again at once.
    """
    seller.handlers.fails = True
    async with official(agent) as client:
        answer = await client.post(f"{seller.url}/b", content=b"question")
    assert answer.status_code == 500
    assert seller.handlers.runs == ["b"]
    with HubClient(shop.url, agent.wallet) as hub:
        (mandate,) = hub.mandates()
        (limit,) = hub.mandate(mandate["mandate_id"])["limits"]
        assert (Decimal(limit["spent"]), Decimal(limit["held"])) == (0, 0)


def test_signature_for_one_resource_buys_no_other(agent: Agent, seller: SellerProcess) -> None:
    """
    Signed for GET /a, spent on POST /b at the same price: refused, and no handler runs.
    """
    client = x402ClientSync()
    witness = register(client, agent.wallet, network=agent.network)
    steps = x402HTTPClientSync(client)
    with httpx.Client(transport=witness.transport(), timeout=ANSWER_TIMEOUT_S) as http:
        asked = http.get(f"{seller.url}/a")
        headers, _ = steps.handle_402_response(
            dict(asked.headers), asked.content, f"{seller.url}/a"
        )
        stolen = http.post(f"{seller.url}/b", content=b"", headers=headers)
        assert stolen.status_code == 402
        assert seller.handlers.runs == []
        honest = http.get(f"{seller.url}/a", headers=headers)
        again = http.get(f"{seller.url}/a", headers=headers)
    assert honest.status_code == 200
    assert again.status_code == 402
    assert seller.handlers.runs == ["a"]


def test_sdk_pays_the_seller_too(agent: Agent, shop: Shop, seller: SellerProcess) -> None:
    """
    The SDK's transport and the official middleware understand each other; refusals are typed.
    """
    cap = SpendCap(per_payment="0.001", total="0.0003")
    with HubClient(shop.url, agent.wallet, cap=cap) as hub:
        answer = hub.http.get(f"{seller.url}/a")
        settlement = settlement_of(answer)
        assert settlement is not None
        assert settlement.price == cap.spent == Decimal("0.0002")
    poor = hire(shop, "buyer", budgets=[{"window": "ever", "amount": "0.0001"}])
    with (
        HubClient(shop.url, poor.wallet, cap=SpendCap(per_payment="0.001")) as hub,
        pytest.raises(PaymentRefusedError),
    ):
        hub.http.get(f"{seller.url}/a")
