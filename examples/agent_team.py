"""
An agent hires three others through escrow, with real model calls, and a person holds the brake.

    make run                                      # in another terminal
    .venv/bin/python examples/agent_team.py       # or: agent_team.py DATA/demo.json

A studio's orchestrator has a budget. A guild's three agents work for it: each buys model calls
with its own money and hands in what came of them. One is paid in parts, by its metered tokens;
one fails its condition, and the studio has its money back; one asks more than the studio's rules
let pass without a person. Ledger, inbox and receipts tell the story at the end.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import httpx

from tokenworks.sdk import ChatAnswer, HubClient, HubError, SpendCap, Wallet

DEMO_FILE = ".tokenworks/demo.json"
ASK_A_PERSON_ABOVE = "0.30"
WAIT_S = 30.0

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Agent:
    """
    One agent: who it is, and its way to the hub.
    """

    name: str
    party_id: str
    hub: HubClient


def main() -> int:
    """
    Play the story; return 0 when it came out as it should.
    """
    demo_file = Path(sys.argv[1] if len(sys.argv) > 1 else DEMO_FILE)
    demo: dict[str, str] = json.loads(demo_file.read_text(encoding="utf-8"))
    hub_url = demo["base_url"].removesuffix("/v1")
    with ExitStack() as stack:
        office = stack.enter_context(Office(hub_url, demo["admin_key"]))
        studio, guild = office.open("studio", "2"), office.open("guild", "0.5")
        office.ask(
            "PUT",
            f"parties/{studio}/brake",
            {"rules": {"new_payee": {"action": "hold", "above": ASK_A_PERSON_ABOVE}}},
        )
        boss, ada, bob, cleo = (
            stack.enter_context(office.hire(name, owner, budget))
            for name, owner, budget in (
                ("orchestrator", studio, "1"),
                ("ada", guild, "0.1"),
                ("bob", guild, "0.1"),
                ("cleo", guild, "0.1"),
            )
        )
        paid_in_parts(boss.agent, ada.agent, demo["model"])
        fails(boss.agent, bob.agent, demo["model"])
        asks_a_person(office, boss.agent, cleo.agent, demo["model"])
        return tell(office, boss.agent, guild)


# ------------------------------------------------------------------ the three jobs


def paid_in_parts(boss: Agent, worker: Agent, model: str) -> None:
    """
    Two milestones: one paid whole, one by the share of the tokens that were wanted.

    The first is judged by what Ada states, the second by what the hub metered in her call.
    """
    print("1. Ada writes, in two parts")
    escrow = boss.hub.open_escrow(
        worker.party_id,
        terms(
            ("opening", "0.08", "result.http_status == 200 && result.words >= 3"),
            ("length", "0.12", "[result.metered.output, 200]"),
        ),
    )
    answer = work(worker, model, "Write about water.", max_tokens=40)
    escrow = submit(worker, escrow, "opening", result_of(answer))
    escrow = submit(worker, escrow, "length", result_of(answer), answer.settlement.transaction)
    metered = escrow["milestones"][1]["submission"]["metered"]
    print(
        f"   the hub metered {metered['output']} output tokens for {metered['charge']}"
        f" {metered['currency']} in her call"
    )
    show(escrow)


def fails(boss: Agent, worker: Agent, model: str) -> None:
    """
    Hand in a result that does not meet its condition; the worker lets go, the money is back.
    """
    print("2. Bob calculates")
    escrow = boss.hub.open_escrow(
        worker.party_id, terms(("product", "0.10", 'result.text == "391"'))
    )
    answer = work(worker, model, "What is 17 times 23? Answer with the number.", max_tokens=12)
    escrow = submit(worker, escrow, "product", result_of(answer))
    said = escrow["milestones"][0]["submission"]["verdict"]
    print(
        f"   Bob's answer was {answer.text.strip()[:40]!r}: the condition is met: {said['is_met']}"
    )
    show(worker.hub.act_on_escrow(escrow["escrow_id"], "cancel", {"reason": "I cannot do it"}))


def asks_a_person(office: Office, boss: Agent, worker: Agent, model: str) -> None:
    """
    More than the studio's rules let pass: held, approved by its owner, then as usual.
    """
    print("3. Cleo is dear")
    try:
        boss.hub.open_escrow(worker.party_id, terms(("report", "0.40", "result.words >= 3")))
    except HubError as held:
        if held.reason != "payment_in_review":
            raise
    (review,) = office.ask("GET", "reviews?state=pending")["items"]
    print(
        f"   the brake holds {review['amount']} {review['currency']} to {review['payee']['name']}:"
    )
    for reason in review["reasons"]:
        print(f"     {reason['text']}")
    office.ask(
        "POST",
        f"reviews/{review['review_id']}/approve",
        {"digest": review["digest"], "scope": "payee", "note": "known to us", "actor": "Mara"},
    )
    print(f"   approved by Mara, for the payload {review['digest'][:16]}… and no other")
    escrow = wait_until_funded(boss, review["review_id"])
    answer = work(worker, model, "Report on token prices.", max_tokens=24)
    show(submit(worker, escrow, "report", result_of(answer)))


def work(worker: Agent, model: str, task: str, *, max_tokens: int) -> ChatAnswer:
    """
    Let a worker buy a model call with its own money.
    """
    messages = [{"role": "user", "content": task}]
    answer = worker.hub.call_model(model, messages, max_tokens=max_tokens, temperature=0)
    print(f"   {worker.name} paid {answer.charge:f} USD for a model call")
    return answer


def result_of(answer: ChatAnswer) -> dict[str, object]:
    """
    Return what a worker hands in.
    """
    return {
        "http_status": 200,
        "text": answer.text.strip(),
        "words": len(answer.text.split()),
    }


def terms(*milestones: tuple[str, str, str]) -> dict[str, object]:
    """
    Return terms with these names, amounts and conditions.
    """
    return {
        "milestones": [
            {"name": name, "amount": amount, "condition": condition}
            for name, amount, condition in milestones
        ],
        "result_schema": {
            "type": "object",
            "properties": {
                "http_status": {"type": "integer"},
                "text": {"type": "string"},
                "words": {"type": "integer"},
            },
            "required": ["http_status", "text", "words"],
        },
        "submit_by": (datetime.now(UTC) + timedelta(minutes=10)).isoformat(timespec="seconds"),
        "review_window_s": 0,
        "decide_by_s": 600,
    }


def submit(
    worker: Agent, escrow: Document, milestone: str, result: Document, *calls: str
) -> Document:
    """
    Hand in a result and the calls that were made for it; it is judged when this returns.
    """
    body = {"milestone": milestone, "result": result, "calls": calls}
    return worker.hub.act_on_escrow(escrow["escrow_id"], "submit", body)


def wait_until_funded(boss: Agent, escrow_id: str) -> Document:
    """
    Return an escrow when what people approved is held.
    """
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        escrow = boss.hub.escrow(escrow_id)
        if escrow["state"] == "funded":
            return escrow
        time.sleep(0.5)
    message = f"escrow {escrow_id} was not funded within {WAIT_S:.0f} s"
    raise TimeoutError(message)


def show(escrow: Document) -> None:
    """
    Print how an escrow stands.
    """
    print(f"   {escrow['state']}: {escrow['captured']} of {escrow['amount']} USD paid")
    for milestone in escrow["milestones"]:
        decision = milestone["decision"]
        if decision is not None:
            print(f"     {milestone['name']}: {decision['amount']} ({decision['ground']})")
    print()


# ------------------------------------------------------------------ what the books say


def tell(office: Office, boss: Agent, guild: str) -> int:
    """
    Print ledger, inbox and receipts; return 0 when they agree.
    """
    print("What the books say")
    payments = [one for one in boss.hub.payments() if one["state"] == "captured"]
    for payment in payments:
        brake, document = payment["brake"], boss.hub.receipt(payment["payment_id"])
        looked_at = f"{brake['action']}, review {brake['review'] or 'none'}"
        print(
            f"   {payment['amount']} of {payment['authorised']} to {payment['payee']['name']};"
            f" brake: {looked_at}; receipt signed: {'jws' in document}"
        )
    (decided,) = office.ask("GET", f"reviews?agent={boss.name}")["items"]
    print(f"   inbox: {decided['state']}, {decided['amount']} {decided['currency']}")
    paid = sum((Decimal(one["amount"]) for one in payments), Decimal(0))
    for mandate in boss.hub.mandates():
        for limit in boss.hub.mandate(mandate["mandate_id"])["limits"]:
            print(f"   the orchestrator's budget: {limit['remaining']} of {limit['amount']} left")
    trial = office.ask("GET", "ledger/trial-balance")
    rows = [row for row in trial["rows"] if row["party"]["name"] == guild]
    cash = next(row for row in rows if row["purpose"] == "cash" and row["asset"] == "USD")
    print(f"   the guild earned {paid:f} and has {cash['balance']} after its own model calls")
    print(f"   debits = credits, client money covered: {trial['is_balanced']}")
    return 0 if trial["is_balanced"] else 1


class Office:
    """
    The operator and the owners: parties, money, mandates, the inbox.
    """

    def __init__(self, hub_url: str, key: str) -> None:
        self._hub_url = hub_url
        headers = {"authorization": f"Bearer {key}"}
        self._api = httpx.Client(base_url=f"{hub_url}/hub/v1/", headers=headers, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def ask(self, method: str, path: str, body: Document | None = None) -> Document:
        """
        Ask the hub API; a write is done once, however often it is sent.
        """
        headers = {} if body is None else {"idempotency-key": uuid.uuid4().hex}
        answer = self._api.request(method, path, json=body, headers=headers)
        if answer.is_error:
            raise RuntimeError(answer.text)
        return answer.json()

    def open(self, name: str, money: str) -> str:
        """
        Open an organisation with money; return its name.
        """
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        self.ask("POST", "parties", {"name": unique, "kind": "buyer"})
        deposit = {"party": unique, "amount": money, "rail": "demo", "reference": unique}
        self.ask("POST", "deposits", deposit)
        return unique

    def hire(self, name: str, owner: str, budget: str) -> Hired:
        """
        Add an agent with a wallet of its own and a mandate.
        """
        wallet = Wallet.generate()
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        agent = {"name": unique, "owner": owner, "public_key": wallet.address}
        made = self.ask("POST", "agents", agent)
        terms = {"budgets": [{"window": "ever", "amount": budget}]}
        self.ask("POST", "mandates", {"agent": unique, "terms": terms})
        hub = HubClient(self._hub_url, wallet, cap=SpendCap(per_payment=budget))
        return Hired(Agent(name=unique, party_id=made["party_id"], hub=hub))


class Hired:
    """
    An agent for as long as it is needed.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.hub.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not there: start a hub (`make run`), or name its demo.json")
    except httpx.ConnectError:
        sys.exit("no hub answers at the address in demo.json: start it with `make run`")
