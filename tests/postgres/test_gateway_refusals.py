"""
Calls that are refused before a supplier is asked, and what the refusal says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    DOLLAR,
    HELLO,
    UPSTREAM_MODEL,
    Behaviour,
    Plant,
    Rig,
    heard,
    nano,
    open_business,
    open_plant,
)
from tokenworks.agents.mandates.model import CountLimit, Mandate, MoneyLimit, Terms, Window
from tokenworks.agents.mandates.paths import payee_scope
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX, REQUEST_MESSAGES_MAX
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD, Asset
from tokenworks.identity.model import PLATFORM_ID, Level, PartyKind, PartyState, Role
from tokenworks.metering.model import Axis
from tokenworks.supply.costing import share_card
from tokenworks.supply.model import OfferTerms
from tokenworks.testing.supplier_behaviour import UsageShape

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def nothing_happened(rig: Rig) -> None:
    """
    Check that a refusal left no trace: no supplier asked, no call, no hold, no money moved.
    """
    assert rig.first.stats()["requests"] == 0
    assert rig.second.stats()["requests"] == 0
    assert await rig.calls() == []
    assert (await rig.cash()).debits_posted == 0
    await rig.audit()


# ---------------------------------------------------------------------- who asks


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer tw_short",
        "Bearer sk-of-another-shop",
        "Bearer tw_" + "A" * 43,
        "Bearer tw_" + "\u00e9" * 43,
    ],
)
async def test_an_unknown_key_is_refused(rig: Rig, header: str | None) -> None:
    """
    401 in OpenAI's shape; the key is not repeated.
    """
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]

    answer = await rig.client.post("/v1/chat/completions", json={}, headers=headers)

    assert answer.status_code == 401
    error = answer.json()["error"]
    assert error["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    if header is not None and len(header) > 10:
        assert header[7:] not in answer.text
    await nothing_happened(rig)


async def test_a_revoked_key_is_refused_on_its_next_call(rig: Rig) -> None:
    """
    Nothing that is remembered of a key outlives its revocation.
    """
    assert (await rig.ask()).status_code == 200

    await rig.hub.opening.revoke_key(rig.key.key_id)

    answer = await rig.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_revoked")
    assert len(await rig.calls()) == 1
    await rig.audit()


async def test_a_key_revoked_elsewhere_cannot_spend_while_it_is_remembered(rig: Rig) -> None:
    """
    Where the revocation was not heard yet, the ledger refuses: its scope is closed.
    """
    assert (await rig.ask()).status_code == 200

    await rig.hub.ledger.set_scope_state(rig.key.key_id, "closed")

    answer = await rig.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_closed")
    assert len(await rig.calls()) == 1
    assert rig.first.stats()["calls"] == 1
    await rig.audit()


async def test_an_expired_key_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A key ends by itself, without anyone doing anything.
    """
    soon = SystemClock().now() + timedelta(hours=1)
    _, secret = await rig.add_key(expires_at=soon)
    # The keys' clock alone: the ledger's may not be far from PostgreSQL's.
    monkeypatch.setattr(rig.hub.identity._authenticator, "_clock", FakeClock(soon))

    answer = await rig.ask(secret=secret)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_expired")
    await nothing_happened(rig)


async def test_a_key_may_be_for_some_models_only(rig: Rig) -> None:
    """
    The allow-list names models, with or without a tier; anything else is forbidden.
    """
    _, secret = await rig.add_key(models=[f"{rig.model}@premium", "another"])

    refused = await rig.ask(secret=secret)
    allowed = await rig.ask(secret=secret, model=f"{rig.model}@premium")

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert allowed.status_code == 200
    assert len(await rig.calls()) == 1
    await rig.audit()


async def test_an_admin_key_buys_nothing(rig: Rig) -> None:
    """
    Calls are made with a buyer's key.
    """
    _, secret = await rig.hub.identity.add_key(PLATFORM_ID, role=Role.ADMIN, label="admin")

    answer = await rig.ask(secret=secret)

    assert answer.status_code == 403
    await nothing_happened(rig)


