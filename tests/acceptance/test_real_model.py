"""
The official client against the demo's real model, as a first user runs it.

What a 135M model says is not looked at: only that calls succeed and are billed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import Demo

QUESTION: Any = [{"role": "user", "content": "What is water?"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def client(demo: Demo) -> Iterator[openai.OpenAI]:
    """
    The official client, as `demo.json` says.
    """
    with openai.OpenAI(base_url=demo.base_url, api_key=demo.buyer_key, max_retries=0) as client:
        yield client


def balance_of(demo: Demo) -> Decimal:
    """
    Return what the demo buyer has left.
    """
    cash = demo.get("balance", key=demo.buyer_key)["cash"]
    return Decimal(cash[0]["available"])


def test_models_are_listed_with_tiers_first(demo: Demo, client: openai.OpenAI) -> None:
    """
    ``model@tier`` names come before bare names; the demo's model is one of them.
    """
    names = [model.id for model in client.models.list()]
    assert demo.fields["model"] in names
    assert {"smollm2@free", "smollm2@standard", "smollm2@premium", "smollm2"} <= set(names)
    first_bare = next(index for index, name in enumerate(names) if "@" not in name)
    assert all("@" in name for name in names[:first_bare])
    assert all("@" not in name for name in names[first_bare:])
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_plain_call_is_answered_and_charged(demo: Demo, client: openai.OpenAI) -> None:
    """
    The headers tell the charge, which is the usage at the price book's prices, and the
    balance fell by it when the answer ends.
    """
    before = balance_of(demo)
    raw = client.chat.completions.with_raw_response.create(
        model="smollm2@standard", messages=QUESTION, max_tokens=16
    )
    answer = raw.parse()
    after = balance_of(demo)

    assert answer.choices[0].message.content
    assert answer.model == "smollm2@standard"
    assert answer.usage is not None
    charge = Decimal(raw.headers["x-tokenworks-charge"])
    cached = 0
    if answer.usage.prompt_tokens_details is not None:
        cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    expected = (
        Decimal("0.75") * (answer.usage.prompt_tokens - cached)
        + Decimal("0.075") * cached
        + Decimal(3) * answer.usage.completion_tokens
    ) / 1_000_000
    assert charge == expected
    assert before - after == charge
    assert raw.headers["x-tokenworks-currency"] == "USD"
    assert raw.headers["x-tokenworks-tier"] == "standard"
    call = demo.get(f"calls/{raw.headers['x-tokenworks-call-id']}")
    assert Decimal(call["charge"]) == charge
    assert call["total_tokens"] == answer.usage.total_tokens


@pytest.mark.parametrize("is_usage_wanted", [True, False])
def test_stream_is_answered_and_charged(
    demo: Demo, client: openai.OpenAI, *, is_usage_wanted: bool
) -> None:
    """
    A stream carries a usage chunk only when it was asked for; it is billed either way.
    """
    before = balance_of(demo)
    options: Any = {"stream_options": {"include_usage": True}} if is_usage_wanted else {}
    stream = client.chat.completions.create(
        model="smollm2@standard", messages=QUESTION, max_tokens=16, stream=True, **options
    )
    chunks = list(stream)
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    assert len(with_usage) == (1 if is_usage_wanted else 0)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert before > balance_of(demo)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.1, "seed": 7, "stop": ["\n"]},
        {"n": 2},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        {"extra_body": {"an_unknown_field": {"deep": [1, None]}}},
    ],
    ids=["sampling", "choices", "tools", "json", "unknown"],
)
def test_every_parameter_succeeds_and_is_billed(
    demo: Demo, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    """
    The rest of the interface works with the real model too, and nothing of it is free.
    """
    raw = client.chat.completions.with_raw_response.create(
        model="smollm2", messages=QUESTION, max_tokens=12, **options
    )
    answer = raw.parse()
    assert len(answer.choices) == options.get("n", 1)
    assert Decimal(raw.headers["x-tokenworks-charge"]) > 0


def test_max_tokens_bounds_the_answer(client: openai.OpenAI) -> None:
    """
    The answer is no longer than was asked for.
    """
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5
    assert answer.choices[0].finish_reason == "length"


def test_free_tier_is_served_for_nothing(demo: Demo, client: openai.OpenAI) -> None:
    """
    Free is an explicit price: a call with usage, a receipt and a charge of 0.
    """
    raw = client.chat.completions.with_raw_response.create(
        model="smollm2@free", messages=QUESTION, max_tokens=5
    )
    assert raw.headers["x-tokenworks-charge"] == "0"
    assert raw.headers["x-tokenworks-tier"] == "free"
    call_id = raw.headers["x-tokenworks-call-id"]
    receipt = demo.get(f"receipts/{call_id}", key=demo.buyer_key)["receipt"]
    assert receipt["charge"] == "0"
    assert receipt["usage"]["counts"]["output"] > 0


def test_charge_is_split_among_everyone(demo: Demo, client: openai.OpenAI) -> None:
    """
    One sale and one purchase: the sale's legs are the charge, the power producer is paid out
    of the supplier's part, debits equal credits.
    """
    raw = client.chat.completions.with_raw_response.create(
        model="smollm2@premium", messages=QUESTION, max_tokens=16
    )
    charge = Decimal(raw.headers["x-tokenworks-charge"])
    entries = demo.get(f"ledger/entries/{raw.headers['x-tokenworks-call-id']}")["items"]
    legs = [leg for entry in entries for leg in entry["legs"] if leg["asset"] == "USD"]
    credits: defaultdict[str, Decimal] = defaultdict(Decimal)
    debits: defaultdict[str, Decimal] = defaultdict(Decimal)
    for leg in legs:
        credits[leg["purpose"]] += Decimal(leg["credit"])
        debits[leg["purpose"]] += Decimal(leg["debit"])

    assert debits["cash"] == charge
    sale = ("tax_payable", "reseller_payable", "rights_payable", "platform_revenue")
    assert sum(credits[purpose] for purpose in sale) == charge
    purchase = credits["supplier_payable"] + credits["power_payable"]
    assert purchase == debits["purchases"]
    assert abs(purchase - charge * Decimal("0.6")) <= Decimal("0.000000001")
    assert sum(credits.values()) == sum(debits.values())
    assert entries[0]["operation"] == "place"
    assert [entry["operation"] for entry in entries].count("capture") == 1
