"""
The hub's tools for agents elsewhere: the official MCP client, with a key or with x402's payments.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from x402.client import x402Client
from x402.mcp.client_async import x402MCPClient

from tests.databases import OpenDatabase
from tests.patience import PATIENCE_S
from tests.postgres.gateway_rig import HELLO, Plant, nano, open_plant
from tests.postgres.selling_rig import SellingRig, braked, listening, open_selling_business
from tokenworks.agents.brake.model import Action, ReviewState
from tokenworks.identity.model import PartyKind
from tokenworks.sdk.asking import chat_body
from tokenworks.sdk.x402 import ForX402, Witness, register

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS = {"quote", "pay", "balance", "mandate", "receipt", "call_model"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Plant, str]]:
    """
    A hub and its suppliers, listening.
    """
    with open_database() as dsn:
        async with (
            open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant,
            listening(plant.hub) as url,
        ):
            yield plant, url


@pytest_asyncio.fixture(loop_scope="module")
async def rig(plant: tuple[Plant, str]) -> AsyncGenerator[SellingRig]:
    """
    An agent whose wallet may spend its organisation's money.
    """
    async with open_selling_business(*plant) as rig:
        yield rig


@contextlib.asynccontextmanager
async def connected(rig: SellingRig, key: str | None = None) -> AsyncGenerator[Client]:
    """
    Connect the official client to ``/mcp``, with an API key or with nothing.
    """
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
        transport = streamable_http_client(f"{rig.url}/mcp", http_client=http)
        async with Client(transport) as client:
            yield client


@contextlib.asynccontextmanager
async def paying(rig: SellingRig, cap: str = "$1") -> AsyncGenerator[tuple[Any, Client, Witness]]:
    """
    Connect the official x402 client for MCP, with our scheme and its own cap.
    """
    async with connected(rig) as client:
        payments = x402Client()
        payments.set_spend_controls({"max_amount_per_payment": cap})
        witness = register(payments, rig.wallet, network=rig.network)
        agent = x402MCPClient(ForX402(client), payments)
        agent.on_payment_required(witness.sees_tools(f"{rig.url}/mcp"))
        yield agent, client, witness


def question(rig: SellingRig, **members: object) -> dict[str, Any]:
    """
    Return the arguments of ``call_model``.
    """
    return {"model": rig.gateway.model, "messages": list(HELLO), "max_tokens": 40} | members


def text_of(answer: Any) -> str:  # noqa: ANN401 - of either client
    """
    Return the first text of a result.
    """
    first = answer.content[0]
    return str(first["text"] if isinstance(first, dict) else first.text)


async def signed(rig: SellingRig, client: Client, tool: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON has
    """
    Return x402's payment for a tool call that has not been paid yet.
    """
    asked = await client.call_tool(tool, arguments)
    assert asked.is_error
    payments = x402Client()
    witness = register(payments, rig.wallet, network=rig.network)
    agent = x402MCPClient(ForX402(client), payments)
    required = await agent.get_tool_payment_requirements(tool, arguments)
    assert required is not None
    hook = witness.sees_tools(f"{rig.url}/mcp")
    hook(_context(tool, arguments, required))
    payload = await payments.create_payment_payload(required)
    return payload.model_dump(by_alias=True, exclude_none=True)


def _context(tool: str, arguments: dict[str, Any], required: Any) -> Any:  # noqa: ANN401 - of that package
    from x402.mcp.types import PaymentRequiredContext

    return PaymentRequiredContext(tool_name=tool, arguments=arguments, payment_required=required)


# ---------------------------------------------------------------------- with an API key


async def test_agent_with_a_key_quotes_buys_and_proves(rig: SellingRig) -> None:
    """
    Every free tool once; the call is the key's, along its own spend path.
    """
    key = rig.gateway.secret
    async with connected(rig, key) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        quoted = (await client.call_tool("quote", question(rig))).structured_content
        bought = (await client.call_tool("call_model", question(rig))).structured_content
        assert bought["text"]
        assert 0 < Decimal(bought["charge"]) <= Decimal(quoted["amount_max"])
        proof = await client.call_tool("receipt", {"payment_id": bought["payment_id"]})
        assert proof.structured_content["receipt"]["call_id"] == bought["payment_id"]
        assert not (await client.call_tool("balance")).is_error
        assert (await client.call_tool("mandate")).structured_content["items"] == []
    [call] = await rig.gateway.calls()
    assert str(call.call_id) == bought["payment_id"]


async def test_without_a_key_nothing_is_read(rig: SellingRig) -> None:
    """
    A door's refusal is the tool's, with its code; a key that is none is told so.
    """
    async with connected(rig) as client:
        assert text_of(await client.call_tool("balance")).startswith("invalid_api_key: ")
    async with connected(rig, "tw_nothing") as client:
        for tool, arguments in (("balance", {}), ("call_model", question(rig))):
            assert (await client.call_tool(tool, arguments)).is_error
    assert await rig.gateway.calls() == []


async def test_nobody_holds_a_stream_open(rig: SellingRig) -> None:
    """
    Without sessions there is nothing to listen to; the answer is at once, and names the way.
    """
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
        for method in ("GET", "DELETE"):
            answer = await http.request(method, f"{rig.url}/mcp")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_what_is_no_header_is_no_credential(rig: SellingRig) -> None:
    """
    Texts that cannot be headers, ids that climb: refused like any other, nothing breaks.
    """
    async with connected(rig) as client:
        for signature in ("a\r\nauthorization: x", "\u00e9", 7, None):
            answer = await client.call_tool("balance", meta={"tokenworks/request": signature})
            assert text_of(answer).startswith("invalid_api_key: ")
    async with connected(rig, rig.gateway.secret) as client:
        for name in ("../../keys", "a/b", "%2e%2e", "x"):
            assert (await client.call_tool("receipt", {"payment_id": name})).is_error


async def test_wallet_reads_by_a_signed_request(rig: SellingRig) -> None:
    """
    In ``_meta``, for the request that the tool stands for; for another one it is refused.
    """
    address = f"{rig.url}/hub/v1/agents/tree"
    jws = rig.wallet.sign_request("GET", address, b"", network=rig.network)
    async with connected(rig) as client:
        read = await client.call_tool("balance", meta={"tokenworks/request": jws})
        assert rig.agent.name in json.dumps(read.structured_content)
        other = await client.call_tool("mandate", meta={"tokenworks/request": jws})
        assert other.is_error


# ---------------------------------------------------------------------- with x402


async def test_unpaid_tool_says_what_it_asks(rig: SellingRig) -> None:
    """
    x402's MCP transport: isError, the requirements as structured content and as text.
    """
    async with connected(rig) as client:
        asked = await client.call_tool("call_model", question(rig))
    assert asked.is_error
    assert json.loads(text_of(asked)) == asked.structured_content
    assert asked.structured_content["x402Version"] == 2
    [offer] = asked.structured_content["accepts"]
    assert (offer["scheme"], offer["network"]) == ("upto", rig.network)
    assert await rig.gateway.calls() == []


async def test_official_client_buys_a_call(rig: SellingRig) -> None:
    """
    Unmodified, with our scheme by its public interface; charged for what was used, once.
    """
    async with paying(rig) as (agent, _, _):
        answer = await agent.call_tool("call_model", question(rig))
    assert answer.payment_made
    assert not answer.is_error, answer.content
    assert answer.payment_response.success
    [call] = await rig.calls()
    assert answer.payment_response.transaction == str(call.call_id)
    assert nano(json.loads(text_of(answer))["charge"]) == call.charge_quanta
    assert int(answer.payment_response.amount) == call.charge_quanta


async def test_official_cap_refuses_before_signing(rig: SellingRig) -> None:
    """
    The client's own spend control.
    """
    async with paying(rig, "$0.000001") as (agent, _, _):
        with pytest.raises(Exception, match=r"(?i)spend|exceed|amount"):
            await agent.call_tool("call_model", question(rig))
    assert await rig.calls() == []


async def test_one_payment_buys_one_call_at_this_door_and_the_other(rig: SellingRig) -> None:
    """
    Fifty at once, then by plain HTTP: one call, one charge.
    """
    arguments = question(rig)
    async with connected(rig) as client:
        payment = await signed(rig, client, "call_model", arguments)
        meta: Any = {"x402/payment": payment}
        answers = await asyncio.gather(
            *(client.call_tool("call_model", arguments, meta=meta) for _ in range(50))
        )
        bought = [answer for answer in answers if not answer.is_error]
        assert len(bought) == 1
        refusals = {text_of(answer).partition(":")[0] for answer in answers if answer.is_error}
        assert refusals <= {"call_in_flight", "call_already_settled"}
        again = await client.call_tool("call_model", arguments, meta=meta)
        assert text_of(again).startswith("call_already_settled")
        assert again.meta is not None
        assert again.meta["x402/payment-response"]["success"] is True
    header = base64.b64encode(json.dumps(payment).encode()).decode()
    body = chat_body(rig.gateway.model, list(HELLO), {"max_tokens": 40})
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
        plain = await http.post(rig.chat_url, content=body, headers={"payment-signature": header})
    assert plain.json()["error"]["code"] == "call_already_settled"
    assert len(await rig.calls()) == 1


async def test_payment_for_one_question_buys_no_other(rig: SellingRig) -> None:
    """
    The arguments are signed: with others it is asked for again, and nothing is charged.
    """
    async with connected(rig) as client:
        payment = await signed(rig, client, "call_model", question(rig))
        refusals: list[str] = []
        for changed in (
            question(rig, max_tokens=41),
            question(rig, messages=[{"role": "user", "content": "Something else?"}]),
        ):
            answer = await client.call_tool("call_model", changed, meta={"x402/payment": payment})
            refusals.append(answer.structured_content["error"])
    assert refusals == ["requirements_mismatch", "request_binding_mismatch"], "dearer, or another"
    assert await rig.calls() == []


@pytest.mark.parametrize(
    "payment",
    [
        {},
        {"x402Version": 2},
        {"x402Version": 1, "payload": {"authorization": "a.b.c"}},
        {"x402Version": 2, "payload": {"authorization": "x" * 40_000}},
        {"x402Version": 2, "payload": {"authorization": "a.b.c"}},
        "text",
    ],
)
async def test_bad_payment_is_no_payment(rig: SellingRig, payment: Any) -> None:  # noqa: ANN401 - anything at all
    """
    It is asked for a good one; nobody works.
    """
    async with connected(rig) as client:
        answer = await client.call_tool("call_model", question(rig), meta={"x402/payment": payment})
    assert answer.is_error
    assert answer.structured_content["accepts"]
    assert await rig.calls() == []


async def test_official_client_pays_a_party(rig: SellingRig) -> None:
    """
    ``pay``: signed by the wallet, settled at the hub, once; sent again it is the first payment.
    """
    hub = rig.gateway.hub
    payee = await hub.opening.add_party(f"payee-{rig.agent.name}", kind=PartyKind.SUPPLIER)
    arguments = {"payee": str(payee.party_id), "amount": "0.0025", "reference": "for water"}
    async with paying(rig) as (agent, client, _):
        paid = await agent.call_tool("pay", arguments)
        assert not paid.is_error, paid.content
        payment = await signed(rig, client, "pay", arguments)
        meta: Any = {"x402/payment": payment}
        first = await client.call_tool("pay", arguments, meta=meta)
        second = await client.call_tool("pay", arguments, meta=meta)
        assert first.structured_content == second.structured_content
        other = {**arguments, "amount": "0.0026"}
        refused = await client.call_tool("pay", other, meta=meta)
        assert text_of(refused).startswith("requirements_mismatch")
        assert text_of(await client.call_tool("pay", {**other, "amount": "much"})).startswith(
            "invalid_amount"
        )
    made = {json.loads(text_of(paid))["payment_id"], first.structured_content["payment_id"]}
    assert len(made) == 2
    [owed] = [one for one in await hub.ledger.balances(payee.party_id) if one.balance]
    assert owed.balance == nano("0.005")


async def test_payment_that_waits_for_a_person_goes_on_once(rig: SellingRig) -> None:
    """
    Held by a rule: the same call with the same payment goes on after the approval.
    """
    with braked(rig) as brake:
        brake.action = Action.HOLD
        async with connected(rig) as client:
            payment = await signed(rig, client, "call_model", question(rig))
            meta: Any = {"x402/payment": payment}
            held = await client.call_tool("call_model", question(rig), meta=meta)
            assert text_of(held).startswith("payment_in_review")
            assert held.structured_content is None, "not an offer: nobody shall pay anew"
            ((review_id, review),) = brake.reviews.items()
            brake.reviews[review_id] = replace(review, state=ReviewState.APPROVED)
            bought = await client.call_tool("call_model", question(rig), meta=meta)
            assert not bought.is_error, bought.content
    assert len(await rig.calls()) == 1
