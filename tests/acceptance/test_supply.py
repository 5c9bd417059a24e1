"""
Suppliers, offers and prices: served from the next call on, with failover between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import httpx
import pytest

from tests.acceptance.conftest import CONNECTIONS, STUB_MODEL, Shop
from tests.acceptance.hub_process import ANSWER_TIMEOUT_S, Document, raw_call, wait_for
from tokenworks.testing.supplier_behaviour import Behaviour
from tokenworks.testing.supplier_process import SupplierProcess, running_supplier

QUESTION: Final = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def second_stub() -> Iterator[SupplierProcess]:
    """
    Another supplier that wants a key.
    """
    with running_supplier(api_key="sk-second-supplier") as stub:
        yield stub


def statuses(shop: Shop, model: str) -> set[int]:
    """
    Call on several new connections; return the answers' statuses.
    """
    request = raw_call(shop.buyer_key, {"model": model, "messages": QUESTION, "max_tokens": 4})
    url = f"{shop.base_url}/chat/completions"
    asked = (httpx.post(url, timeout=ANSWER_TIMEOUT_S, **request) for _ in range(CONNECTIONS))
    return {answer.status_code for answer in asked}


def ask(shop: Shop, model: str, **options: object) -> list[Document]:
    """
    Call on several new connections; return the booked calls, which must all have settled.
    """
    calls: list[Document] = []
    body = {"model": model, "messages": QUESTION, "max_tokens": 4, **options}
    for _ in range(CONNECTIONS):
        request = raw_call(shop.buyer_key, body)
        answer = httpx.post(
            f"{shop.base_url}/chat/completions", timeout=ANSWER_TIMEOUT_S, **request
        )
        assert answer.status_code == 200, answer.text
        calls.append(shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}"))
    return calls


def test_new_supplier_offer_and_price_serve_the_next_call(
    shop: Shop, second_stub: SupplierProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without a restart, through every gateway process: a supplier with its key in the
    environment, an offer, a price; then a dearer price, and a paused supplier.
    """
    monkeypatch.setenv("SECOND_KEY", "sk-second-supplier")
    added = shop.tell(
        "supplier",
        "add",
        "second",
        "--base-url",
        second_stub.base_url,
        "--api-key-env",
        "SECOND_KEY",
        "--allow-private",
    )
    assert added["has_api_key"] is True
    assert "sk-second-supplier" not in str(added)
    tested = shop.tell("supplier", "test", "second", "--model", "stub-model")
    assert tested["ok"] is True
    shares = ("--split", "tax=80000,power=250000@sun,rights=20000@poets,reseller=30000@kiosk")
    for name, kind in (
        ("sun", "power_producer"),
        ("poets", "rights_holder"),
        ("kiosk", "reseller"),
    ):
        shop.tell("party", "add", name, "--kind", kind)
    costs = ("--cost-input", "0.5", "--cost-output", "1")
    shop.tell("offer", "add", "second", "novel", "--tier", "premium", *costs, *shares)
    shop.tell("price", "set", "novel", "--tier", "premium", "--input", "1", "--output", "2")

    calls = ask(shop, "novel@premium")
    assert {call["supplier"] for call in calls} == {"second"}
    usage = calls[0]["usage"]
    expected = Decimal(usage["input"] + 2 * usage["output"]) / 1_000_000
    assert Decimal(calls[0]["charge"]) == expected
    cost = Decimal(usage["input"] + 2 * usage["output"]) / 2_000_000
    assert Decimal(calls[0]["payable"]) == cost
    entries = shop.get(f"ledger/entries/{calls[0]['call_id']}")["items"]
    purposes = {leg["purpose"] for entry in entries for leg in entry["legs"]}
    assert purposes >= {
        "tax_payable",
        "reseller_payable",
        "rights_payable",
        "platform_revenue",
        "supplier_payable",
        "power_payable",
    }

    shop.tell("price", "set", "novel", "--tier", "premium", "--input", "10", "--output", "20")

    def charges() -> set[Decimal]:
        return {Decimal(call["charge"]) for call in ask(shop, "novel@premium")}

    # Gateways hear of a change by a notification, a moment after the command has ended.
    wait_for("the dearer price everywhere", lambda: charges() == {expected * 10})

    shop.tell("supplier", "pause", "second")
    wait_for("no sale anywhere", lambda: statuses(shop, "novel@premium") <= {404, 503})
    shop.tell("supplier", "resume", "second")
    wait_for("sales everywhere", lambda: statuses(shop, "novel@premium") == {200})


