"""
The official client against a stub supplier: what is passed through, to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.hub_process import wait_for
from tokenworks.testing.supplier_behaviour import Behaviour, Content, UsageShape

QUESTION: Any = [{"role": "user", "content": "What is wäter? 水"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


@pytest.fixture
def client(shop: Shop) -> Iterator[openai.OpenAI]:
    """
    The official client of the shop's buyer, with its usual retries off.
    """
    with openai.OpenAI(base_url=shop.base_url, api_key=shop.buyer_key, max_retries=0) as client:
        yield client


def last_request(shop: Shop) -> dict[str, Any]:
    """
    Return the body that the supplier got last.
    """
    chats = [found for found in shop.stub.requests() if found["path"] == "/v1/chat/completions"]
    return json.loads(str(chats[-1]["body"]))


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 7},
        {"max_completion_tokens": 7},
        {"stop": ["a", "b"], "max_tokens": 7},
        {"temperature": 0.25, "top_p": 0.5, "seed": 42, "max_tokens": 7},
        {"n": 2, "max_tokens": 7},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 7},
        {"response_format": {"type": "json_object"}, "max_tokens": 7},
        {"extra_body": {"a_new_field": {"deep": [1, None, 1.50, "ü"]}}, "max_tokens": 7},
    ],
    ids=["max", "max_completion", "stop", "sampling", "n", "tools", "json", "unknown"],
)
def test_request_reaches_the_supplier_untouched(
    shop: Shop, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    """
    Every member the client sent arrives as it was sent; nothing is lost, nothing is added.
    """
    client.chat.completions.create(model=STUB_MODEL, messages=QUESTION, **options)
    sent = {**options, **options.get("extra_body", {})}
    sent.pop("extra_body", None)
    assert last_request(shop) == {"model": STUB_MODEL, "messages": QUESTION, **sent}


def test_granted_output_is_sent_and_told(shop: Shop, client: openai.OpenAI) -> None:
    """
    A plain call that names no cap is given one: upstream gets it, a header says so.
    """
    raw = client.chat.completions.with_raw_response.create(model=STUB_MODEL, messages=QUESTION)
    granted = int(raw.headers["x-tokenworks-max-tokens"])
    sent = last_request(shop)
    assert granted in {sent.get("max_tokens"), sent.get("max_completion_tokens")}


def test_tool_calls_come_back_whole_and_billed(shop: Shop, client: openai.OpenAI) -> None:
    """
    The shape of a tool call is the supplier's, plain and streaming; its tokens are charged.
    """
    options: Any = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 9}
    raw = client.chat.completions.with_raw_response.create(
        model=STUB_MODEL, messages=QUESTION, **options
    )
    calls = raw.parse().choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "look_up"
    json.loads(calls[0].function.arguments)
    assert Decimal(raw.headers["x-tokenworks-charge"]) > 0

    stream = client.chat.completions.create(
        model=STUB_MODEL, messages=QUESTION, stream=True, **options
    )
    parts = [
        call.function.arguments or ""
        for chunk in stream
        for call in chunk.choices[0].delta.tool_calls or []
        if call.function
    ]
    json.loads("".join(parts))


def test_json_mode_comes_back_as_json_and_billed(client: openai.OpenAI) -> None:
    """
    A JSON answer is the supplier's, and charged.
    """
    raw = client.chat.completions.with_raw_response.create(
        model=STUB_MODEL,
        messages=QUESTION,
        response_format={"type": "json_object"},
        max_tokens=20,
    )
    assert isinstance(json.loads(raw.parse().choices[0].message.content or ""), dict)
    assert Decimal(raw.headers["x-tokenworks-charge"]) > 0


def test_unknown_members_of_an_answer_reach_the_client(shop: Shop, client: openai.OpenAI) -> None:
    """
    What no client knows yet is passed on as it came.
    """
    shop.stub.set_behaviour(Behaviour(unknown_fields=True))
    raw = client.chat.completions.with_raw_response.create(
        model=STUB_MODEL, messages=QUESTION, max_tokens=3
    )
    known = {"id", "object", "created", "model", "choices", "system_fingerprint", "usage"}
    assert set(json.loads(raw.text)) - known
    stream = client.chat.completions.create(
        model=STUB_MODEL, messages=QUESTION, max_tokens=3, stream=True
    )
    assert any(chunk.model_extra for chunk in stream)


def test_model_name_is_the_buyers_both_ways(shop: Shop, client: openai.OpenAI) -> None:
    """
    The supplier gets its own name of the model, the client the one it asked for.
    """
    shop.sell("factory", "poet", upstream_model="vendor/poet-v2")
    answer = client.chat.completions.create(model="poet", messages=QUESTION, max_tokens=3)
    assert answer.model == "poet"
    assert last_request(shop)["model"] == "vendor/poet-v2"
    stream = client.chat.completions.create(
        model="poet@standard", messages=QUESTION, max_tokens=3, stream=True
    )
    assert {chunk.model for chunk in stream} == {"poet@standard"}


def test_usage_chunk_is_there_only_when_asked_for(shop: Shop, client: openai.OpenAI) -> None:
    """
    Usage is always asked of the supplier; the client sees it only when it wanted it.
    """
    for is_wanted in (True, False, None):
        options: Any = {}
        if is_wanted is not None:
            options = {"stream_options": {"include_usage": is_wanted}}
        stream = client.chat.completions.create(
            model=STUB_MODEL, messages=QUESTION, max_tokens=4, stream=True, **options
        )
        chunks = list(stream)
        assert sum(chunk.usage is not None for chunk in chunks) == (1 if is_wanted else 0)
        assert all(chunk.choices for chunk in chunks if chunk.usage is None)
        assert last_request(shop)["stream_options"] == {"include_usage": True}


def test_stream_is_passed_on_byte_for_byte(shop: Shop) -> None:
    """
    Apart from the receipt's comment line, a stream is what the supplier sent.
    """
    answer = shop.chat(
        shop.buyer_key,
        {
            "model": STUB_MODEL,
            "messages": QUESTION,
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n")
    receipts = [line for line in lines if line.startswith(": tokenworks-receipt ")]
    assert len(receipts) == 1
    assert lines.index(receipts[0]) < lines.index("data: [DONE]")
    events = [line for line in lines if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["id"].startswith("chatcmpl-") for line in events[:-1])
    assert "system_fingerprint" in events[0]


def test_detailed_usage_is_billed_on_disjoint_axes(shop: Shop, client: openai.OpenAI) -> None:
    """
    Cached prompt tokens and reasoning tokens are counted once, each at its own price.
    """
    shop.stub.set_behaviour(
        Behaviour(
            usage=UsageShape.DETAILED,
            prompt_tokens=100,
            cached_tokens=60,
            completion_tokens=30,
            reasoning_tokens=10,
        )
    )
    shop.post("offers", supplier="factory", model="thinker", tier="standard", supplier_share_ppm=0)
    prices = {"input": "1", "output": "2", "cache_read": "0.1", "reasoning": "3"}
    shop.post("prices", model="thinker", tier="standard", prices=prices)
    raw = client.chat.completions.with_raw_response.create(
        model="thinker", messages=QUESTION, max_tokens=30
    )
    assert Decimal(raw.headers["x-tokenworks-charge"]) == Decimal("0.000116")
    call = shop.get(f"calls/{raw.headers['x-tokenworks-call-id']}")
    assert call["usage"] == {"input": 40, "cache_read": 60, "output": 20, "reasoning": 10}


def test_missing_usage_is_counted_and_marked(shop: Shop, client: openai.OpenAI) -> None:
    """
    A supplier that reports nothing is metered by a tokenizer, and the receipt says so.
    """
    shop.stub.set_behaviour(Behaviour(usage=UsageShape.MISSING, completion_tokens=12))
    raw = client.chat.completions.with_raw_response.create(
        model=STUB_MODEL, messages=QUESTION, max_tokens=50
    )
    call_id = raw.headers["x-tokenworks-call-id"]
    call = shop.get(f"calls/{call_id}")
    assert call["is_estimate"] is True
    assert 0 < call["usage"]["output"] <= 50
    assert shop.get(f"receipts/{call_id}")["receipt"]["usage"]["is_estimate"] is True


def test_empty_answer_costs_the_buyer_nothing(shop: Shop, client: openai.OpenAI) -> None:
    """
    The buyer pays 0; what the supplier is owed stays visible to the operator.
    """
    shop.stub.set_behaviour(Behaviour(content=Content.EMPTY))
    raw = client.chat.completions.with_raw_response.create(
        model=STUB_MODEL, messages=QUESTION, max_tokens=5
    )
    assert raw.headers["x-tokenworks-charge"] == "0"
    call = shop.get(f"calls/{raw.headers['x-tokenworks-call-id']}")
    assert call["charge"] == "0"
    assert call["outcome"] == "empty"
    assert call["attempts"][0]["payable"] is not None


def test_client_that_hangs_up_pays_what_was_produced(shop: Shop, client: openai.OpenAI) -> None:
    """
    The rest of the stream is drained, metered and charged; no hold is left.
    """
    shop.stub.set_behaviour(Behaviour(completion_tokens=40, chunk_pace_ms=25, gate_after_chunks=3))
    stream = client.chat.completions.create(
        model=STUB_MODEL, messages=QUESTION, max_tokens=40, stream=True
    )
    call_id = stream.response.headers["x-tokenworks-call-id"]
    next(iter(stream))
    stream.close()
    shop.stub.release()

    def settled() -> dict[str, Any] | None:
        answer = shop.ask("GET", f"calls/{call_id}")
        return answer.json() if answer.status_code == 200 else None

    call = wait_for("the drained call is settled", settled)
    assert call["usage"]["output"] == 40
    assert call["outcome"] == "disconnected"
    assert Decimal(call["charge"]) > 0
    assert shop.get("ledger/holds")["items"] == []
