"""
Each command sends what it was told, and shows what came back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from tokenworks.cli.call import write_lines
from tokenworks.cli.client import CommandError
from tokenworks.cli.key import parse_expiry, split_models
from tokenworks.cli.main import COMMANDS, app
from tokenworks.cli.offer import parse_costs, parse_split
from tokenworks.receipts.jws import to_jwk

UUID_TEXT = str(UUID(int=7))


@dataclass
class Wire:
    """
    What commands sent, and what they are answered.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[str, str, Any]] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """
        Answer by path; anything else is an empty page.
        """
        path = request.url.path.removeprefix("/hub/v1/")
        body = json.loads(request.content) if request.content else dict(request.url.params)
        self.sent.append((request.method, path, body))
        found = self.answers.get(path, {"items": [], "next_cursor": None})
        if isinstance(found, httpx.Response):
            return found
        return httpx.Response(200, json=found)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wire:
    """
    A hub that exists only on this wire.
    """
    wire = Wire()
    real = httpx.Client

    def client(*, transport: object, **arguments: Any) -> httpx.Client:  # noqa: ANN401 - passed on
        assert transport is None, "commands use the network"
        return real(transport=httpx.MockTransport(wire.answer), **arguments)

    monkeypatch.setattr(httpx, "Client", client)
    monkeypatch.chdir(tmp_path)
    for name in ("TOKENWORKS_URL", "TOKENWORKS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKENWORKS_KEY", "tw_test-key-secret")
    return wire


def run(*arguments: str) -> Result:
    """
    Run a command.
    """
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("command", "method", "path", "body"),
    [
        (
            "party add acme --kind buyer --parent top",
            "POST",
            "parties",
            {"name": "acme", "kind": "buyer", "parent": "top"},
        ),
        ("party freeze acme", "PATCH", "parties/acme", {"state": "frozen"}),
        ("party unfreeze acme", "PATCH", "parties/acme", {"state": "active"}),
        (
            "limit set acme 12.50 --per month",
            "POST",
            "limits",
            {"party": "acme", "amount": "12.50", "unit": "USD", "per": "month", "time_zone": "UTC"},
        ),
        *(
            (
                f"limit set acme 1 --per {window}",
                "POST",
                "limits",
                {"party": "acme", "amount": "1", "unit": "USD", "per": window, "time_zone": "UTC"},
            )
            for window in ("minute", "hour", "week", "quarter")
        ),
        ("limit remove 12", "DELETE", "limits/12", {}),
        (
            "agent add bot --owner acme --public-key KEY --label first",
            "POST",
            "agents",
            {"name": "bot", "owner": "acme", "public_key": "KEY", "label": "first"},
        ),
        ("agent freeze bot", "POST", "agents/bot/freeze", {}),
        ("agent thaw bot", "POST", "agents/bot/thaw", {}),
        ("agent wallet-revoke bot KEY", "DELETE", "agents/bot/wallets/KEY", {}),
        (
            (
                "mandate add bot --budget 5/day --budget 100/ever --count 10/hour --amount-max 0.5"
                " --payee shop --model m,n@fast --delegations 1 --label small"
            ),
            "POST",
            "mandates",
            {
                "agent": "bot",
                "terms": {
                    "budgets": [
                        {"window": "day", "amount": "5"},
                        {"window": "ever", "amount": "100"},
                    ],
                    "counts": [{"window": "hour", "payments": 10}],
                    "amount_max": "0.5",
                    "payees": ["shop"],
                    "models": ["m", "n@fast"],
                    "delegations_max": 1,
                },
                "label": "small",
            },
        ),
        ("mandate raise M 10/day", "POST", "mandates/M/raise", {"amount": "10", "window": "day"}),
        ("mandate revoke M", "POST", "mandates/M/revoke", {}),
        ("mandate freeze M", "POST", "mandates/M/freeze", {}),
        ("mandate thaw M", "POST", "mandates/M/thaw", {}),
        (
            "key add bot --mandate M",
            "POST",
            "keys",
            {"party": "bot", "label": "", "mandate": "M"},
        ),
        (
            "deposit acme 5 --reference wire-1",
            "POST",
            "deposits",
            {
                "party": "acme",
                "amount": "5",
                "currency": "USD",
                "rail": "manual",
                "reference": "wire-1",
            },
        ),
        (
            "supplier add f --kind openai --base-url https://f/v1 --allow-private --send-call-id",
            "POST",
            "suppliers",
            {
                "name": "f",
                "kind": "openai",
                "base_url": "https://f/v1",
                "allow_private": True,
                "sends_call_id": True,
            },
        ),
        (
            "supplier edit f --no-send-call-id",
            "PATCH",
            "suppliers/f",
            {"sends_call_id": False},
        ),
        ("supplier pause f", "POST", "suppliers/f/pause", {}),
        ("supplier resume f", "POST", "suppliers/f/resume", {}),
        (
            "offer add f m --tier standard --supplier-share 600000 --split rights=50000,tax=80000",
            "POST",
            "offers",
            {
                "supplier": "f",
                "model": "m",
                "tier": "standard",
                "supplier_share_ppm": 600_000,
                "split": {"rights_ppm": 50_000, "tax_ppm": 80_000},
            },
        ),
        (
            "offer add f m --tier standard --cost-input 0.1 --cost-output 0.5",
            "POST",
            "offers",
            {
                "supplier": "f",
                "model": "m",
                "tier": "standard",
                "costs": {"input": "0.1", "output": "0.5"},
            },
        ),
        (f"offer close {UUID_TEXT}", "DELETE", f"offers/{UUID_TEXT}", {}),
        (
            (
                "price set m --tier standard --input 0.75 --output 3 --cache-read 0.075"
                " --cache-write 1 --reasoning 4"
            ),
            "POST",
            "prices",
            {
                "model": "m",
                "tier": "standard",
                "prices": {
                    "input": "0.75",
                    "output": "3",
                    "cache_read": "0.075",
                    "cache_write_5m": "1",
                    "cache_write_1h": "1",
                    "reasoning": "4",
                },
            },
        ),
        (
            "key add acme --models a,b@standard --label ci",
            "POST",
            "keys",
            {"party": "acme", "label": "ci", "models": ["a", "b@standard"]},
        ),
        (f"key revoke {UUID_TEXT}", "DELETE", f"keys/{UUID_TEXT}", {}),
        (f"key rotate {UUID_TEXT}", "POST", f"keys/{UUID_TEXT}/rotate", {}),
    ],
)
def test_a_command_sends_its_write(
    wire: Wire, command: str, method: str, path: str, body: dict[str, Any]
) -> None:
    """
    The shapes of the commands are the ones that are documented.
    """
    result = run(*command.split(), "--json")

    assert result.exit_code == 0, result.output
    assert wire.sent == [(method, path, body)]


