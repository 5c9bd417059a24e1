"""
The books as buyer and operator read them: everything agrees with the charges.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.hub_process import Document, run_command, wait_for

COLUMNS: Final = (
    "call_id,started_at,ended_at,status,organisation,team,party,key_prefix,model,tier,supplier,"
    "is_stream,input_tokens,output_tokens,total_tokens,is_estimate,charge,currency,duration_ms,"
    "first_token_ms,error_code"
)


@pytest.fixture(scope="module")
def firm(session_shop: Shop) -> dict[str, str]:
    """
    An organisation with two teams and a user in each, who have made calls; their keys by user.
    """
    shop = session_shop
    shop.stub.reset()
    shop.add_buyer("firm", "5")
    keys: dict[str, str] = {}
    for team, user in (("red", "rita"), ("blue", "bob")):
        shop.post("parties", name=team, kind="buyer", parent="firm")
        keys[user] = shop.add_buyer(user, None, parent=team)
    for user, calls in (("rita", 3), ("bob", 2)):
        for index in range(calls):
            answer = shop.chat(
                keys[user],
                {
                    "model": STUB_MODEL,
                    "messages": [{"role": "user", "content": "hello"}],
                    "max_tokens": 10,
                    "stream": index == 1,
                },
            )
            assert answer.status_code == 200
    return keys


def test_balance_and_trial_balance_agree_with_the_charges(shop: Shop, firm: dict[str, str]) -> None:
    """
    The buyer's own view, the operator's trial balance and the sum of the charges are one.
    """
    charges = sum(Decimal(call["charge"]) for call in shop.all_calls(party="firm"))
    own = shop.get("balance", key=firm["rita"])
    assert own["party"]["name"] == "firm", "money belongs to the organisation"
    assert Decimal(own["cash"][0]["available"]) == 5 - charges
    trial = shop.get("ledger/trial-balance")
    assert trial["is_balanced"] is True
    assert all(total["is_balanced"] for total in trial["totals"])
    cash = [
        row
        for row in trial["rows"]
        if row["purpose"] == "cash" and row["party"] and row["party"]["name"] == "firm"
    ]
    assert Decimal(cash[0]["debits_posted"]) == charges
    assert Decimal(cash[0]["available"]) == 5 - charges
    told = shop.tell("ledger", "trial-balance")
    assert told["is_balanced"] is True


def test_all_charges_are_revenue_and_payables(shop: Shop, firm: dict[str, str]) -> None:
    """
    Over the whole hub: what buyers paid is what the sale's accounts received.
    """
    charged = sum(Decimal(call["charge"]) for call in shop.all_calls())
    received: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in shop.get("ledger/trial-balance")["rows"]:
        if row["asset"] == "USD":
            received[row["purpose"]] += Decimal(row["credits_posted"])
    sale = ("tax_payable", "reseller_payable", "rights_payable", "platform_revenue")
    assert sum(received[purpose] for purpose in sale) == charged


@pytest.mark.parametrize("by", ["team", "user", "key", "model", "tier", "day"])
def test_spend_adds_up_by_every_group(shop: Shop, firm: dict[str, str], by: str) -> None:
    """
    The groups sum to the total, and the total is the sum of the calls.
    """
    calls = shop.all_calls(party="firm")
    spend = shop.get("spend", by=by, party="firm")
    total = spend["total"]
    assert total["calls"] == len(calls) == 5
    assert Decimal(total["charge"]) == sum(Decimal(call["charge"]) for call in calls)
    assert sum(Decimal(row["charge"]) for row in spend["items"]) == Decimal(total["charge"])
    assert sum(row["total_tokens"] for row in spend["items"]) == total["total_tokens"]
    labels = {row["label"]: row["calls"] for row in spend["items"]}
    expected = {
        "team": {"red": 3, "blue": 2},
        "user": {"rita": 3, "bob": 2},
        "model": {STUB_MODEL: 5},
        "tier": {"standard": 5},
    }
    if by in expected:
        assert labels == expected[by]
    assert spend == {**shop.tell("call", "spend", "--by", by, "--party", "firm"), **since(spend)}


def since(spend: Document) -> Document:
    """
    Return the moments of a report, which move with the clock.
    """
    return {name: spend[name] for name in ("since", "until")}


def test_spend_by_day_is_todays(shop: Shop, firm: dict[str, str]) -> None:
    """
    A day is a calendar day in UTC.
    """
    days = {row["group"] for row in shop.get("spend", by="day", party="firm")["items"]}
    assert days <= {call["started_at"][:10] for call in shop.all_calls(party="firm")}


def test_calls_are_filtered(shop: Shop, firm: dict[str, str]) -> None:
    """
    By team, key, model, status and time; a buyer sees its own tree only.
    """
    assert len(shop.get("calls", team="red")["items"]) == 3
    assert len(shop.get("calls", party="bob")["items"]) == 2
    key_id = shop.get("whoami", key=firm["bob"])["key_id"]
    assert len(shop.tell("call", "list", "--by-key", key_id)["items"]) == 2
    assert shop.get("calls", party="firm", model="another")["items"] == []
    assert shop.get("calls", party="firm", status="failed")["items"] == []
    tomorrow = datetime.now(UTC).replace(year=2100).isoformat()
    assert shop.get("calls", party="firm", since=tomorrow)["items"] == []
    page = shop.get("calls", party="firm", limit=2)
    rest = shop.get("calls", party="firm", limit=10, cursor=page["next_cursor"])
    assert len(page["items"]) + len(rest["items"]) == 5
    seen = {call["organisation"]["name"] for call in shop.get("calls", key=firm["bob"])["items"]}
    assert seen == {"firm"}


def test_calls_are_written_as_csv(shop: Shop, firm: dict[str, str], tmp_path: Path) -> None:
    """
    The file has the documented columns, a line a call, and sums to the same charge.
    """
    file = tmp_path / "calls.csv"
    done = shop.run("call", "list", "--party", "firm", "--csv", str(file))
    assert done.returncode == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[0] == COLUMNS
    rows = list(csv.DictReader(io.StringIO(text)))
    calls = {call["call_id"]: call for call in shop.all_calls(party="firm")}
    assert {row["call_id"] for row in rows} == set(calls)
    for row in rows:
        assert row["charge"] == calls[row["call_id"]]["charge"]
        assert row["total_tokens"] == str(calls[row["call_id"]]["total_tokens"])
        assert row["team"] in {"red", "blue"}


def test_one_call_is_shown_in_full(shop: Shop, firm: dict[str, str]) -> None:
    """
    Lines, attempts, what was held, and the entries: the hold is closed, the rest is back.
    """
    call_id = shop.all_calls(party="firm")[0]["call_id"]
    call = shop.tell("call", "show", call_id)
    rated = sum(Decimal(line["usd_per_million"]) * line["count"] for line in call["lines"])
    assert rated / 1_000_000 == Decimal(call["charge"])
    assert Decimal(call["quoted"]) >= Decimal(call["charge"])
    entries = shop.tell("ledger", "entries", call_id)["items"]
    assert [entry["operation"] for entry in entries] == ["place", "capture"]
    for entry in entries:
        debits = sum(Decimal(leg["debit"]) for leg in entry["legs"] if leg["asset"] == "USD")
        credits = sum(Decimal(leg["credit"]) for leg in entry["legs"] if leg["asset"] == "USD")
        assert debits == credits
    assert shop.tell("ledger", "holds")["items"] == []


def test_check_of_a_running_hub_is_clean(shop: Shop, firm: dict[str, str]) -> None:
    """
    Balances rebuilt from the entries, chain, holds, debits and credits: nothing is wrong.
    """
    report = shop.check_books()
    assert report["is_clean"] is True
    assert report["problems"] == []
    assert report["counts"]["calls"] == len(shop.all_calls())


def test_check_starts_from_a_signed_checkpoint(shop: Shop, tmp_path: Path) -> None:
    """
    The worker's checkpoint carries the check; a root that was kept elsewhere must be its signer.
    """
    at = ("--data", str(shop.data_dir), "--json")

    def start() -> Document | None:
        quick = run_command("ledger", "check", *at)
        assert quick.returncode == 0, quick.stdout + quick.stderr
        found = json.loads(quick.stdout)["start"]
        return found if found["kind"] == "checkpoint" else None

    assert wait_for("the worker's first checkpoint", start)["is_signed"] is True
    kept = tmp_path / "keys.json"
    kept.write_text(shop.http.get(f"{shop.url}/.well-known/jwks.json").text)
    assert run_command("ledger", "check", "--root", str(kept), *at).returncode == 0
    stranger = tmp_path / "stranger.json"
    stranger.write_text('{"kty":"OKP","crv":"Ed25519","x":"' + "A" * 43 + '"}')
    assert run_command("ledger", "check", "--root", str(stranger), *at).returncode == 1
    nothing = run_command("ledger", "check", "--root", str(tmp_path / "none"), *at)
    assert nothing.returncode == 2


def test_archive_of_a_running_hub_leaves_young_months_alone(shop: Shop, tmp_path: Path) -> None:
    """
    Nothing is old enough; a date to come could not run; the role is the retention's.
    """
    place = ("--to", str(tmp_path / "archive"), "--data", str(shop.data_dir), "--json")
    done = run_command("ledger", "archive", "--before", "2026-01-01", *place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"months": [], "refusal": None, "open_holds": []}
    late = run_command("ledger", "archive", "--before", "2999-01-01", *place)
    assert late.returncode == 2
    assert "past" in late.stderr
    assert not (tmp_path / "archive").exists()


def test_deposit_reference_is_booked_once(shop: Shop) -> None:
    """
    A payment's own id is unique for ever: the repeat says so and moves nothing.
    """
    shop.add_buyer("payer", None)
    first = shop.tell("deposit", "payer", "12.50", "--reference", "wire-1")
    again = shop.tell("deposit", "payer", "12.50", "--reference", "wire-1")
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert again["fact_id"] == first["fact_id"]
    assert Decimal(shop.tell("balance", "payer")["cash"][0]["available"]) == Decimal("12.5")
    other = shop.run("deposit", "payer", "99", "--reference", "wire-1", "--json")
    assert other.returncode == 1
    assert Decimal(shop.tell("balance", "payer")["cash"][0]["available"]) == Decimal("12.5")