@pytest.mark.parametrize("who", ["organisation", "team", "user"])
async def test_freezing_any_ancestor_stops_the_key(rig: Rig, who: str) -> None:
    """
    A frozen party and everyone below it spend nothing until it is thawed.
    """
    party = getattr(rig, who)
    assert (await rig.ask()).status_code == 200

    await rig.hub.opening.set_party_state(party, PartyState.FROZEN)
    frozen = await rig.ask()
    await rig.hub.opening.set_party_state(party, PartyState.ACTIVE)
    thawed = await rig.ask()

    assert frozen.status_code in {402, 403}
    assert thawed.status_code == 200
    assert len(await rig.calls()) == 2
    await rig.audit()


async def test_a_freeze_in_the_ledger_alone_is_enough(rig: Rig) -> None:
    """
    A process that still remembers the key as active cannot place a hold on a frozen scope.
    """
    await rig.hub.ledger.set_scope_state(rig.team.party_id, "frozen")

    answer = await rig.ask()

    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "scope_frozen")
    await nothing_happened(rig)


async def test_requests_per_minute_only_refuse(rig: Rig) -> None:
    """
    429 with the seconds to wait; the official client is told not to hammer.
    """
    _, secret = await rig.add_key(requests_per_minute=2)

    statuses = [(await rig.ask(secret=secret)).status_code for _ in range(2)]
    answer = await rig.ask(secret=secret)

    assert statuses == [200, 200]
    assert answer.status_code == 429
    assert answer.json()["error"]["details"] == {"requests_per_minute": 2}
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-should-retry"] == "false"
    assert len(await rig.calls()) == 2
    await rig.audit()


async def test_an_address_that_guesses_keys_is_slowed_down(rig: Rig) -> None:
    """
    After a minute's worth of failures the address waits; a key that worked still works.
    """
    assert (await rig.ask()).status_code == 200
    guesses = [await rig.ask(secret=f"tw_{index:043d}") for index in range(25)]

    statuses = [answer.status_code for answer in guesses]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429
    assert "retry-after" in guesses[-1].headers
    assert (await rig.ask()).status_code == 200
    await rig.audit()


# ---------------------------------------------------------------------- what is asked

MESSAGES = list(HELLO)
BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "invalid_json"),
    "not_json": (b"model=tiny", 400, "invalid_json"),
    "cut_json": (b'{"model":"tiny"', 400, "invalid_json"),
    "not_utf8": (b'{"model":"\xff"}', 400, "invalid_json"),
    "an_array": (b"[1,2]", 400, "invalid_type"),
    "no_model": (json.dumps({"messages": MESSAGES}).encode(), 400, "missing_required_parameter"),
    "no_messages": (b'{"model":"tiny"}', 400, "missing_required_parameter"),
    "no_message": (b'{"model":"tiny","messages":[]}', 400, ""),
    "messages_text": (b'{"model":"tiny","messages":"hi"}', 400, "invalid_type"),
    "message_text": (b'{"model":"tiny","messages":["hi"]}', 400, "invalid_type"),
    "model_number": (b'{"model":7,"messages":[{}]}', 400, "invalid_type"),
    "model_odd": (b'{"model":"a b","messages":[{}]}', 400, "invalid_value"),
    "limit_zero": (b'{"model":"tiny","messages":[{}],"max_tokens":0}', 400, ""),
    "limit_text": (b'{"model":"tiny","messages":[{}],"max_tokens":"9"}', 400, "invalid_type"),
    "limit_huge": (b'{"model":"tiny","messages":[{}],"max_tokens":1e12}', 400, ""),
    "choices_zero": (b'{"model":"tiny","messages":[{}],"n":0}', 400, ""),
    "choices_many": (b'{"model":"tiny","messages":[{}],"n":999}', 400, ""),
    "stream_text": (b'{"model":"tiny","messages":[{}],"stream":"yes"}', 400, "invalid_type"),
    "options_alone": (
        b'{"model":"tiny","messages":[{}],"stream_options":{"include_usage":true}}',
        400,
        "",
    ),
    "too_many_messages": (
        b'{"model":"tiny","messages":[' + b"{}," * REQUEST_MESSAGES_MAX + b"{}]}",
        400,
        "",
    ),
    "too_large": (b" " * (REQUEST_BODY_BYTES_MAX + 1), 413, "too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_refused_in_the_shape_of_openai(
    rig: Rig, body: bytes, status: int, code: str
) -> None:
    """
    The message says what is wrong and ``param`` where.
    """
    answer = await rig.post(body)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert set(error) <= {"message", "type", "param", "code", "details"}
    if code:
        assert error["code"] == code
    await nothing_happened(rig)


