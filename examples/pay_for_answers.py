"""
An agent with a wallet buys three answers by x402, without an API key, and prints what it paid.

    make run                                      # in another terminal
    .venv/bin/python examples/pay_for_answers.py      # or: pay_for_answers.py DATA/demo.json

The owner's part (an API key, once): add an agent with the wallet's address, and a mandate. From
then on the agent signs, within its mandate and within the cap of its own process.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import httpx

from tokenworks.sdk import HubClient, SpendCap, SpendCapError, Wallet

DEMO_FILE = ".tokenworks/demo.json"
QUESTIONS = ("What is water?", "What is a ledger?", "Who pays for tokens?")


def main() -> int:
    """
    Hire an agent, let it buy, and say what it cost.
    """
    demo_file = Path(sys.argv[1] if len(sys.argv) > 1 else DEMO_FILE)
    demo: dict[str, str] = json.loads(demo_file.read_text(encoding="utf-8"))
    hub_url = demo["base_url"].removesuffix("/v1")
    wallet = Wallet.generate()  # its key never leaves this process; Wallet.save would keep it
    hire(hub_url, demo["buyer_key"], wallet)

    cap = SpendCap(per_payment="0.01", total="0.02")
    with HubClient(hub_url, wallet, cap=cap) as hub:
        for question in QUESTIONS:
            messages = [{"role": "user", "content": question}]
            quote = hub.quote_model(demo["model"], messages, max_tokens=24)
            answer = hub.call_model(demo["model"], messages, max_tokens=24)
            print(f"{question}\n  {answer.text.strip()}")
            print(
                f"  -- signed for {quote.amount:f}, paid {answer.charge:f} {quote.currency}, "
                f"payment {answer.settlement.transaction}\n"
            )
        print(f"the agent paid {cap.spent:f} {cap.asset} for {len(QUESTIONS)} answers")
        for mandate in hub.mandates():
            for limit in hub.mandate(mandate["mandate_id"])["limits"]:
                left = f"{limit['remaining']} of {limit['amount']}"
                print(f"its mandate leaves {left} {limit['unit']} per {limit['per']}")
        try:
            hub.call_model(demo["model"], [{"role": "user", "content": "?" * 20_000}])
        except SpendCapError as refusal:
            print(f"and what is too dear is not signed: {refusal}")
    return 0


def hire(hub_url: str, owner_key: str, wallet: Wallet) -> None:
    """
    Do the owner's part: an agent below the key's party, its wallet, its mandate.
    """
    with httpx.Client(base_url=f"{hub_url}/hub/v1", timeout=30) as api:
        api.headers["authorization"] = f"Bearer {owner_key}"
        owner = api.get("/whoami").raise_for_status().json()["party"]["name"]
        name = f"answer-bot-{uuid.uuid4().hex[:8]}"
        agent = {"name": name, "owner": owner, "public_key": wallet.address}
        post(api, "/agents", agent)
        terms = {
            "amount_max": "0.01",
            "budgets": [{"window": "day", "amount": "0.05"}],
            "counts": [{"window": "hour", "payments": 100}],
        }
        post(api, "/mandates", {"agent": name, "terms": terms, "label": "buys answers"})


def post(api: httpx.Client, path: str, body: Mapping[str, object]) -> None:
    """
    Make something once, however often this is sent.
    """
    headers = {"idempotency-key": uuid.uuid4().hex}
    api.post(path, json=body, headers=headers).raise_for_status()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not there: start a hub (`make run`), or name its demo.json")
    except httpx.ConnectError:
        sys.exit("no hub answers at the address in demo.json: start it with `make run`")
