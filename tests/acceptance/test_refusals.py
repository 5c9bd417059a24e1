"""
What bad input gets, as the official client sees it, and that nothing is half done.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import CONNECTIONS, STUB_MODEL, Shop
from tests.acceptance.hub_process import ANSWER_TIMEOUT_S, raw_call, wait_for
from tokenworks.testing.supplier_behaviour import Behaviour, Malformation, UsageShape

QUESTION: Any = [{"role": "user", "content": "hi"}]
BODY_BYTES_MAX = 8 * 1024 * 1024
MESSAGES_MAX = 4_096


@pytest.fixture
def client(shop: Shop) -> Iterator[openai.OpenAI]:
    """
    The official client as most people use it: with its retries on.
    """
    with openai.OpenAI(base_url=shop.base_url, api_key=shop.buyer_key) as client:
        yield client


def call_count(shop: Shop) -> int:
    """
    Return how many requests the supplier has seen.
    """
    return int(str(shop.stub.stats()["calls"]))


@contextmanager
def nothing_happens(shop: Shop, party: str = "buyer") -> Generator[None]:
    """
    Assert that no supplier is asked, no money moves, no hold is left and no call is booked.
    """

    def picture() -> list[Any]:
        return [
            call_count(shop),
            shop.get("balance", party=party)["cash"],
            shop.get("ledger/holds")["items"],
            len(shop.get("calls", party=party, limit=500)["items"]),
        ]

    before = picture()
    yield
    assert picture() == before


def refusal(client: openai.OpenAI, **options: object) -> openai.APIStatusError:
    """
    Return the error that a call ends with.
    """
    wanted: dict[str, Any] = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    wanted.update(options)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**wanted)
    return caught.value


def wait_until_told(shop: Shop, key: str, statuses: set[int]) -> None:
    """
    Return when every gateway process knows: what a command changed is told to them by a
    notification, which may come a moment after the command has ended.
    """
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 2}
    request = raw_call(key, body)

    def ask() -> int:
        url = f"{shop.base_url}/chat/completions"
        return httpx.post(url, timeout=ANSWER_TIMEOUT_S, **request).status_code

    wait_for(f"{statuses}", lambda: all(ask() in statuses for _ in range(CONNECTIONS)))


# ---------------------------------------------------------------------- who asks


def test_no_key_bad_key_and_revoked_key_are_401(shop: Shop) -> None:
    """
    Each is an ``AuthenticationError``; a revoked key is refused from the next call on.
    """
    missing = shop.http.post(f"{shop.base_url}/chat/completions", json={})
    assert missing.status_code == 401
    assert set(missing.json()["error"]) >= {"message", "type", "param", "code"}
    assert missing.headers["www-authenticate"] == "Bearer"

    with nothing_happens(shop):
        for key in ("sk-nonsense", "tw_" + "A" * 43):
            with openai.OpenAI(base_url=shop.base_url, api_key=key) as client:
                error = refusal(client)
            assert isinstance(error, openai.AuthenticationError)
            assert key not in error.message

    added = shop.tell("key", "add", "buyer", "--label", "doomed")
    with openai.OpenAI(base_url=shop.base_url, api_key=added["secret"]) as client:
        client.chat.completions.create(model=STUB_MODEL, messages=QUESTION, max_tokens=2)
        shop.tell("key", "revoke", added["prefix"])
    wait_until_told(shop, added["secret"], {401})
    with openai.OpenAI(base_url=shop.base_url, api_key=added["secret"]) as again:
        assert isinstance(refusal(again), openai.AuthenticationError)


def test_key_options_are_kept(shop: Shop) -> None:
    """
    An expired key is 401, a model outside its list 403, a rate above its own 429; rotating
    ends the old secret at once.
    """
    expiring, soon = wait_for("a key that expires soon", lambda: expiring_key(shop))
    narrow = shop.tell("key", "add", "buyer", "--models", f"{STUB_MODEL}@premium,other")
    with openai.OpenAI(base_url=shop.base_url, api_key=narrow["secret"]) as client:
        assert isinstance(refusal(client), openai.PermissionDeniedError)

    slow = shop.tell("key", "add", "buyer", "--requests-per-minute", "1")
    body: dict[str, Any] = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 2}
    with openai.OpenAI(base_url=shop.base_url, api_key=slow["secret"]) as client:
        client.chat.completions.create(**body)
        answers = [shop.chat(slow["secret"], body) for _ in range(4)]
    assert 429 in {answer.status_code for answer in answers}
    limited = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(limited.headers["retry-after"]) <= 60

    old = shop.tell("key", "add", "buyer")
    new = shop.tell("key", "rotate", old["prefix"])
    assert shop.chat(new["secret"], body).status_code == 200
    wait_until_told(shop, old["secret"], {401})

    wait_for("the key has expired", lambda: datetime.now(UTC) > soon)
    expired = shop.chat(expiring, body)
    assert expired.status_code == 401
    assert expired.json()["error"]["code"] == "key_expired"


def expiring_key(shop: Shop) -> tuple[str, datetime] | None:
    """
    Return a key that expires in two seconds, and when; ``None`` where making it took so long.
    """
    soon = datetime.now(UTC) + timedelta(seconds=2)
    made = shop.run("key", "add", "buyer", "--expires", soon.isoformat(), "--json")
    return (json.loads(made.stdout)["secret"], soon) if made.returncode == 0 else None


def test_admin_key_buys_nothing(shop: Shop) -> None:
    """
    The operator's key is no buyer's.
    """
    with openai.OpenAI(base_url=shop.base_url, api_key=shop.admin_key) as client:
        assert isinstance(refusal(client), openai.PermissionDeniedError)


# ---------------------------------------------------------------------- money and limits


def test_empty_balance_is_402_and_not_repeated(shop: Shop) -> None:
    """
    The client does not try again, the error says what is needed, no supplier was called.
    """
    key = shop.add_buyer("pauper", None)
    with (
        openai.OpenAI(base_url=shop.base_url, api_key=key) as client,
        nothing_happens(shop, "pauper"),
    ):
        error = refusal(client)
    assert error.status_code == 402
    assert error.response.headers["x-should-retry"] == "false"
    assert error.code == "insufficient_funds"
    assert "USD" in error.message


@pytest.mark.parametrize(
    ("per", "unit", "status"),
    [("day", "USD", 429), ("month", "tokens", 429), ("year", "USD", 429), ("ever", "tokens", 402)],
)
def test_limit_that_is_too_small_names_itself(shop: Shop, per: str, unit: str, status: int) -> None:
    """
    429 with Retry-After when the window opens again, else 402; the limit and what is left of
    it are named. The official client counts one request, not three.
    """
    name = f"small-{per}"
    key = shop.add_buyer(name)
    amount = "0.000001" if unit == "USD" else "3"
    shop.set_limit(name, amount, per=per, unit=unit)
    with (
        # One connection all the time, else two gateways' counts would be compared.
        httpx.Client(limits=httpx.Limits(keepalive_expiry=None)) as http,
        openai.OpenAI(base_url=shop.base_url, api_key=key) as client,
        nothing_happens(shop, name),
    ):
        refused_before = refusals_counted(shop, http)
        error = refusal(client)
        assert refusals_counted(shop, http) - refused_before <= 1
    assert error.status_code == status
    assert isinstance(error, openai.RateLimitError) == (status == 429)
    assert error.response.headers["x-should-retry"] == "false"
    assert f"{amount} {unit}" in error.message
    details = error.response.json()["error"]["details"]
    assert details["window"] == per
    assert details["available"] == amount
    assert details["scope_id"] == shop.get(f"parties/{name}")["party_id"]
    if status == 429:
        assert int(error.response.headers["retry-after"]) > 0
        assert details["resets_at"] in error.message
    assert error.request.headers.get("x-stainless-retry-count") == "0"


def refusals_counted(shop: Shop, http: httpx.Client) -> float:
    """
    Return the refusals that the gateway process has counted that this client talks to.
    """
    text = http.get(f"{shop.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("tokenworks_refusals_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_tightest_limit_of_the_path_decides(shop: Shop) -> None:
    """
    Organisation, team, user and key each have a limit; the hold takes all of them or nothing.
    """
    shop.add_buyer("org")
    shop.post("parties", name="org-team", kind="buyer", parent="org")
    shop.post("parties", name="org-user", kind="buyer", parent="org-team")
    key = shop.post("keys", party="org-user")
    shop.set_limit("org", "9", per="year")
    shop.set_limit("org-team", "0.001", per="month")
    shop.set_limit("org-user", "100000", per="day", unit="tokens")
    shop.tell("limit", "set", key["key_id"], "5", "--per", "ever", "--on-key")
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    answer = shop.chat(key["secret"], body)
    assert answer.status_code == 200
    charge = Decimal(answer.headers["x-tokenworks-charge"])

    def left(name: str) -> Decimal:
        rows = shop.get("limits", party=name)["items"]
        return Decimal(rows[0]["remaining"])

    assert left("org") == 9 - charge
    assert left("org-team") == Decimal("0.001") - charge
    assert left("org-user") == 100_000 - answer.json()["usage"]["total_tokens"]
    with nothing_happens(shop, "org"):
        refused = shop.chat(key["secret"], {**body, "max_tokens": 600})
        assert refused.status_code == 429
        assert "0.001 USD per month" in refused.json()["error"]["message"]
    assert left("org") == 9 - charge


def test_frozen_party_stops_its_whole_tree(shop: Shop) -> None:
    """
    New calls of everybody below are refused at once; unfreezing lets them call again.
    """
    shop.add_buyer("cold")
    key = shop.add_buyer("cold-user", None, parent="cold")
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    assert shop.chat(key, body).status_code == 200
    shop.tell("party", "freeze", "cold")
    wait_until_told(shop, key, {402, 403})
    with nothing_happens(shop, "cold"):
        answers = {shop.chat(key, body).status_code for _ in range(4)}
        assert answers <= {402, 403}
    shop.tell("party", "unfreeze", "cold")
    wait_until_told(shop, key, {200})


# ---------------------------------------------------------------------- what is asked


def test_unknown_model_and_tier_say_what_exists(shop: Shop, client: openai.OpenAI) -> None:
    """
    ``NotFoundError`` with the names that would work.
    """
    with nothing_happens(shop):
        unknown = refusal(client, model="gpt-0")
        assert isinstance(unknown, openai.NotFoundError)
        assert STUB_MODEL in unknown.message
        other_tier = refusal(client, model=f"{STUB_MODEL}@elite")
        assert isinstance(other_tier, openai.NotFoundError)
        assert "standard" in other_tier.message
        no_tier = refusal(client, model=f"{STUB_MODEL}@golden")
        assert isinstance(no_tier, (openai.NotFoundError, openai.BadRequestError))


def test_offer_without_a_price_is_refused(shop: Shop, client: openai.OpenAI) -> None:
    """
    No price is never a price of 0.
    """
    terms = {"tier": "standard", "supplier_share_ppm": 500_000}
    shop.post("offers", supplier="factory", model="unpriced", **terms)
    with nothing_happens(shop):
        error = refusal(client, model="unpriced")
    assert error.status_code in {400, 404}
    assert "price" in error.message


def test_axis_without_a_price_is_free_once_and_blocks_the_offer(
    shop: Shop, client: openai.OpenAI
) -> None:
    """
    An axis first seen after the call is charged 0, booked as a supplier fault, and the offer
    is blocked with the axis named.
    """
    offer_id = shop.sell("factory", "surprising")
    shop.stub.set_behaviour(Behaviour(usage=UsageShape.UNKNOWN_AXIS))
    raw = client.chat.completions.with_raw_response.create(
        model="surprising", messages=QUESTION, max_tokens=5
    )
    call = shop.get(f"calls/{raw.headers['x-tokenworks-call-id']}")
    assert call["attempts"][0]["error_code"] is not None
    offers = {offer["offer_id"]: offer for offer in shop.get("offers")["items"]}
    assert offers[offer_id]["state"] == "blocked"
    assert "hologram" in offers[offer_id]["blocked_reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"[]", 400),
        (b'{"model": "stub-model"}', 400),
        (b'{"model": 5, "messages": []}', 400),
        (b'{"model": "stub-model", "messages": "hi"}', 400),
        (b'{"model": "stub-model", "messages": []}', 400),
        (b'{"model": "stub-model", "messages": [{"role":"user","content":"\xff"}]}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user","content":"a"}],"n":0}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user","content":"a"}],"n":1.5}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user","content":"a"}],"n":17}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user"}],"max_tokens":-1}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user"}],"max_tokens":"9"}', 400),
        (b'{"model":"stub-model","messages":[{"role":"user"}],"stream":"yes"}', 400),
        (
            json.dumps(
                {"model": "stub-model", "messages": [{"role": "user"}] * (MESSAGES_MAX + 1)}
            ).encode(),
            413,
        ),
        (b'{"model": "' + b"a" * BODY_BYTES_MAX + b'"}', 413),
    ],
    ids=[
        "empty",
        "not_json",
        "array",
        "no_messages",
        "model_number",
        "messages_text",
        "messages_empty",
        "not_utf8",
        "n_zero",
        "n_fraction",
        "n_many",
        "max_tokens_negative",
        "max_tokens_text",
        "stream_text",
        "too_many_messages",
        "too_large",
    ],
)
def test_body_that_is_wrong_is_refused_in_openais_shape(
    shop: Shop, body: bytes, status: int
) -> None:
    """
    400 or 413 with message, type, param and code; nothing is half done.
    """
    with nothing_happens(shop):
        answer = shop.chat(shop.buyer_key, body)
    allowed = {status} if status == 400 else {400, 413}
    assert answer.status_code in allowed, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 500


def test_official_client_raises_bad_request(client: openai.OpenAI) -> None:
    """
    A wrong parameter is a ``BadRequestError`` that names it.
    """
    error = refusal(client, max_tokens=-5)
    assert isinstance(error, openai.BadRequestError)
    assert error.param == "max_tokens"


# ---------------------------------------------------------------------- suppliers at fault


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=500),
        Behaviour(status=429, retry_after_s=1),
        Behaviour(close_before_headers=True),
        Behaviour(malformation=Malformation.NOT_JSON),
        Behaviour(malformation=Malformation.WRONG_JSON),
        Behaviour(cut_after_chunks=1),
    ],
    ids=["500", "429", "closed", "not_json", "wrong_json", "cut"],
)
def test_only_supplier_at_fault_costs_the_buyer_nothing(shop: Shop, behaviour: Behaviour) -> None:
    """
    502 or 503 in OpenAI's shape; the fault is on record, the buyer's money is back.
    """
    shop.stub.set_behaviour(behaviour)
    before = shop.get("balance", party="buyer")["cash"]
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    answer = shop.chat(shop.buyer_key, body)
    assert answer.status_code in {429, 502, 503}, answer.text
    assert answer.json()["error"]["code"]
    call = shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}")
    assert call["status"] == "failed"
    assert call["charge"] == "0"
    assert call["attempts"][0]["error_code"] is not None
    assert shop.get("balance", party="buyer")["cash"] == before
    assert shop.get("ledger/holds")["items"] == []


@pytest.mark.parametrize(
    "usage",
    [UsageShape.NEGATIVE, UsageShape.ABSURD, UsageShape.NOT_NUMBERS, UsageShape.NON_INTEGER],
)
def test_absurd_usage_is_never_billed_as_reported(shop: Shop, usage: UsageShape) -> None:
    """
    What cannot be true is counted by the hub instead, marked, and held against the supplier.
    """
    shop.stub.set_behaviour(Behaviour(usage=usage, completion_tokens=5))
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    answer = shop.chat(shop.buyer_key, body)
    assert answer.status_code == 200
    call = shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}")
    assert call["is_estimate"] is True
    assert Decimal(call["charge"]) <= Decimal(call["quoted"])
    assert call["attempts"][0]["error_code"] is not None


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(cut_after_chunks=3, gate_after_chunks=2),
        Behaviour(error_after_chunks=3, gate_after_chunks=2),
    ],
    ids=["cut", "error_event"],
)
def test_stream_that_breaks_ends_with_an_error_event(shop: Shop, behaviour: Behaviour) -> None:
    """
    After the first byte a failure is an error event, never a silent close or a `[DONE]`.
    """
    shop.stub.set_behaviour(behaviour)
    body: dict[str, Any] = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 20}
    body["stream"] = True
    with shop.stream(shop.buyer_key, body) as answer:
        assert answer.status_code == 200
        shop.stub.release()
        events = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1] != "[DONE]"
    assert json.loads(events[-1])["error"]["code"]
    call = shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}")
    assert call["attempts"][0]["error_code"] is not None
    assert shop.get("ledger/holds")["items"] == []
    shop.stub.set_behaviour(behaviour)
    with (
        openai.OpenAI(base_url=shop.base_url, api_key=shop.buyer_key) as client,
        client.chat.completions.create(**body) as stream,
    ):
        shop.stub.release()
        with pytest.raises(openai.APIError):
            list(stream)


def test_logs_name_the_call_and_hold_no_secrets(shop: Shop) -> None:
    """
    A supplier's fault is a structured line with the call's id; no key ever stands in a log.
    """
    shop.stub.set_behaviour(Behaviour(status=500))
    body = {"model": STUB_MODEL, "messages": QUESTION, "max_tokens": 5}
    answer = shop.chat(shop.buyer_key, body)
    call_id = answer.headers["x-tokenworks-call-id"]
    lines: list[dict[str, Any]] = []
    for file in (shop.data_dir / "logs").iterdir():
        text = file.read_text(encoding="utf-8")
        assert shop.buyer_key not in text, file
        assert shop.admin_key not in text, file
        if file.name.startswith("gateway"):
            lines += [json.loads(line) for line in text.splitlines()]
    assert any(line.get("call_id") == call_id for line in lines)
