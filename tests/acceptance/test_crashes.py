"""
``kill -9`` under load, and a database that does not answer: what was answered is in the books.

The moments are random but seeded; a failure prints the seed's events.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import httpx

from tests.acceptance.conftest import STUB_MODEL, Shop, is_steady
from tests.acceptance.hub_process import Document, raw_call, wait_for
from tests.crash.victims import backends, is_back, stopped
from tokenworks.testing.supplier_behaviour import Behaviour

CLIENTS: Final = 6
KILLS: Final = 4
CALL_TIMEOUT_S: Final = 90.0
REFUSAL_TIMEOUT_S: Final = 60.0
CACHES_LIFETIME_S: Final = 2.0
"""With the five seconds that the first refusal takes: longer than any cache may serve."""
RECOVERY_TIMEOUT_S: Final = 180.0
EXPIRY_SLACK: Final = timedelta(seconds=120)
"""Grace of the worker (10 s), its pause after a restart (15 s), its tick, a busy machine."""
SEED: Final = 20_260_131


@dataclass(slots=True)
class Load:
    """
    What the clients saw.
    """

    answered: dict[str, Decimal] = field(default_factory=dict)
    """The charge of every call whose answer came whole, by call id."""
    repeated: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)

    def note(self, call_id: str, charge: str) -> None:
        """
        Remember a complete answer.
        """
        if call_id in self.answered:
            self.repeated.append(call_id)
        self.answered[call_id] = Decimal(charge)


@contextmanager
def calling(shop: Shop) -> Generator[Load]:
    """
    Keep several clients calling, half of them with streams, until the block ends.
    """
    load = Load()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(keep_calling, shop, load, index) for index in range(CLIENTS)]
        try:
            wait_for("the first answers", lambda: len(load.answered) >= CLIENTS)
            yield load
        finally:
            load.is_over.set()
        for client in clients:
            client.result(CALL_TIMEOUT_S + 10)


def keep_calling(shop: Shop, load: Load, index: int) -> None:
    """
    Call again and again; whatever goes wrong is counted and the next call made.
    """
    body: Document = {
        "model": STUB_MODEL,
        "messages": [{"role": "user", "content": f"client {index}"}],
        "max_tokens": 20,
        "stream": index % 2 == 1,
    }
    url = f"{shop.base_url}/chat/completions"
    request = raw_call(shop.buyer_key, body)
    while not load.is_over.is_set():
        with httpx.Client(timeout=CALL_TIMEOUT_S) as http, suppress(httpx.HTTPError):
            while not load.is_over.is_set():
                try:
                    answer = http.post(url, **request)
                except httpx.HTTPError as error:
                    load.others[type(error).__name__] += 1
                    load.is_over.wait(0.05)
                    raise
                note_answer(load, answer)


def note_answer(load: Load, answer: httpx.Response) -> None:
    """
    Sort an answer: whole with its charge, or something else.
    """
    if answer.status_code != 200:
        load.others[str(answer.status_code)] += 1
        load.is_over.wait(0.05)
    elif "text/event-stream" not in answer.headers["content-type"]:
        load.note(answer.headers["x-tokenworks-call-id"], answer.headers["x-tokenworks-charge"])
    elif answer.text.endswith("data: [DONE]\n\n"):
        marker = ": tokenworks-receipt "
        line = next(line for line in answer.text.splitlines() if line.startswith(marker))
        receipt = json.loads(line.removeprefix(marker))["receipt"]
        load.note(receipt["call_id"], receipt["charge"])
    else:
        load.others["broken_stream"] += 1


def wait_until_calls_work(load: Load) -> None:
    """
    Return when answers come again, from every gateway that there is.
    """
    before = len(load.answered)
    wait_for(
        f"answers again ({dict(load.others)})",
        lambda: len(load.answered) >= before + 4 * CLIENTS,
        timeout_s=RECOVERY_TIMEOUT_S,
    )


def wait_until_steady(shop: Shop) -> None:
    """
    Return when the hub API has answered many times in a row.
    """
    wait_for("the hub API answers again", lambda: is_steady(shop), timeout_s=RECOVERY_TIMEOUT_S)


def check_every_answer_is_booked_once(shop: Shop, load: Load) -> None:
    """
    Compare what clients saw with the calls, the entries, the balance and the check.
    """
    wait_until_steady(shop)
    assert load.repeated == []
    calls = {call["call_id"]: call for call in shop.all_calls(party="buyer")}
    missing = [call_id for call_id in load.answered if call_id not in calls]
    assert missing == [], f"answered and not in the books: {missing} {dict(load.others)}"
    for call_id, charge in load.answered.items():
        assert calls[call_id]["status"] == "settled"
        assert Decimal(calls[call_id]["charge"]) == charge
    sample = sorted(load.answered)[:: max(1, len(load.answered) // 25)]
    for call_id in sample:
        entries = shop.get(f"ledger/entries/{call_id}")["items"]
        captures = [entry for entry in entries if entry["operation"] == "capture"]
        assert len(captures) == 1
        paid = [leg for leg in captures[0]["legs"] if leg["purpose"] == "cash"]
        assert sum(Decimal(leg["debit"]) for leg in paid) == load.answered[call_id]

    def kept() -> dict[str, Decimal] | None:
        found = shop.kept_of("buyer", load.answered)
        return found if shop.posted_of("buyer") == Decimal(10) - sum(found.values()) else None

    charges = wait_for("the balance is what was not charged", kept)
    assert {call_id: charges[call_id] for call_id in load.answered} == load.answered
    for hold in shop.get("ledger/holds", limit=500)["items"]:
        due = datetime.fromisoformat(hold["expires_at"])
        assert datetime.now(UTC) < due + EXPIRY_SLACK, f"a hold outlived its expiry: {hold}"
    shop.check_books()


def test_killed_gateways_lose_no_answered_call(fragile: Shop) -> None:
    """
    ``kill -9`` of a gateway process at four random moments: every answered call is in the
    books once, with the charge the client saw.
    """
    dice = random.Random(SEED)
    with calling(fragile) as load:
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.1, 0.8))
            name = dice.choice(["gateway-0", "gateway-1"])
            pid = fragile.children()[name]
            os.kill(pid, signal.SIGKILL)
            wait_for(f"{name} is started again", lambda: is_back(fragile, name, pid))  # noqa: B023 - asked at once
            wait_until_calls_work(load)
    check_every_answer_is_booked_once(fragile, load)


def test_killed_database_loses_no_answered_call(fragile: Shop) -> None:
    """
    ``kill -9`` of PostgreSQL, the whole server or one of its processes, at four random
    moments: calls work again by themselves and every answered call is in the books once.
    """
    dice = random.Random(SEED + 1)
    with calling(fragile) as load:
        for kill in range(KILLS):
            time.sleep(dice.uniform(0.1, 0.8))
            pid = fragile.children()["postgres"]
            if kill % 2 == 0:
                os.kill(pid, signal.SIGKILL)
                wait_for("PostgreSQL is back", lambda: is_back(fragile, "postgres", pid))  # noqa: B023 - asked at once
            else:
                os.kill(dice.choice(backends(pid)).pid, signal.SIGKILL)
            wait_until_calls_work(load)
    check_every_answer_is_booked_once(fragile, load)


def test_database_that_does_not_answer_is_503_and_nothing_is_free(fragile: Shop) -> None:
    """
    While PostgreSQL stands still a call is 503 with Retry-After, health says so or waits, and
    no supplier's answer is given away; when it goes on, all is well.
    """
    wait_until_steady(fragile)
    before = fragile.get("balance", party="buyer")["cash"][0]["posted"]
    asked_before = int(str(fragile.stub.stats()["calls"]))
    body = {
        "model": STUB_MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
    }
    answers: list[httpx.Response] = []
    with stopped(fragile.children()["postgres"]), ThreadPoolExecutor(4) as pool:
        # Once while keys and prices are remembered, once when they are too old to be used.
        for pause_s in (0.0, CACHES_LIFETIME_S):
            time.sleep(pause_s)
            calls = [pool.submit(call_apart, fragile, body) for _ in range(4)]
            answers += [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [503] * 8
    for answer in answers:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "service_unavailable_error"
    assert int(str(fragile.stub.stats()["calls"])) == asked_before

    def works_again() -> bool:
        return fragile.chat(fragile.buyer_key, body).status_code == 200

    wait_for("calls work again", works_again)
    after = fragile.posted_of("buyer")
    assert after < Decimal(before)
    assert after == Decimal(10) - sum(fragile.kept_of("buyer", ()).values())
    fragile.check_books()


def call_apart(shop: Shop, body: Document) -> httpx.Response:
    """
    Call on a connection of its own.
    """
    with httpx.Client(timeout=REFUSAL_TIMEOUT_S) as http:
        return http.post(f"{shop.base_url}/chat/completions", **raw_call(shop.buyer_key, body))


def test_killed_gateways_calls_are_free_to_be_tried_again_long_before_they_expire(
    fragile: Shop,
) -> None:
    """
    The call in flight at a ``kill -9`` is never charged: what it held is back within seconds,
    and the next try with its key is answered and charged.
    """
    wait_until_steady(fragile)
    key = fragile.add_buyer("unlucky", "1")
    before = {hold["hold_id"] for hold in fragile.get("ledger/holds", limit=500)["items"]}
    fragile.stub.set_behaviour(Behaviour(gate=True))
    body = {"model": STUB_MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    call = raw_call(key, body)
    call["headers"] = {**call["headers"], "idempotency-key": "once"}
    url = f"{fragile.base_url}/chat/completions"

    def ask() -> httpx.Response | None:
        with suppress(httpx.HTTPError), httpx.Client(timeout=CALL_TIMEOUT_S) as http:
            return http.post(url, **call)
        return None

    def held() -> list[Document]:
        holds = fragile.get("ledger/holds", limit=500)["items"]
        return [hold for hold in holds if hold["hold_id"] not in before]

    def answered() -> httpx.Response | None:
        answer = ask()
        return answer if answer is not None and answer.status_code == 200 else None

    try:
        with ThreadPoolExecutor(1) as pool:
            cut_off = pool.submit(ask)
            (hold,) = wait_for("the call is in flight", held)
            in_flight = ask()
            assert in_flight is not None
            assert in_flight.json()["error"]["code"] == "call_in_flight"
            for name in ("gateway-0", "gateway-1"):
                os.kill(fragile.children()[name], signal.SIGKILL)
            assert cut_off.result() is None
        wait_for("a gateway is back", lambda: reachable(fragile))
        fragile.stub.set_behaviour(Behaviour())
        answer = wait_for("the key is free", answered, timeout_s=RECOVERY_TIMEOUT_S)
    finally:
        fragile.stub.release()
        fragile.stub.reset()
    assert datetime.now(UTC) < datetime.fromisoformat(hold["expires_at"])
    ended = fragile.get(f"ledger/entries/{hold['hold_id']}")["items"]
    assert [entry["operation"] for entry in ended] == ["place", "void"]
    cash = fragile.get("balance", party="unlucky")["cash"][0]
    charge = Decimal(answer.headers["x-tokenworks-charge"])
    assert (Decimal(cash["available"]), Decimal(cash["held"])) == (1 - charge, 0)
    fragile.check_books()


def reachable(shop: Shop) -> bool:
    """
    Tell whether a gateway answers.
    """
    with suppress(httpx.HTTPError):
        return shop.http.get(f"{shop.url}/healthz").status_code == 200
    return False
