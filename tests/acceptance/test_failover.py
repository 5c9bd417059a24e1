"""
The primary's machine is lost under load: its standby takes over, nothing answered is missing.

``make failover-test`` repeats it, each time with a new standby in the lost one's place.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop, is_steady, open_shop
from tests.acceptance.database_process import DatabaseProcess, hub_environment, standby_of
from tests.acceptance.hub_process import (
    Document,
    data_directory,
    raw_call,
    run_command,
    wait_for,
)

ROUNDS: Final = int(os.environ.get("FAILOVER_ROUNDS", "1"))
CLIENTS: Final = 6
STEADY_ANSWERS: Final = 30
CALL_TIMEOUT_S: Final = 60.0
RECOVERY_TIMEOUT_S: Final = 180.0
KEY_TIMEOUT_S: Final = 240.0
HOLD_LIFETIME_S: Final = 10
CALL: Final = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 5,
}


pytestmark = pytest.mark.timeout(480 + 240 * ROUNDS)


@dataclass(kw_only=True)
class Pair:
    """
    Two servers of the books on "machines" of their own, and a hub on a third.
    """

    primary: DatabaseProcess
    standby: DatabaseProcess
    shop: Shop


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """
    A selling hub whose books are on a primary and its synchronous standby.

    The test that loses the primary is the last one here that uses it.
    """
    with data_directory() as hub, ExitStack() as stack:
        primary = stack.enter_context(DatabaseProcess(hub.parent / "a"))
        standby = standby_of(primary, hub.parent / "b", "b")
        stack.enter_context(standby)
        environment = {
            **hub_environment(primary, standby),
            "TOKENWORKS_HOLD_LIFETIME_S": str(HOLD_LIFETIME_S),
        }
        shop = stack.enter_context(open_shop(hub, workers=2, environment=environment))
        pair = Pair(primary=primary, standby=standby, shop=shop)
        # Whoever has which part by then.
        stack.callback(lambda: (pair.primary.stop(), pair.standby.stop()))
        yield pair


@dataclass(slots=True)
class Load:
    """
    What the clients of one buyer saw.
    """

    buyer: str
    key: str
    answered: dict[str, Decimal] = field(default_factory=dict)
    """The charge of every answer that came whole, by call id."""
    finished: list[str] = field(default_factory=list)
    """Idempotency keys whose call was answered, or found settled by a retry."""
    others: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    """How often each client was told something else than a charge; they are numbered from 0."""
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def calling(shop: Shop, buyer: str) -> Generator[Load]:
    """
    Keep a new buyer's clients calling; each sends a key again until it knows that the key was
    charged.
    """
    load = Load(buyer, shop.add_buyer(buyer))
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(keep_calling, shop, load, number) for number in range(CLIENTS)]
        try:
            wait_for("the first answers", lambda: len(load.finished) >= STEADY_ANSWERS)
            yield load
        finally:
            load.is_over.set()
        for client in clients:
            client.result(KEY_TIMEOUT_S + CALL_TIMEOUT_S)


def keep_calling(shop: Shop, load: Load, number: int) -> None:
    """
    Make one call after the other, each under an idempotency key of its own.
    """
    with httpx.Client(timeout=CALL_TIMEOUT_S) as http:
        while not load.is_over.is_set():
            key = str(uuid.uuid4())
            wait_for(
                f"the key is charged ({dict(load.others)})",
                lambda: is_charged(shop, load, http, key, number),  # noqa: B023 - asked at once
                timeout_s=KEY_TIMEOUT_S,
            )
            load.finished.append(key)


def is_charged(shop: Shop, load: Load, http: httpx.Client, key: str, number: int) -> bool:
    """
    Send the call once; tell whether it is known to be charged now.
    """
    request = raw_call(load.key, CALL)
    request["headers"]["idempotency-key"] = key
    try:
        answer = http.post(f"{shop.base_url}/chat/completions", **request)
    except httpx.HTTPError as error:
        load.others[type(error).__name__] += 1
        return False
    if answer.status_code == 200:
        call_id = answer.headers["x-tokenworks-call-id"]
        assert call_id not in load.answered
        load.answered[call_id] = Decimal(answer.headers["x-tokenworks-charge"])
        return True
    code = answer.json()["error"]["code"]
    load.others[f"{answer.status_code} {code}"] += 1
    load.refused[number] += code != "call_already_settled"
    return code == "call_already_settled"


def check_books(shop: Shop) -> None:
    """
    Run the check of the books on the server that is the primary now.
    """
    done = run_command("ledger", "check", "--json", environment=shop.environment)
    assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"


def check_every_key_is_charged_once(shop: Shop, load: Load) -> None:
    """
    Compare what clients saw with the calls, the entries, the balance and the check.
    """
    wait_for("the hub API answers again", lambda: is_steady(shop), timeout_s=RECOVERY_TIMEOUT_S)
    calls = {call["call_id"]: call for call in shop.all_calls(party=load.buyer)}
    missing = [call_id for call_id in load.answered if call_id not in calls]
    assert missing == [], f"answered and not in the books: {missing} {dict(load.others)}"
    for call_id, charge in load.answered.items():
        assert calls[call_id]["status"] == "settled"
        assert Decimal(calls[call_id]["charge"]) == charge

    def kept() -> dict[str, Decimal] | None:
        # Each key once, and no other; of one that was only told to be settled it may be given back.
        found = {
            call: left for call, left in shop.kept_of(load.buyer, load.answered).items() if left
        }
        is_right = shop.posted_of(load.buyer) == Decimal(10) - sum(found.values())
        return found if is_right and len(found) <= len(load.finished) else None

    charges = wait_for("what was not acknowledged is given back", kept)
    assert {call_id: charges.get(call_id) for call_id in load.answered} == load.answered
    for call_id in sorted(load.answered)[:: max(1, len(load.answered) // 20)]:
        entries = shop.get(f"ledger/entries/{call_id}")["items"]
        assert [entry["operation"] for entry in entries].count("capture") == 1
    check_books(shop)


def test_without_its_standby_the_hub_refuses_and_goes_on_when_it_is_back(pair: Pair) -> None:
    """
    With one standby its outage stops sales: 503, nothing given away. Nobody empties the list of
    standbys to wait for; when the standby is back, so are sales, and each key is charged once.
    """
    shop = pair.shop
    with calling(shop, "loses-the-standby") as load:

        def all_were_refused(times: int) -> bool:
            return all(load.refused[number] >= times for number in range(CLIENTS))

        frozen = pair.standby.freeze()
        try:
            # Whoever was refused has no answer of before on its way any more.
            wait_for("every client is refused", lambda: all_were_refused(1))
            assert any("503" in what for what in load.others), load.others
            before = len(load.answered)
            wait_for("and again", lambda: all_were_refused(2))
            assert len(load.answered) == before, "nothing is acknowledged"
            status = run_command(
                "standby", "status", "--data", str(pair.primary.data_dir), "--json"
            )
            assert json.loads(status.stdout)["waits_for"] == ["b"]
        finally:
            for process in frozen:
                with suppress(Exception):
                    process.resume()
        wait_until_calls_work(load)
    check_every_key_is_charged_once(shop, load)


def test_standby_takes_over_under_load_and_nothing_answered_is_missing(pair: Pair) -> None:
    """
    ``kill -9`` of the primary, its directory deleted, the standby promoted: the hub goes on
    there by itself; what clients were told is booked once, and their retries are charged once.
    The old primary, back from the dead, is refused.
    """
    shop, kept = pair.shop, pair.primary.data_dir.with_name("kept")
    with calling(shop, "loses-the-primary") as load:
        for number in range(1, ROUNDS + 1):
            lost = pair.primary
            pair.primary, pair.standby = pair.standby, lost
            lost.kill()
            if number == ROUNDS:
                copy(lost.data_dir, kept)
            lost.lose_the_disk()
            wait_for("clients are refused", lambda: any("503" in what for what in load.others))
            promoted = pair.primary.tell("standby", "promote")
            assert (promoted["promotion"], promoted["timeline"]) == (number, number + 1)
            wait_until_calls_work(load)
            if number < ROUNDS:
                name = f"again{number}"
                pair.standby = standby_of(pair.primary, lost.data_dir, name)
                pair.standby.start()
                assert pair.primary.tell("standby", "status")["waits_for"] == [name]
                wait_until_calls_work(load)
    check_every_key_is_charged_once(shop, load)
    assert any("503" in what for what in load.others)
    lost = DatabaseProcess(pair.standby.data_dir)
    copy(kept, lost.data_dir)
    with lost:
        check_revived_primary_is_refused(pair, lost)


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


def copy(source: Path, target: Path) -> None:
    """
    Copy a directory with its owners and modes.
    """
    subprocess.run(["cp", "-a", str(source), str(target)], check=True, timeout=CALL_TIMEOUT_S)


def check_revived_primary_is_refused(pair: Pair, revived: DatabaseProcess) -> None:
    """
    The hub, which has the old primary first in its list, stays where it is; told to use only
    the old one it refuses; and alone the old one cannot acknowledge anything.
    """
    for _ in range(20):
        assert pair.shop.chat(pair.shop.buyer_key, CALL).status_code == 200
    only_old = hub_environment(revived)
    data = ("--data", str(pair.shop.data_dir))
    refused = run_command("key", "add", "--admin", *data, "--json", environment=only_old)
    assert refused.returncode == 2
    assert "ledger_demoted" in refused.stderr
    hub = run_command("up", *data, "--port", "0", "--no-console", "--json", environment=only_old)
    assert hub.returncode == 2
    status = run_command("standby", "status", "--data", str(revived.data_dir), "--json")
    assert status.returncode == 1
    assert json.loads(status.stdout)["can_acknowledge"] is False
    with psycopg.connect(str(revived.facts["database_url"]), autocommit=True) as connection:
        heard: list[str] = []
        connection.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        with ThreadPoolExecutor(1) as pool:
            booking = pool.submit(
                connection.execute,
                "INSERT INTO public.tokenworks_migrations VALUES ('old', 'story', now())",
            )
            wait_for("the commit waits", lambda: waits_for_a_standby(revived, connection))
            assert not booking.done()
            connection.cancel_safe()
            booking.result(CALL_TIMEOUT_S)
        assert any("synchronous replication" in text for text in heard), "the trap of LEDGER 11"


def waits_for_a_standby(server: DatabaseProcess, connection: psycopg.Connection[object]) -> bool:
    """
    Tell whether a connection's commit waits for a standby to confirm it.
    """
    with psycopg.connect(str(server.facts["database_url"]), autocommit=True) as look:
        row = look.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
            (connection.info.backend_pid,),
        ).fetchone()
        return row is not None


def test_promotion_that_would_lose_something_is_refused() -> None:
    """
    While the primary answers, without a standby that commits waited for, or of a primary.
    """
    with data_directory() as hub, DatabaseProcess(hub.parent / "a") as primary:
        standby = standby_of(primary, hub.parent / "b", "b")

        def refusal(*arguments: str) -> Document:
            done = run_command(*arguments, "--json")
            assert done.returncode == 2, done.stdout
            return json.loads(done.stderr)["error"]

        data = ("--data", str(standby.data_dir))
        assert "start it" in refusal("standby", "promote", *data)["message"]
        with standby:
            assert "still answers" in refusal("standby", "promote", *data)["message"]
            of_primary = ("--data", str(primary.data_dir))
            assert "primary already" in refusal("standby", "promote", *of_primary)["message"]
            again = refusal("standby", "create", *data, "--of", str(primary.data_dir))
            assert again["code"] == "standby_refused"
            dsn = "host=db user=postgres password=hunter2"
            shown = refusal("standby", "create", "--data", str(hub), "--primary", dsn)
            assert shown["code"] == "password_in_arguments"
            assert "hunter2" not in json.dumps(shown)
            last = refusal("standby", "remove", "b", "--of", str(primary.data_dir))
            assert "last standby" in last["message"]
        # It was told to leave while it is away, so the primary goes on alone, as was meant.
        arguments = ("b", "--last", "--of", str(primary.data_dir), "--json")
        assert run_command("standby", "remove", *arguments).returncode == 0
        status = primary.tell("standby", "status")
        assert (status["waits_for"], status["slots"]) == ([], [])
