"""
An agent's tools over the official MCP client, against a hub that runs as its operator runs it.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from mcp import Client, StdioServerParameters

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.test_x402_clients import Agent, hire, post

TOOLS: Final = {
    "quote",
    "pay",
    "balance",
    "mandate",
    "receipt",
    "call_model",
    "finish_payment",
}
QUESTION: Final = [{"role": "user", "content": "What is water?"}]


@pytest.fixture
def agent(shop: Shop) -> Agent:
    """
    An agent of the shop's buyer with ten cents.
    """
    return hire(shop, "buyer", budgets=[{"window": "ever", "amount": "0.1"}])


@asynccontextmanager
async def tools(shop: Shop, agent: Agent, folder: Path, *options: str) -> AsyncGenerator[Client]:
    """
    Start ``tokenworks mcp`` as an agent's host does, and connect the official client.
    """
    wallet = folder / "wallet.json"
    if not wallet.exists():
        agent.wallet.save(wallet)
    server = StdioServerParameters(
        command=sys.executable,
        args=[
            *("-P", "-m", "tokenworks.cli.main", "mcp", "--wallet", str(wallet)),
            *("--url", shop.url, *options),
        ],
    )
    async with Client(server) as client:
        yield client


async def use(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """
    Call a tool that should work; return its answer.
    """
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


async def refused(client: Client, tool: str, **arguments: object) -> str:
    """
    Call a tool that should refuse; return what the model reads.
    """
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    return str(getattr(answer.content[0], "text", ""))


async def test_agent_quotes_buys_and_proves(shop: Shop, agent: Agent, tmp_path: Path) -> None:
    """
    Every tool once: what it costs at most, what it did cost, what is left, the proof.
    """
    async with tools(shop, agent, tmp_path) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        quote = await use(client, "quote", model=STUB_MODEL, messages=QUESTION, max_tokens=9)
        answer = await use(client, "call_model", model=STUB_MODEL, messages=QUESTION, max_tokens=9)
        assert answer["text"]
        assert 0 < Decimal(answer["charge"]) <= Decimal(quote["amount_max"])
        mandates = (await use(client, "mandate"))["mandates"]
        assert [one["state"] for one in mandates] == ["active"]
        balance = await use(client, "balance")
        assert balance["undecided_payments"] == []
        assert agent.name in json.dumps(balance)


async def test_agent_pays_another_party(shop: Shop, agent: Agent, tmp_path: Path) -> None:
    """
    A payment without a seller's 402; its receipt is the payer's view.
    """
    payee = post(shop, "parties", None, name=f"payee-{agent.name}", kind="supplier")
    async with tools(shop, agent, tmp_path) as client:
        paid = await use(client, "pay", payee=payee["party_id"], amount="0.0025")
        assert paid["amount"] == "0.002500000"
        receipt = await use(client, "receipt", payment_id=paid["payment_id"])
        assert receipt["receipt"]["call_id"] == paid["payment_id"]
        assert "jws" in receipt


async def test_refusals_are_sentences_with_a_code(shop: Shop, agent: Agent, tmp_path: Path) -> None:
    """
    The local cap, the mandate, a model nobody serves, a payment nobody knows.
    """
    payee = post(shop, "parties", None, name=f"payee-{agent.name}", kind="supplier")["party_id"]
    async with tools(shop, agent, tmp_path, "--cap", "0.5") as client:
        assert "spend_cap" in await refused(client, "pay", payee=payee, amount="0.6")
        assert "invalid_amount" in await refused(client, "pay", payee=payee, amount="a lot")
        beyond = await refused(client, "pay", payee=payee, amount="0.4")
        assert "limit_exhausted" in beyond
        missing = await refused(client, "call_model", model="nobodys", messages=QUESTION)
        assert "model_not_found" in missing
        for nothing in ("none", "../wallet", str(uuid.UUID(int=7))):
            said = await refused(client, "finish_payment", payment_id=nothing)
            assert "payment_unknown" in said


async def test_payment_that_waits_for_a_person_goes_on_once(
    shop: Shop, agent: Agent, tmp_path: Path
) -> None:
    """
    Held by a rule, approved by its owner with the exact digest, then finished, not paid anew; a
    call of a model likewise. In between the process ended: the next one goes on.
    """
    payee = post(shop, "parties", None, name=f"payee-{agent.name}", kind="supplier")["party_id"]
    rules = {"rules": {"new_payee": {"action": "hold", "above": "0"}}}
    assert shop.ask("PUT", f"parties/{agent.name}/brake", json=rules, headers=key()).is_success
    async with tools(shop, agent, tmp_path) as client:
        held = await refused(client, "pay", payee=payee, amount="0.0025")
        assert "payment_in_review" in held
        question = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 9}
        assert "payment_in_review" in await refused(client, "call_model", **question)
    async with tools(shop, agent, tmp_path) as client:
        direct, call = (await use(client, "balance"))["undecided_payments"]
        assert direct in held
        assert "payment_in_review" in await refused(client, "finish_payment", payment_id=direct)
        for payment_id in (direct, call):
            digest = shop.ask("GET", f"reviews/{payment_id}").json()["digest"]
            post(shop, f"reviews/{payment_id}/approve", None, digest=digest)
        paid = await use(client, "finish_payment", payment_id=direct)
        assert (paid["payment_id"], paid["amount"]) == (direct, "0.002500000")
        bought = await use(client, "finish_payment", payment_id=call)
        assert bought["text"]
        assert bought["payment_id"] == call
        assert (await use(client, "balance"))["undecided_payments"] == []
        again = await use(client, "finish_payment", payment_id=direct)
        assert again["state"] == "captured", "the hub's books say how it stands"
    payments = shop.ask("GET", "payments", params={"agent": agent.name}).json()["items"]
    assert {one["payment_id"] for one in payments} == {direct, call}


def key() -> dict[str, str]:
    """
    Return the header that names a write.
    """
    return {"idempotency-key": uuid.uuid4().hex}