async def test_unknown_models_and_tiers_are_told_what_exists(rig: Rig) -> None:
    """
    404 names the tiers of a known model, or the models there are.
    """
    unknown = await rig.ask(model="huge")
    tier = await rig.ask(model=f"{rig.model}@elite")

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert rig.model in unknown.json()["error"]["details"]["models"]
    assert (tier.status_code, tier.json()["error"]["code"]) == (404, "model_not_found")
    assert sorted(tier.json()["error"]["details"]["tiers"]) == ["free", "premium", "standard"]
    await nothing_happened(rig)


async def test_a_tier_without_a_price_is_not_sold(rig: Rig) -> None:
    """
    No price is no zero: the call is refused, naming what has one.
    """
    terms = OfferTerms(upstream_model=UPSTREAM_MODEL, cost_card=share_card(500_000))
    await rig.hub.supply.add_offer("north", model=rig.model, tier="elite", terms=terms)

    answer = await rig.ask(model=f"{rig.model}@elite")

    assert answer.status_code in {400, 404}
    error = answer.json()["error"]
    assert "price" in error["message"]
    assert "elite" in error["message"]
    await nothing_happened(rig)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 400),
        ("POST", "/v1/models", 400),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/", 404),
    ],
)
async def test_other_doors_say_where_to_go(rig: Rig, method: str, path: str, status: int) -> None:
    """
    An address that does not exist answers in the same shape.
    """
    answer = await rig.client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


# ---------------------------------------------------------------------- money and limits


@pytest.mark.parametrize("stream", [False, True])
async def test_a_balance_too_small_is_told_what_is_left(plant: Plant, stream: bool) -> None:
    """
    402, not to be repeated, with what is available; no supplier was called.
    """
    async with open_business(plant, deposit=1_000) as rig:
        answer = await rig.ask(stream=stream)

        assert answer.status_code == 402
        error = answer.json()["error"]
        assert error["type"] == "insufficient_quota"
        assert nano(error["details"]["available"]) == 1_000
        assert error["details"]["currency"] == "USD"
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        await nothing_happened(rig)


@pytest.mark.parametrize(
    ("window", "status"), [("ever", 402), ("day", 429), ("month", 429), ("year", 429)]
)
@pytest.mark.parametrize("asset", [LIMIT_USD, LIMIT_TOKENS], ids=["money", "tokens"])
async def test_a_limit_too_small_is_named(rig: Rig, window: str, status: int, asset: Asset) -> None:
    """
    402 for a limit that never opens again, 429 with its time for one that does.
    """
    limit = await rig.hub.ledger.set_limit(
        scope_id=rig.team.party_id, asset=asset, quanta=100, window=window, actor="test"
    )

    answer = await rig.ask()

    assert answer.status_code == status
    details = answer.json()["error"]["details"]
    assert details["limit_id"] == limit.limit_id
    assert details["scope_id"] == str(rig.team.party_id)
    assert details["window"] == window
    assert details["unit"] == ("USD" if asset is LIMIT_USD else "tokens")
    assert details["available"] == details["limit"]
    assert answer.headers["x-should-retry"] == "false"
    assert ("retry-after" in answer.headers) == (status == 429)
    if status == 429:
        assert int(answer.headers["retry-after"]) >= 1
        assert details["resets_at"].endswith("Z")
    await nothing_happened(rig)