@pytest.mark.parametrize(
    "noun",
    ["party", "limit", "key", "supplier", "offer", "price", "call"],
)
def test_every_list_has_json_and_a_sentence_when_empty(wire: Wire, noun: str) -> None:
    """
    Programs get items, people get a sentence.
    """
    as_json = run(noun, "list", "--json")
    as_text = run(noun, "list")

    assert json.loads(as_json.stdout) == {"items": []}
    assert as_text.exit_code == 0
    assert as_text.stdout == ""
    assert as_text.stderr.strip()


def test_a_table_has_a_line_for_each_row(wire: Wire) -> None:
    """
    What is shown fits a pipe: one row, one line.
    """
    party = {
        "party_id": UUID_TEXT,
        "name": "acme",
        "kind": "buyer",
        "level": "organisation",
        "parent": None,
        "default_tier": "standard",
        "state": "active",
        "created_at": "2026-01-31T12:00:00.000000Z",
    }
    wire.answers["parties"] = {"items": [party] * 3, "next_cursor": None}

    lines = run("party", "list").stdout.splitlines()

    assert len(lines) == 4
    assert "2026-01-31T12:00:00Z" in lines[1]
    assert UUID_TEXT in lines[1]


def test_a_refusal_is_said_on_standard_error(wire: Wire) -> None:
    """
    Exit 1, one sentence for people, one object for programs, nothing on standard output.
    """
    problem = {"detail": "There is no party 'x'.", "code": "party_not_found"}
    wire.answers["parties/x"] = httpx.Response(404, json=problem)

    as_text = run("party", "show", "x")
    as_json = run("party", "show", "x", "--json")

    assert (as_text.exit_code, as_json.exit_code) == (1, 1)
    assert as_text.stdout == as_json.stdout == ""
    assert "There is no party 'x'." in as_text.stderr
    assert json.loads(as_json.stderr)["error"]["code"] == "party_not_found"


