"""
Answers that go well: what the client gets, what the supplier saw, what the books say.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    HELLO,
    SUPPLIER_KEY,
    UPSTREAM_MODEL,
    Behaviour,
    Plant,
    Rig,
    heard,
    nano,
    open_business,
    open_plant,
)
from tokenworks.foundation.money import LIMIT_TOKENS
from tokenworks.metering.model import Axis
from tokenworks.supply.costing import axis_card
from tokenworks.supply.model import OfferTerms
from tokenworks.testing.supplier_behaviour import Content, UsageShape

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEATHER_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Plant]:
    """
    A hub and its suppliers.
    """
    with open_database() as dsn:
        async with open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant:
            yield plant


@pytest_asyncio.fixture(loop_scope="module")
async def rig(plant: Plant) -> AsyncGenerator[Rig]:
    """
    A business of the test's own.
    """
    async with open_business(plant) as rig:
        yield rig


# ---------------------------------------------------------------------- plain


async def test_a_plain_answer_is_charged_before_it_is_given(rig: Rig) -> None:
    """
    The headers state the call, its charge, tier and what is left; the books agree.
    """
    answer = await rig.ask()

    assert answer.status_code == 200
    usage = answer.json()["usage"]
    # Standard: 0.75 and 3 dollars per million.
    charge = usage["prompt_tokens"] * 750 + usage["completion_tokens"] * 3_000
    assert nano(answer.headers["x-tokenworks-charge"]) == charge
    assert answer.headers["x-tokenworks-currency"] == "USD"
    assert answer.headers["x-tokenworks-tier"] == "standard"
    assert nano(answer.headers["x-tokenworks-balance"]) == rig.deposited - charge
    assert "x-tokenworks-max-tokens" not in answer.headers
    call = await rig.call()
    assert str(call.call_id) == answer.headers["x-tokenworks-call-id"]
    assert (call.status, call.outcome, call.error_code) == ("settled", "completed", None)
    assert (call.model, call.tier, call.is_stream) == (rig.model, "standard", False)
    assert call.usage == {"input": usage["prompt_tokens"], "output": 32}
    assert call.supplier_name == "north"
    assert call.party_id == rig.user.party_id
    assert call.team_id == rig.team.party_id
    assert call.organisation_id == rig.organisation.party_id
    assert call.key_id == rig.key.key_id
    await rig.audit()


async def test_every_leg_reaches_its_payee(rig: Rig) -> None:
    """
    Tax, reseller, rights, platform, supplier and power: each has its share, to the unit.
    """
    purposes = {
        "tax": "tax_payable",
        "reseller": "reseller_payable",
        "rights": "rights_payable",
        "platform": "platform_revenue",
        "supplier": "supplier_payable",
        "power": "power_payable",
    }
    before = await _credits(rig)

    await rig.ask()

    call = await rig.call()
    assert call.receipt is not None
    legs = {value["kind"]: value for name, value in call.receipt.items() if name.startswith("leg.")}
    assert set(legs) == {"tax", "reseller", "rights", "platform", "supplier", "power"}
    charge = call.charge_quanta
    assert nano(legs["power"]["amount"]) == charge * 600_000 // 1_000_000 // 4
    after = await _credits(rig)
    for kind, purpose in purposes.items():
        place = (UUID(legs[kind]["payee"]), purpose)
        assert after[place] - before.get(place, 0) == nano(legs[kind]["amount"]), kind
    await rig.audit()


async def test_a_supplier_paid_by_axis_is_paid_for_what_it_counted(rig: Rig) -> None:
    """
    The cost card decides the purchase, whatever the buyer pays; the margin may be negative.
    """
    offer = rig.offers["north", "standard"]
    costs = {axis.value: 5_000 * 10**6 for axis in Axis}
    terms = OfferTerms(upstream_model=UPSTREAM_MODEL, cost_card=axis_card(costs), priority=1)
    await rig.hub.supply.edit_offer(offer.offer_id, terms=terms)

    await rig.ask()

    call = await rig.call()
    assert call.payable_quanta == call.total_tokens * 5_000
    assert call.payable_quanta > call.charge_quanta
    await rig.audit()


async def test_a_call_without_an_output_limit_gets_the_grant_and_is_told(rig: Rig) -> None:
    """
    A plain call that names no limit is capped upstream, and the header says at how much.
    """
    rig.set_rules(granted_output_tokens=11)

    answer = await rig.ask(max_tokens=...)

    assert answer.headers["x-tokenworks-max-tokens"] == "11"
    assert answer.json()["usage"]["completion_tokens"] == 11
    assert _upstream_body(rig)["max_tokens"] == 11
    await rig.audit()


async def test_the_default_tier_of_the_party_serves_a_bare_name(rig: Rig) -> None:
    """
    Without ``@tier`` the party's default decides; with it, the name does.
    """
    await rig.hub.identity.set_default_tier(rig.user.party_id, "premium")
    rig.hub.identity.invalidate_all()

    bare = await rig.ask()
    named = await rig.ask(model=f"{rig.model}@standard")

    assert bare.headers["x-tokenworks-tier"] == "premium"
    assert bare.json()["model"] == rig.model
    assert named.headers["x-tokenworks-tier"] == "standard"
    assert named.json()["model"] == f"{rig.model}@standard"
    premium, standard = await rig.calls()
    assert premium.charge_quanta == 2 * standard.charge_quanta
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_free_tier_moves_no_money_but_counts(rig: Rig, stream: bool) -> None:
    """
    A free call needs no balance, has a receipt without legs, and still burns token limits.
    """
    limit = await rig.hub.ledger.set_limit(
        scope_id=rig.key.key_id, asset=LIMIT_TOKENS, quanta=5_000, window="ever", actor="test"
    )

    answer = await rig.ask(model=f"{rig.model}@free", stream=stream)

    assert answer.status_code == 200
    call = await rig.call()
    assert (call.charge_quanta, call.payable_quanta, call.status) == (0, 0, "settled")
    assert call.total_tokens > 0
    receipt = await rig.hub.receipts.receipt_document(call.call_id, "auditor")
    assert receipt["receipt"]["charge"] == "0"
    assert not [name for name in receipt["receipt"] if name.startswith("leg.")]
    (left,) = await rig.hub.ledger.limits([rig.key.key_id])
    assert left.limit_id == limit.limit_id
    assert (left.remaining, left.held) == (5_000 - call.total_tokens, 0)
    await rig.audit()


async def test_a_free_call_needs_neither_money_nor_limits(rig: Rig) -> None:
    """
    A hold without any part is legal: it still ends once, and still has a receipt.
    """
    answer = await rig.ask(model=f"{rig.model}@free")

    assert answer.status_code == 200
    assert answer.headers["x-tokenworks-charge"] == "0"
    assert (await rig.cash()).debits_posted == 0
    await rig.audit()


# ---------------------------------------------------------------------- streams


async def test_a_stream_ends_with_its_receipt_and_done(rig: Rig) -> None:
    """
    Headers name the call and the offered tier; the receipt is a comment before ``[DONE]``.
    """
    answer = await rig.ask(stream=True)

    stream = heard(answer.content)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-tokenworks-tier"] == "standard"
    assert stream.is_done
    assert answer.content.endswith(b"}\n\ndata: [DONE]\n\n")
    assert stream.text.startswith("w0 w1 w2")
    assert stream.finish_reasons == ["stop"]
    assert stream.receipt is not None
    receipt = stream.receipt["receipt"]
    call = await rig.call()
    assert receipt["call_id"] == str(call.call_id) == answer.headers["x-tokenworks-call-id"]
    assert nano(receipt["charge"]) == call.charge_quanta > 0
    assert receipt["outcome"] == call.outcome == "completed"
    assert call.is_stream
    assert call.first_token_ms is not None
    await rig.audit()


async def test_stream_and_plain_answer_cost_the_same(rig: Rig) -> None:
    """
    The way an answer comes is no part of its price.
    """
    await rig.ask()
    await rig.ask(stream=True)

    plain, stream = await rig.calls()
    assert plain.usage == stream.usage
    assert plain.charge_quanta == stream.charge_quanta
    await rig.audit()


@pytest.mark.parametrize(
    ("options", "is_given"),
    [(..., False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
)
async def test_the_usage_chunk_is_given_only_when_asked_for(
    rig: Rig, options: object, is_given: bool
) -> None:
    """
    Usage is always asked of the supplier, and shown to a client that asked for it.
    """
    answer = await rig.ask(stream=True, stream_options=options)

    stream = heard(answer.content)
    assert _upstream_body(rig)["stream_options"] == {"include_usage": True}
    assert [bool(chunk.get("usage")) for chunk in stream.chunks].count(True) == is_given
    assert all(chunk["choices"] for chunk in stream.chunks[: -1 if is_given else None])
    assert not (await rig.call()).is_estimate
    await rig.audit()


async def test_a_stream_without_an_output_limit_is_sent_without_one(rig: Rig) -> None:
    """
    A stream's hold grows as it goes, so its supplier is not told a limit.
    """
    await rig.ask(stream=True, max_tokens=...)

    assert "max_tokens" not in _upstream_body(rig)
    await rig.audit()


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(comments=True),
        Behaviour(multi_line_data=True, is_space_omitted=True),
        Behaviour(fragment_bytes_max=9, fragment_seed=4),
        Behaviour(usage=UsageShape.SEVERAL_CHUNKS),
        Behaviour(usage=UsageShape.ON_FINISH_CHUNK),
        Behaviour(usage=UsageShape.ALWAYS),
        Behaviour(end_after_chunks=34),
    ],
    ids=["comments", "lines", "fragments", "running", "on_finish", "always", "no_done"],
)
async def test_every_dialect_of_streams_is_sold(rig: Rig, behaviour: Behaviour) -> None:
    """
    However a supplier writes its events, client and books get the same call.
    """
    rig.first.set_behaviour(behaviour)

    stream = heard((await rig.ask(stream=True)).content)

    assert stream.is_done
    assert stream.finish_reasons == ["stop"]
    call = await rig.call()
    assert call.usage["output"] == 32
    assert not call.is_estimate
    await rig.audit()


# ---------------------------------------------------------------------- passed through


async def test_the_model_is_renamed_both_ways_and_nothing_else(rig: Rig) -> None:
    """
    The supplier reads its own name of the model, the client the one it asked for.
    """
    rig.first.set_behaviour(Behaviour(unknown_fields=True))
    request = (
        b'{ "model":"%b@standard" , "messages":[{"role":"user","content":"\\u00e4 \xc3\xa4"}],'
        b'"temperature":0.70, "seed":12345678901234567890, "stop":["\\n",";"],"max_tokens":8,'
        b'"x_vendor":{"model":"mine","deep":[1.50,null]},"metadata":{"a":"b"}}'
    ) % rig.model.encode()

    answer = await rig.post(request)

    sent = rig.first.requests[-1]
    assert b'"model":"vendor/tiny-1b"' in sent.body
    for untouched in (
        b'[{"role":"user","content":"\\u00e4 \xc3\xa4"}]',
        b'"temperature":0.70',
        b'"seed":12345678901234567890',
        b'"stop":["\\n",";"]',
        b'"x_vendor":{"model":"mine","deep":[1.50,null]}',
        b'"metadata":{"a":"b"}',
    ):
        assert untouched in sent.body
    assert sent.header("authorization") == f"Bearer {SUPPLIER_KEY}"
    assert answer.json()["model"] == f"{rig.model}@standard"
    assert answer.json()["x_unknown"] == {"nested": [1, 2.5, None, "ß漢"]}
    assert UPSTREAM_MODEL not in answer.text
    await rig.audit()


async def test_a_supplier_gets_the_calls_id_where_the_operator_wants_it(rig: Rig) -> None:
    """
    With it a line of a supplier's statement can name its call; nobody gets it unasked.
    """
    await rig.ask()
    unasked = rig.first.requests[-1].header("x-client-request-id")
    north = rig.plant.suppliers[0].supplier_id
    await rig.hub.supply.edit_supplier(north, sends_call_id=True)

    answer = await rig.ask()
    sent = rig.first.requests[-1].header("x-client-request-id")

    await rig.hub.supply.edit_supplier(north, sends_call_id=False)
    assert unasked is None
    assert sent == answer.headers["x-tokenworks-call-id"]
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "members",
    [
        {"tools": [WEATHER_TOOL], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True, "top_logprobs": 2},
        {"seed": 7, "stop": ["END"], "temperature": 0.2, "top_p": 0.5, "user": "u-1"},
    ],
    ids=["tools", "json", "logprobs", "sampling"],
)
async def test_requests_reach_the_supplier_as_they_are(
    rig: Rig, members: dict[str, Any], stream: bool
) -> None:
    """
    Tools, JSON mode, log probabilities and sampling pass through; the answer is as direct.
    """
    answer = await rig.ask(members, stream=stream)

    assert answer.status_code == 200
    sent = _upstream_body(rig)
    assert {name: sent[name] for name in members} == members
    direct = await rig.ask_first_directly(rig.first.requests[-1].body)
    if stream:
        assert _without_identity(heard(answer.content).chunks) == _without_identity(
            [chunk for chunk in heard(direct).chunks if chunk["choices"]]
        )
    else:
        assert _without_identity([answer.json()]) == _without_identity([json.loads(direct)])
    await rig.audit()


@pytest.mark.parametrize(
    ("shape", "stream", "is_estimate"),
    [
        (UsageShape.REAL, False, False),
        (UsageShape.REAL, True, False),
        (UsageShape.ONE_CHOICE, False, True),
        (UsageShape.ONE_CHOICE, True, True),
        (UsageShape.SPLIT_CHUNKS, True, True),
    ],
)
async def test_several_choices_are_all_billed(
    rig: Rig, shape: UsageShape, stream: bool, is_estimate: bool
) -> None:
    """
    With ``n`` = 2 a report of one choice is found out; the bill is within rounding of both.
    """
    rig.first.set_behaviour(Behaviour(usage=shape))

    answer = await rig.ask(n=2, stream=stream)

    assert answer.status_code == 200
    call = await rig.call()
    assert call.is_estimate == is_estimate
    assert 50 <= call.usage["output"] <= 80
    # The hold covered both choices.
    assert call.quoted_quanta >= 2 * 40 * 3_000
    await rig.audit()


async def test_cached_and_reasoning_tokens_have_axes_of_their_own(rig: Rig) -> None:
    """
    What was cached costs the cache's price; reasoning is billed and shown.
    """
    rig.first.set_behaviour(
        Behaviour(
            content=Content.REASONING,
            usage=UsageShape.DETAILED,
            prompt_tokens=20,
            cached_tokens=15,
            reasoning_tokens=16,
        )
    )

    await rig.ask()

    call = await rig.call()
    assert call.usage == {"input": 5, "cache_read": 15, "output": 16, "reasoning": 16}
    assert call.charge_quanta == 5 * 750 + 15 * 75 + 32 * 3_000
    await rig.audit()


async def test_models_are_listed_by_tier_and_then_bare(rig: Rig) -> None:
    """
    ``GET /v1/models`` names what this key may call, and each can be looked at alone.
    """
    _, narrow = await rig.add_key(models=[f"{rig.model}@premium"])
    auth = {"authorization": f"Bearer {rig.secret}"}

    listed = (await rig.client.get("/v1/models", headers=auth)).json()
    one = await rig.client.get(f"/v1/models/{rig.model}@free", headers=auth)
    other = await rig.client.get("/v1/models/large", headers=auth)
    few = await rig.client.get("/v1/models", headers={"authorization": f"Bearer {narrow}"})

    names = [f"{rig.model}@{tier}" for tier in ("free", "premium", "standard")]
    listed_names = [model["id"] for model in listed["data"]]
    assert [name for name in listed_names if name in {*names, rig.model}] == [*names, rig.model]
    assert sorted(listed_names, key=lambda name: "@" not in name) == listed_names
    assert one.json()["id"] == f"{rig.model}@free"
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert [model["id"] for model in few.json()["data"]] == [f"{rig.model}@premium"]


# ---------------------------------------------------------------------- small tools


async def _credits(rig: Rig) -> dict[tuple[UUID, str], int]:
    trial = await rig.hub.ledger.trial_balance()
    return {
        (row.party_id, row.purpose): row.credits_posted for row in trial.rows if row.asset == "USD"
    }


def _upstream_body(rig: Rig) -> dict[str, Any]:
    body = rig.first.requests[-1].json()
    assert isinstance(body, dict)
    assert body["messages"] == list(HELLO)
    return body


def _without_identity(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Drop what differs between any two answers of a supplier: ids, times, model, usage.
    """
    found: list[dict[str, Any]] = []
    for answer in answers:
        text = json.dumps({k: v for k, v in answer.items() if k not in {"id", "created", "model"}})
        found.append(json.loads(text.replace(answer["id"].removeprefix("chatcmpl-"), "NUMBER")))
    return found