async def test_a_refusal_names_only_the_tightest_limit(rig: Rig) -> None:
    """
    A key learns nothing about the limits above it that would also have refused.
    """
    for scope_id, quanta in (
        (rig.organisation.party_id, 70_000),
        (rig.user.party_id, 20_000),
        (rig.key.key_id, 60_000),
    ):
        await rig.hub.ledger.set_limit(
            scope_id=scope_id, asset=LIMIT_USD, quanta=quanta, window="ever", actor="test"
        )

    answer = await rig.ask()

    assert answer.status_code == 402
    assert answer.json()["error"]["details"]["scope_id"] == str(rig.user.party_id)
    for other in (rig.organisation.party_id, rig.key.key_id, "0.00007", "0.00006"):
        assert str(other) not in answer.text
    await nothing_happened(rig)


async def test_the_balance_header_is_the_tightest_money_limit(rig: Rig) -> None:
    """
    A key sees what it may still spend, not what its organisation owns.
    """
    await rig.hub.ledger.set_limit(
        scope_id=rig.key.key_id, asset=LIMIT_USD, quanta=DOLLAR, window="day", actor="test"
    )

    answer = await rig.ask()

    charge = nano(answer.headers["x-tokenworks-charge"])
    assert nano(answer.headers["x-tokenworks-balance"]) == DOLLAR - charge
    (limit,) = await rig.hub.ledger.limits([rig.key.key_id])
    assert (limit.remaining, limit.held) == (DOLLAR - charge, 0)
    await rig.audit()


async def test_every_limit_on_the_path_is_charged(rig: Rig) -> None:
    """
    Money and tokens, at every level: used by what was used, not by what was held.
    """
    scopes = [rig.organisation.party_id, rig.team.party_id, rig.user.party_id, rig.key.key_id]
    for scope_id in scopes:
        for asset, quanta in ((LIMIT_USD, DOLLAR), (LIMIT_TOKENS, 50_000)):
            await rig.hub.ledger.set_limit(
                scope_id=scope_id, asset=asset, quanta=quanta, window="month", actor="test"
            )

    await rig.ask()
    await rig.ask(stream=True)

    calls = await rig.calls()
    charged = sum(call.charge_quanta for call in calls)
    tokens = sum(call.total_tokens for call in calls)
    limits = await rig.hub.ledger.limits(scopes)
    assert len(limits) == 8
    for limit in limits:
        used = limit.quanta - limit.remaining
        assert used == (charged if limit.asset == LIMIT_USD.code else tokens)
        assert limit.held == 0
    await rig.audit()


async def test_exactly_what_the_balance_covers_is_admitted(plant: Plant) -> None:
    """
    200 calls at once on money for 50: 50 answered, 150 refused, nothing oversold.

    The supplier holds every answer until all were admitted or refused, then reports usage
    equal to the ceiling, so that each call costs all that was held for it.
    """
    async with open_business(plant, deposit=0) as rig:
        await _admit_exactly(rig)


async def _admit_exactly(rig: Rig) -> None:
    body = json.dumps({"model": rig.model, "messages": MESSAGES, "max_tokens": 40}).encode()
    quote = await rig.quote(body)
    await rig.deposit(50 * quote.quanta)
    rig.first.set_behaviour(
        Behaviour(gate=True, usage=UsageShape.CEILING, prompt_tokens=quote.input_tokens)
    )
    asked = [asyncio.ensure_future(rig.post(body)) for _ in range(200)]
    refused = 0
    for next_one in asyncio.as_completed(asked):
        refused += (await next_one).status_code == 402
        if refused == 150:
            break
    await rig.first.wait_until_waiting(50)
    assert rig.first.waiting == 50
    rig.first.release()

    answers = await asyncio.gather(*asked)

    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(402)) == (50, 150)
    assert rig.first.stats()["calls"] + rig.second.stats()["calls"] == 50  # type: ignore[operator] - plain JSON, checked above
    cash = await rig.cash()
    assert (cash.available, cash.debits_pending) == (0, 0)
    await rig.audit()


