"""
Receipts: the same again from every door, and provable without the hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.conftest import STUB_MODEL, Demo, Shop
from tests.acceptance.hub_process import Document, run_command
from tests.acceptance.test_x402_clients import hire, post
from tokenworks.sdk import HubClient, SpendCap

BODY: Final[Document] = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 6,
}
MARKER: Final = ": tokenworks-receipt "


@pytest.fixture
def keys_file(shop: Shop, tmp_path: Path) -> Path:
    """
    The hub's public keys, saved once.
    """
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(shop.tell("receipt", "keys")))
    return file


def verify(*files: Path, keys: Path) -> tuple[int, list[Document]]:
    """
    Check receipts without any hub; return the exit code and the findings.
    """
    paths = [str(file) for file in files]
    done = run_command("receipt", "verify", *paths, "--keys", str(keys), "--json")
    return done.returncode, json.loads(done.stdout)["items"]


def test_receipt_is_the_same_from_answer_stream_and_command(
    shop: Shop, keys_file: Path, tmp_path: Path
) -> None:
    """
    The stream's comment line, the API and the command give one signed record; each verifies
    offline, as it was saved.
    """
    streamed = shop.chat(shop.buyer_key, {**BODY, "stream": True})
    call_id = streamed.headers["x-tokenworks-call-id"]
    lines = [line for line in streamed.text.splitlines() if line.startswith(MARKER)]
    from_stream = json.loads(lines[0].removeprefix(MARKER))
    from_api = shop.get(f"receipts/{call_id}", key=shop.buyer_key)
    shown = shop.run("receipt", "show", call_id, key=shop.buyer_key)
    from_command = json.loads(shown.stdout)
    assert from_api["jws"] == from_stream["jws"] == from_command["jws"]
    for name in ("call_id", "charge", "usage", "model", "tier", "view"):
        assert from_api["receipt"][name] == from_stream["receipt"][name]

    (tmp_path / "stream.txt").write_text(streamed.text)
    (tmp_path / "api.json").write_text(json.dumps(from_api))
    (tmp_path / "command.json").write_text(shown.stdout)
    files = [tmp_path / name for name in ("stream.txt", "api.json", "command.json")]
    code, found = verify(*files, keys=keys_file)
    assert code == 0
    assert [row["call_id"] for row in found] == [call_id] * 3


def test_demo_file_is_all_a_buyer_needs_to_verify(demo: Demo, tmp_path: Path) -> None:
    """
    With the root key in `demo.json` alone, receipts saved from the API and from a stream prove
    themselves.
    """
    body = {**BODY, "model": "smollm2"}
    plain = demo.chat(demo.buyer_key, body)
    call_id = plain.headers["x-tokenworks-call-id"]
    (tmp_path / "api.json").write_text(json.dumps(demo.get(f"receipts/{call_id}")))
    code, _ = verify(tmp_path / "api.json", keys=demo.file)
    assert code == 0

    streamed = demo.chat(demo.buyer_key, {**body, "stream": True})
    (tmp_path / "stream.txt").write_text(streamed.text)
    code, found = verify(tmp_path / "stream.txt", keys=demo.file)
    assert code == 0, found


def test_tampered_receipt_is_not_good(shop: Shop, keys_file: Path, tmp_path: Path) -> None:
    """
    Another charge, another call, another signature: exit 1, with the reason.
    """
    call_id = shop.chat(shop.buyer_key, BODY).headers["x-tokenworks-call-id"]
    good = shop.get(f"receipts/{call_id}", key=shop.buyer_key)
    head, payload, signature = good["jws"].split(".")
    forged: dict[str, Any] = {
        "charge": {**good, "receipt": {**good["receipt"], "charge": "0.000001"}},
        "call": {**good, "receipt": {**good["receipt"], "call_id": call_id[::-1]}},
        "signature": {**good, "jws": f"{head}.{payload}.{'A' * len(signature)}"},
    }
    for name, document in forged.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document))
        code, found = verify(file, keys=keys_file)
        assert code == 1, name
        assert found[0]["ok"] is False
        assert found[0]["problems"][0]["code"]


def test_everyone_sees_their_own_view(shop: Shop) -> None:
    """
    The buyer sees no leg and no supplier; the operator sees all; a stranger sees nothing.
    """
    call_id = shop.chat(shop.buyer_key, BODY).headers["x-tokenworks-call-id"]
    own = shop.get(f"receipts/{call_id}", key=shop.buyer_key)["receipt"]
    full = shop.get(f"receipts/{call_id}")["receipt"]
    assert own["view"] == "buyer"
    assert full["view"] == "auditor"
    assert not [name for name in own if name.startswith(("leg.", "attempt."))]
    assert "factory" not in json.dumps(own)
    legs = [value for name, value in full.items() if name.startswith("leg.")]
    assert {leg["kind"] for leg in legs} >= {"platform", "supplier"}
    assert full["attempt.1"]["supplier_name"] == "factory"
    same = shop.get(f"receipts/{call_id}", view="buyer")["receipt"]
    assert same["charge"] == own["charge"]

    stranger = shop.add_buyer(f"stranger-{call_id[-6:]}", None)
    for path in (f"receipts/{call_id}", f"calls/{call_id}"):
        assert shop.ask("GET", path, key=stranger).status_code == 404
    for path in ("ledger/trial-balance", f"ledger/entries/{call_id}", "flow"):
        assert shop.ask("GET", path, key=shop.buyer_key).status_code == 403

    supplier_key = shop.post("keys", party="factory")["secret"]
    seen = shop.get(f"receipts/{call_id}", key=supplier_key)["receipt"]
    assert seen["view"].startswith("supplier:")
    assert "charge" not in seen
    assert seen["attempt.1"]["supplier_name"] == "factory"


def test_exported_receipts_form_an_unbroken_chain(
    shop: Shop, keys_file: Path, tmp_path: Path
) -> None:
    """
    All receipts, as JSON lines: every signature and every link holds; without one of them
    the gap shows, and a swapped one breaks the chain.
    """
    for _ in range(6):
        shop.chat(shop.buyer_key, BODY)
    agent = hire(shop, "buyer", budgets=[{"window": "ever", "amount": "0.1"}])
    payee = post(shop, "parties", None, name=f"payee-{agent.name}", kind="supplier")["party_id"]
    with HubClient(shop.url, agent.wallet, cap=SpendCap(per_payment="0.1")) as hub:
        paid = hub.pay(payee, "0.001").transaction
    file = tmp_path / "receipts.jsonl"
    done = shop.run("receipt", "export", "-o", str(file))
    assert done.returncode == 0, done.stderr
    lines = file.read_text().splitlines()
    calls = {call["call_id"] for call in shop.all_calls() if call["status"] == "settled"}
    exported = [json.loads(line)["receipt"]["call_id"] for line in lines]
    assert sorted(one for one in exported if one in calls) == sorted(calls), "each call once"
    others = set(exported) - calls
    assert paid in others
    assert all(shop.ask("GET", f"payments/{one}").is_success for one in others)
    code, found = verify(file, keys=keys_file)
    assert code == 0
    assert len(found) == len(lines)
    assert not any(row["notes"] for row in found)

    file.write_text("\n".join(lines[:2] + lines[4:]))
    code, found = verify(file, keys=keys_file)
    assert code == 0
    assert any(row["notes"] for row in found)
