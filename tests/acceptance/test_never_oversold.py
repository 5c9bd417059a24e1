"""
Two hundred calls at once on money for fifty: fifty are sold, whoever asks and whoever answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Final

import openai
import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.hub_process import WAIT_TIMEOUT_S, Document, clean_environment, wait_for
from tokenworks.testing.supplier_behaviour import Behaviour, UsageShape

CLIENTS: Final = 4
CALLS_EACH: Final = 50
CALLS: Final = CLIENTS * CALLS_EACH
AFFORDABLE: Final = 50
BODY: Final[Document] = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "How much water?"}],
    "max_tokens": 25,
}


@pytest.fixture(params=[1, 2], ids=["one_gateway", "two_gateways"])
def market(request: pytest.FixtureRequest) -> Shop:
    """
    A shop of one gateway process, then the shared one of two.
    """
    return request.getfixturevalue("small_shop" if request.param == 1 else "shop")


@pytest.mark.parametrize("bound", ["balance", "limit"])
def test_two_hundred_parallel_calls_on_money_for_fifty(market: Shop, bound: str) -> None:
    """
    Exactly fifty are admitted when every answer costs as much as was held, by the money or by
    a limit; afterwards no hold is open and the books are clean.

    The supplier holds every answer until all calls are admitted or refused.
    """
    shop = market
    quoted = learn_quote(shop)
    enough = str(quoted * AFFORDABLE)
    name = f"crowd-{bound}"
    if bound == "balance":
        key = shop.add_buyer(name, enough)
    else:
        key = shop.add_buyer(name, "10")
        shop.set_limit(name, enough, per="day")
    input_tokens = int(quoted * 1_000_000) - 2 * BODY["max_tokens"]
    shop.stub.set_behaviour(
        Behaviour(gate=True, usage=UsageShape.CEILING, prompt_tokens=input_tokens)
    )
    ended: list[Document] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(run_client, shop, key, ended) for _ in range(CLIENTS)]

        def all_decided() -> bool:
            return waiting(shop) + len(ended) >= CALLS

        try:
            wait_for("all are admitted or refused", all_decided)
            assert waiting(shop) == AFFORDABLE
            held = shop.get("ledger/holds", limit=500)["items"]
            assert len(held) == AFFORDABLE
            before = Decimal(shop.get("balance", party=name)["cash"][0]["available"])
        finally:
            shop.stub.release()
        for client in clients:
            client.result(WAIT_TIMEOUT_S)

    refused = 402 if bound == "balance" else 429
    assert Counter(line["status"] for line in ended) == {
        200: AFFORDABLE,
        refused: CALLS - AFFORDABLE,
    }
    charges = [Decimal(line["charge"]) for line in ended if line["status"] == 200]
    assert charges == [quoted] * AFFORDABLE
    assert len({line["call_id"] for line in ended if line["status"] == 200}) == AFFORDABLE

    cash = shop.get("balance", party=name)["cash"][0]
    assert Decimal(cash["available"]) == before
    assert Decimal(cash["held"]) == 0
    if bound == "balance":
        assert Decimal(cash["posted"]) == 0
    else:
        assert Decimal(shop.get("limits", party=name)["items"][0]["remaining"]) == 0
    assert shop.get("ledger/holds")["items"] == []
    assert shop.get("ledger/trial-balance")["is_balanced"] is True
    shop.check_books()


def learn_quote(shop: Shop) -> Decimal:
    """
    Return what one call of the official client holds.
    """
    shop.stub.release()
    shop.stub.set_behaviour(Behaviour())
    with openai.OpenAI(base_url=shop.base_url, api_key=shop.buyer_key) as client:
        raw = client.chat.completions.with_raw_response.create(**BODY)
    return Decimal(shop.get(f"calls/{raw.headers['x-tokenworks-call-id']}")["quoted"])


def waiting(shop: Shop) -> int:
    """
    Return how many calls wait at the supplier's gate.
    """
    return int(str(shop.stub.stats()["waiting"]))


def run_client(shop: Shop, key: str, ended: list[Document]) -> None:
    """
    Run one client process; note each call as it ends.
    """
    script = Path(__file__).with_name("calling_client.py")
    options = ["--base-url", shop.base_url, "--calls", str(CALLS_EACH), "--body", json.dumps(BODY)]
    with subprocess.Popen(
        [sys.executable, str(script), *options],
        env=clean_environment({"CALLING_KEY": key}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ended.extend(json.loads(line) for line in process.stdout)
    assert process.returncode == 0