# ---------------------------------------------------------------------- served at once


async def test_new_prices_and_offers_serve_the_next_call(rig: Rig) -> None:
    """
    Nothing is restarted: what the operator sets is what the next call pays and who serves it.
    """
    before = await rig.ask()
    prices = {Axis.INPUT: 10**9, Axis.OUTPUT: 10 * 10**9}
    await rig.hub.prices.set_prices(rig.model, "standard", prices)
    dearer = await rig.ask()
    await rig.hub.supply.pause_offer(rig.offers["north", "standard"].offer_id)
    elsewhere = await rig.ask()
    terms = OfferTerms(upstream_model="up/new", cost_card=share_card(500_000), priority=1)
    name = f"{rig.model}-new"
    await rig.hub.supply.add_offer("north", model=name, tier="standard", terms=terms)
    await rig.hub.prices.set_prices(name, "standard", prices)
    new = await rig.ask(model=name, stream=True)

    assert before.json()["usage"] == dearer.json()["usage"]
    usage = dearer.json()["usage"]
    charge = nano(dearer.headers["x-tokenworks-charge"])
    assert charge == usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 10_000
    assert elsewhere.status_code == 200
    assert heard(new.content).is_done
    assert [call.supplier_name for call in await rig.calls()] == [
        "north",
        "north",
        "south",
        "north",
    ]
    assert rig.first.requests[-1].json()["model"] == "up/new"  # type: ignore[index] - plain JSON, checked above
    await rig.audit()


async def test_key_of_a_mandate_stays_within_it(rig: Rig) -> None:
    """
    A plain call of an agent is one payment of its mandate: its budget, its count and what one
    may cost bind it, and revoking the mandate stops the key.
    """
    hub = rig.hub
    agent = await hub.opening.add_party(
        f"{rig.organisation.name}-bot",
        kind=PartyKind.BUYER,
        level=Level.AGENT,
        parent=rig.user.party_id,
    )
    mandates = hub.agents.mandates

    async def key_of(terms: Terms) -> tuple[Mandate, str]:
        mandate = await mandates.issue(agent.party_id, terms, actor="test")
        bounds = await mandates.bounds_of_calls(
            mandate.mandate_id,
            agent_id=agent.party_id,
            models=None,
            network=hub.agents.network,
        )
        _, secret = await hub.opening.add_key(agent.party_id, role=Role.BUYER, bounds=bounds)
        return mandate, secret

    budget = MoneyLimit(window=Window.EVER, quanta=DOLLAR)
    counted, secret = await key_of(
        Terms(
            budgets=(budget,),
            counts=(CountLimit(window=Window.EVER, payments=1),),
            payee_budgets=(budget,),
        )
    )
    assert (await rig.ask(secret=secret)).status_code == 200
    call = await rig.call()
    used = {
        limit.asset: limit.quanta - limit.remaining
        for limit in await hub.ledger.limits([counted.mandate_id])
    }
    assert used == {"LIMIT.USD": call.charge_quanta, "LIMIT.PAYMENTS": 1}
    platform = payee_scope(counted.mandate_id, PLATFORM_ID)
    (to_platform,) = await hub.ledger.limits([platform])
    assert to_platform.quanta - to_platform.remaining == call.charge_quanta
    refused = await rig.ask(secret=secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "limit_exhausted")

    _, small = await key_of(Terms(amount_max=1))
    refused = await rig.ask(secret=small)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "amount_not_allowed")

    _, other = await key_of(Terms(models=frozenset({"another"})))
    refused = await rig.ask(secret=other)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")

    open_one, living = await key_of(Terms())
    assert (await rig.ask(secret=living)).status_code == 200
    await mandates.revoke(open_one.mandate_id, actor="test")
    refused = await rig.ask(secret=living)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_closed")
    await rig.audit()