def test_a_suppliers_key_comes_from_the_environment(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The key is sent once and never printed; a missing variable stops the command.
    """
    monkeypatch.setenv("UPSTREAM", "sk-secret")
    arguments = ("supplier", "add", "f", "--base-url", "https://f/v1", "--api-key-env")

    sent = run(*arguments, "UPSTREAM", "--json")
    missing = run(*arguments, "NOT_SET")

    assert wire.sent[0][2]["api_key"] == "sk-secret"
    assert "sk-secret" not in sent.output
    assert missing.exit_code == 2
    assert len(wire.sent) == 1


def test_a_failed_test_of_a_supplier_is_exit_1(wire: Wire) -> None:
    """
    A script can wait for a supplier to work.
    """
    step = {"step": "models", "ok": False, "status": 500, "duration_ms": 1.0, "detail": "no"}
    wire.answers["suppliers/f/test"] = {"ok": False, "steps": [step], "models": []}

    assert run("supplier", "test", "f").exit_code == 1


def test_a_secret_is_printed_once(wire: Wire) -> None:
    """
    The secret is a result, on standard output.
    """
    wire.answers["keys"] = {"key_id": UUID_TEXT, "prefix": "tw_abc", "secret": "tw_abcdef"}

    assert "tw_abcdef" in run("key", "add", "acme").stdout


def test_a_key_is_found_by_its_prefix(wire: Wire) -> None:
    """
    What people see in a list is enough to revoke it.
    """
    row = {"key_id": UUID_TEXT, "prefix": "tw_abcdefg"}
    wire.answers["keys"] = {"items": [row], "next_cursor": None}

    found = run("key", "revoke", "tw_abcdefg", "--json")
    unknown = run("key", "revoke", "tw_zzzzzzz")

    assert found.exit_code == 0
    assert ("DELETE", f"keys/{UUID_TEXT}", {}) in wire.sent
    assert unknown.exit_code == 2


def test_calls_are_written_as_csv(wire: Wire, tmp_path: Path) -> None:
    """
    The file holds the lines the hub sent.
    """
    wire.answers["calls"] = httpx.Response(200, text="call_id,charge\r\n1,0.5\r\n")
    file = tmp_path / "calls.csv"

    result = run("call", "list", "--csv", str(file), "--model", "m")

    assert file.read_text() == "call_id,charge\n1,0.5\n"
    assert "1 calls" in result.stderr
    assert wire.sent[0][2] == {"format": "csv", "model": "m"}


def test_an_unbalanced_trial_balance_is_exit_1(wire: Wire) -> None:
    """
    The check fails when debits and credits differ.
    """
    wire.answers["ledger/trial-balance"] = {"rows": [], "totals": [], "is_balanced": False}

    assert run("ledger", "trial-balance").exit_code == 1


@dataclass
class Report:
    """
    What a check found.
    """

    is_clean: bool

    def to_json(self) -> dict[str, object]:
        """
        Return the findings.
        """
        return {"is_clean": self.is_clean}


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """
    A stand-in for the module that checks the books in the database.
    """
    return _stand_in("tokenworks.bootstrap.books", monkeypatch)


@pytest.fixture
def admin_keys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """
    A stand-in for the module that makes the first key in the database.
    """
    return _stand_in("tokenworks.bootstrap.admin_key", monkeypatch)


def _stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_ledger_reverse_sends_reason_and_actor(wire: Wire) -> None:
    """
    The reason is no option to leave out.
    """
    path = f"ledger/entries/{UUID_TEXT}/reversal"
    wire.answers[path] = {"fact_id": UUID_TEXT, "replayed": False, "owed": "0", "currency": "USD"}
    assert run("ledger", "reverse", UUID_TEXT).exit_code == 2
    assert run("ledger", "reverse", UUID_TEXT, "--reason", "typed twice").exit_code == 0
    assert wire.sent == [("POST", path, {"reason": "typed twice"})]


CLOSE: dict[str, Any] = {
    "date": "2026-11-03",
    "entries": 2,
    "rows": [{"purpose": "cash", "asset": "USD", "balance": "12.5"}],
    "totals": [{"asset": "USD", "debits": "12.5", "credits": "12.5"}],
    "statement": "{}",
    "signature": "a.b.c",
}


def test_ledger_close_prints_the_trial_balance(wire: Wire) -> None:
    """
    People see the rows, programs all that verifies them.
    """
    wire.answers["ledger/closings"] = CLOSE
    assert "12.5" in run("ledger", "close", "2026-11-03", "--actor", "ann").output
    assert wire.sent == [("POST", "ledger/closings", {"date": "2026-11-03", "actor": "ann"})]
    result = run("ledger", "close", "2026-11-03", "--json")
    assert json.loads(result.stdout)["signature"] == "a.b.c"
    wire.answers["ledger/closings"] = {"items": [CLOSE]}
    assert "2026-11-03" in run("ledger", "closes").output


def test_ledger_verify_closes_finds_what_is_not_good(wire: Wire, tmp_path: Path) -> None:
    """
    Exit 1 for a close that is not good, 2 for a file that is none; no hub is asked.
    """
    keys = tmp_path / "keys.json"
    root = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    keys.write_bytes(msgspec.json.encode(to_jwk(root)))
    file = tmp_path / "closes.json"
    file.write_text(json.dumps({"items": [CLOSE]}), encoding="utf-8")
    arguments = ("ledger", "verify-closes", str(file), "--keys", str(keys))
    assert run(*arguments).exit_code == 1
    assert json.loads(run(*arguments, "--json").stdout)["closes"] == 1
    file.write_text(json.dumps({"items": []}), encoding="utf-8")
    assert run(*arguments).exit_code == 0
    file.write_text("[]", encoding="utf-8")
    assert run(*arguments).exit_code == 2
    assert run("ledger", "verify-closes", str(tmp_path / "none")).exit_code == 2
    assert wire.sent == []


REPORT: dict[str, Any] = {
    "statement": {"statement_id": UUID_TEXT, "supplier": "north", "lines": 1, "total": "2.5"},
    "totals": [{"verdict": "matched", "day": None, "lines": 1, "billed": "2.5", "owed": "2.4"}],
    "days": [],
    "proposal": {"fact_id": UUID_TEXT, "difference": "0.1", "is_posted": False},
    "replayed": True,
}


def test_statement_import_sends_the_file_and_its_columns(wire: Wire, tmp_path: Path) -> None:
    """
    The command says what was found, that it was found before, and how to accept it.
    """
    file = tmp_path / "nov.csv"
    file.write_text("Row,Cost\na,2.5\n", encoding="utf-8")
    wire.answers["statements"] = REPORT
    result = run(
        *("statement", "import", "north", str(file), "--currency", "USD"),
        *("--map", "amount=Cost", "--map", "reference=Row", "--tolerance", "0.01"),
    )
    assert result.exit_code == 0, result.output
    assert "imported before" in result.output
    assert f"tokenworks statement accept {UUID_TEXT}" in result.output
    [(_, path, body)] = wire.sent
    assert path == "statements"
    assert body["content"] == "Row,Cost\na,2.5\n"
    assert body["columns"] == {"amount": "Cost", "reference": "Row"}
    assert (body["tolerance"], body["window_s"]) == ("0.01", 60)


def test_statement_import_lists_faulty_rows(wire: Wire, tmp_path: Path) -> None:
    """
    Whoever mends the file sees every line that the hub named.
    """
    file = tmp_path / "nov.csv"
    file.write_text("reference,amount\n", encoding="utf-8")
    rows = [{"line": n, "column": "amount", "message": "no number"} for n in (2, 7)]
    problem = {"detail": "2 rows cannot be read.", "details": {"rows": rows}}
    wire.answers["statements"] = httpx.Response(400, json=problem)
    result = run("statement", "import", "north", str(file))
    assert result.exit_code == 1
    assert "line 7, amount: no number" in result.output


@pytest.mark.parametrize("pair", ["amount", "amount=", "=x"])
def test_statement_import_refuses_what_it_cannot_send(
    wire: Wire, tmp_path: Path, pair: str
) -> None:
    """
    A mapping without both names, a file that is not there or is no text: nothing is sent.
    """
    file = tmp_path / "nov.csv"
    file.write_bytes(b"\xff\xfe")
    for arguments in ((str(file),), (str(tmp_path / "none.csv"),)):
        assert run("statement", "import", "north", *arguments).exit_code == 2
    file.write_text("reference,amount\n", encoding="utf-8")
    result = run("statement", "import", "north", str(file), "--map", pair)
    assert (result.exit_code, wire.sent) == (2, [])


def test_statement_report_and_accept(wire: Wire, tmp_path: Path) -> None:
    """
    The report is a table, JSON or a file; accepting names who did it.
    """
    path = f"statements/{UUID_TEXT}"
    wire.answers[path] = REPORT
    wire.answers[f"{path}/differences"] = httpx.Response(200, text="verdict,line\nmatched,2\n")
    wire.answers[f"{path}/accept"] = {"fact_id": UUID_TEXT, "replayed": False}
    assert "matched" in run("statement", "report", UUID_TEXT).output
    assert json.loads(run("statement", "report", UUID_TEXT, "--json").stdout) == REPORT
    csv = tmp_path / "differences.csv"
    assert run("statement", "report", UUID_TEXT, "--csv", str(csv), "--all").exit_code == 0
    assert csv.read_text(encoding="utf-8") == "verdict,line\nmatched,2\n"
    assert wire.sent[-1] == ("GET", f"{path}/differences", {"all": "true"})
    assert run("statement", "accept", UUID_TEXT, "--actor", "ann").exit_code == 0
    assert wire.sent[-1] == ("POST", f"{path}/accept", {"actor": "ann"})
    assert run("statement", "list", "--supplier", "north").exit_code == 0


def test_call_is_refunded_by_command(wire: Wire) -> None:
    """
    The platform bears it unless said otherwise; a reason is needed.
    """
    path = f"calls/{UUID_TEXT}/refunds"
    wire.answers[path] = {"call_id": UUID_TEXT, "amount": "0.5", "borne_by": "supplier"}
    assert run("call", "refund", UUID_TEXT, "0.5").exit_code == 2
    arguments = ("--reason", "late", "--borne-by", "supplier")
    assert run("call", "refund", UUID_TEXT, "0.5", *arguments).exit_code == 0
    assert wire.sent == [
        ("POST", path, {"amount": "0.5", "reason": "late", "borne_by": "supplier"})
    ]


def test_supplier_is_paid_by_command(wire: Wire) -> None:
    """
    What is payable is shown; a payment goes with its reference.
    """
    wire.answers["suppliers/north/payable"] = {"party": {"name": "north"}, "payable": "2"}
    wire.answers["suppliers/north/payouts"] = {"party": {"name": "north"}, "amount": "2"}
    assert "Payable" in run("supplier", "payable", "north").output
    assert run("supplier", "pay", "north", "2", "--reference", "p-1").exit_code == 0
    sent = {"amount": "2", "rail": "manual", "reference": "p-1"}
    assert wire.sent[-1] == ("POST", "suppliers/north/payouts", sent)


@pytest.mark.parametrize(("is_clean", "exit_code"), [(True, 0), (False, 1)])
def test_ledger_check_tells_clean_from_broken(
    wire: Wire,
    books: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    is_clean: bool,
    exit_code: int,
) -> None:
    """
    Exit 0 is clean, 1 is broken; the report is JSON on request.
    """
    seen: list[str | None] = []

    async def check_ledger(
        settings: object, *, dsn: str | None = None, full: bool, **wishes: object
    ) -> Report:
        assert not full, "asked for with --full only"
        seen.append(dsn)
        return Report(is_clean=is_clean)

    books.check_ledger = check_ledger  # type: ignore[attr-defined] - a stand-in module
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", "postgresql://books")

    result = run("ledger", "check", "--json")

    assert result.exit_code == exit_code
    assert json.loads(result.stdout) == {"is_clean": is_clean}
    assert seen == ["postgresql://books"]


def test_ledger_check_without_books_is_exit_2(wire: Wire, books: ModuleType) -> None:
    """
    A check that could not run is no finding.
    """
    books.check_ledger = None  # type: ignore[attr-defined] - a stand-in module

    assert run("ledger", "check", "--data", "nowhere").exit_code == 2


def test_the_first_admin_key_needs_no_hub(wire: Wire, admin_keys: ModuleType) -> None:
    """
    It is made in the database, and nothing goes over the wire.
    """

    @dataclass
    class Key:
        key_id: str = UUID_TEXT
        prefix: str = "tw_admin"
        role: str = "admin"

    async def create_admin_key(settings: object) -> tuple[Key, str]:
        return Key(), "tw_admin-secret"

    admin_keys.create_admin_key = create_admin_key  # type: ignore[attr-defined] - a stand-in module

    result = run("key", "add", "--admin", "--data", "d", "--json")
    wrong = run("key", "add", "acme", "--admin", "--data", "d")

    assert json.loads(result.stdout)["secret"] == "tw_admin-secret"
    assert wrong.exit_code == 2
    assert wire.sent == []


def test_splits_are_parsed() -> None:
    """
    A share is parts per million, with its party when there are several.
    """
    assert parse_split("rights=5@alice, power=7") == {
        "rights_ppm": 5,
        "rights": "alice",
        "power_ppm": 7,
    }


@pytest.mark.parametrize(
    "text", ["sugar=5", "rights", "rights=0.5", "rights=1,rights=2", "tax=1@x"]
)
def test_a_wrong_split_is_a_usage_error(text: str) -> None:
    """
    The command stops before anything is sent.
    """
    with pytest.raises(CommandError) as caught:
        parse_split(text)

    assert caught.value.exit_code == 2


def test_costs_are_gathered_by_axis() -> None:
    """
    No cost at all is no cost card.
    """
    assert parse_costs(None, None, None) is None
    assert parse_costs("1", "2", ["cache-read=0.5"]) == {
        "input": "1",
        "output": "2",
        "cache_read": "0.5",
    }
    with pytest.raises(CommandError):
        parse_costs(None, None, ["oops"])


@pytest.mark.parametrize("text", ["12h", "30d", "4w", "1y"])
def test_an_expiry_may_be_a_span(text: str) -> None:
    """
    A span counts from now; anything else goes to the hub as it is.
    """
    assert parse_expiry(text).endswith("+00:00")
    assert parse_expiry("2027-01-01") == "2027-01-01"


def test_models_may_be_repeated_or_joined() -> None:
    """
    No model means every model.
    """
    assert split_models(["a, b", "c"]) == ["a", "b", "c"]
    assert split_models(None) is None


def test_a_file_that_cannot_be_written_is_exit_2(tmp_path: Path) -> None:
    """
    The message names the file.
    """
    with pytest.raises(CommandError) as caught:
        write_lines(tmp_path / "no" / "file", ["a"])

    assert caught.value.exit_code == 2


def test_verify_needs_to_know_whom_to_trust(wire: Wire, tmp_path: Path) -> None:
    """
    Without keys nothing is verified, and that is said.
    """
    receipt = tmp_path / "r.json"
    receipt.write_text("{}")

    result = run("receipt", "verify", str(receipt))

    assert result.exit_code == 2
    assert "receipt keys" in result.stderr


def _all_commands() -> list[Callable[..., Any]]:
    import importlib

    from tokenworks.cli.main import COMMANDS

    mine = {
        "party",
        "limit",
        "key",
        "deposit",
        "balance",
        "supplier",
        "offer",
        "price",
        "call",
        "receipt",
        "statement",
        "ledger",
    }
    modules = [importlib.import_module(row.module) for row in COMMANDS if row.name in mine]
    return [
        command.callback
        for module in modules
        for command in module.app.registered_commands
        if command.callback is not None
    ]


@pytest.mark.parametrize("command", _all_commands(), ids=lambda c: f"{c.__module__}.{c.__name__}")
def test_every_command_takes_json_and_explains_itself(command: Callable[..., Any]) -> None:
    """
    ``--json`` everywhere, and a sentence in ``--help``.
    """
    assert "as_json" in command.__annotations__
    assert command.__doc__


def test_completion_is_installed_for_the_whole_command_only() -> None:
    """
    The options of the whole command are not repeated in each noun's.
    """
    assert "--install-completion" in run("--help").output
    for registration in COMMANDS:
        assert "-completion" not in run(registration.name, "--help").output, registration.name