def test_paused_supplier_leaves_its_calls_to_the_next(
    shop: Shop, second_stub: SupplierProcess
) -> None:
    """
    Two offers of one model: the first by priority serves; paused, the second does.
    """
    add_twins(shop, second_stub, "twin")
    assert {call["supplier"] for call in ask(shop, "twin")} == {"factory"}

    def served_by() -> set[str]:
        return {call["supplier"] for call in ask(shop, "twin")}

    shop.tell("supplier", "pause", "factory")
    try:
        wait_for("the next serves", lambda: served_by() == {"third"})
    finally:
        shop.tell("supplier", "resume", "factory")
    wait_for("the first serves again", lambda: served_by() == {"factory"})


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=500),
        Behaviour(status=429, retry_after_s=1),
        Behaviour(close_before_headers=True),
    ],
    ids=["500", "429", "closed"],
)
def test_fault_before_the_first_byte_fails_over(
    shop: Shop, second_stub: SupplierProcess, behaviour: Behaviour, *, is_stream: bool
) -> None:
    """
    The buyer gets an answer and pays once; both attempts are on record, the first owed
    nothing.
    """
    add_twins(shop, second_stub, "twin")
    shop.stub.set_behaviour(behaviour)
    body = {"model": "twin", "messages": QUESTION, "max_tokens": 4, "stream": is_stream}
    served: list[Document] = []
    for _ in range(3):
        answer = shop.chat(shop.buyer_key, body)
        assert answer.status_code == 200, answer.text
        served.append(shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}"))
    assert {call["supplier"] for call in served} == {"third"}
    assert {call["status"] for call in served} == {"settled"}
    for call in served:
        # A supplier at fault is left alone for a while, so later calls may need one attempt.
        last = call["attempts"][-1]
        assert (last["supplier"], last["status"]) == ("third", "served")
        assert [row["supplier"] for row in call["attempts"][:-1]] in ([], ["factory"])
        assert all(row["error_code"] for row in call["attempts"][:-1])
        assert all(row["payable"] in {None, "0"} for row in call["attempts"][:-1])


def test_first_fault_is_recorded_as_an_attempt(shop: Shop, second_stub: SupplierProcess) -> None:
    """
    A call that failed over shows two attempts: the fault with its status, and who served.
    """
    add_twins(shop, second_stub, "fresh-twin")
    shop.stub.set_behaviour(Behaviour(status=503))
    answer = shop.chat(
        shop.buyer_key, {"model": "fresh-twin", "messages": QUESTION, "max_tokens": 4}
    )
    call = shop.get(f"calls/{answer.headers['x-tokenworks-call-id']}")
    assert [row["supplier"] for row in call["attempts"]] == ["factory", "third"]
    assert call["attempts"][0]["http_status"] == 503
    assert call["attempt_count"] == 2
    own = shop.get(f"calls/{call['call_id']}", key=shop.buyer_key)
    assert own["supplier"] is None


def test_supplier_at_a_private_address_must_be_allowed(shop: Shop) -> None:
    """
    A supplier's address is checked against private networks unless the operator allows it.
    """
    done = shop.run("supplier", "add", "sneaky", "--base-url", shop.stub.base_url, "--json")
    assert done.returncode == 1
    assert "allow" in done.stderr.lower()
    assert shop.ask("GET", "suppliers/sneaky").status_code == 404


def test_unreachable_supplier_fails_its_test(shop: Shop) -> None:
    """
    The probe says which step failed, and the command's exit code says so too.
    """
    address = ("--base-url", "http://127.0.0.1:1/v1", "--allow-private")
    shop.tell("supplier", "add", "nowhere", *address)
    done = shop.run("supplier", "test", "nowhere")
    assert done.returncode == 1
    edited = shop.tell("supplier", "edit", "nowhere", "--base-url", shop.stub.base_url)
    assert edited["base_url"] == shop.stub.base_url
    assert shop.run("supplier", "test", "nowhere").returncode == 0


def add_twins(shop: Shop, second_stub: SupplierProcess, model: str) -> None:
    """
    Offer a model by two suppliers, unless they do already.
    """
    if shop.get("offers", model=model)["items"]:
        return
    if shop.ask("GET", "suppliers/third").status_code == 404:
        shop.post(
            "suppliers",
            name="third",
            kind="openai",
            base_url=second_stub.base_url,
            api_key="sk-second-supplier",
            allow_private=True,
        )
    shop.sell("factory", model, priority=1, upstream_model=STUB_MODEL)
    shop.post(
        "offers",
        supplier="third",
        model=model,
        tier="standard",
        supplier_share_ppm=600_000,
        priority=2,
        upstream_model=STUB_MODEL,
    )
