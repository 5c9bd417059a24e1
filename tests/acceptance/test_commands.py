"""
The command line as operators and scripts use it: JSON, exit codes, sentences that help.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.hub_process import data_directory, run_command

NOBODY: Final = "http://127.0.0.1:1"

COMMANDS: Final = (
    ("party", "list"),
    ("key", "list"),
    ("limit", "list", "buyer"),
    ("supplier", "list"),
    ("offer", "list"),
    ("price", "list"),
    ("price", "tiers"),
    ("call", "list"),
    ("call", "spend", "--by", "day"),
    ("balance", "buyer"),
    ("ledger", "trial-balance"),
    ("ledger", "holds"),
    ("receipt", "keys"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_list_has_json_and_a_table(shop: Shop, command: tuple[str, ...]) -> None:
    """
    With ``--json`` one JSON document, without it something to read; exit code 0.
    """
    assert isinstance(shop.tell(*command, is_fork=False), dict)
    done = shop.run(*command)
    assert done.returncode == 0
    assert done.stdout.strip() or done.stderr.strip()


def test_party_limit_and_offer_have_their_whole_life(shop: Shop) -> None:
    """
    Add, show, change and end each of them by commands.
    """
    added = shop.tell("party", "add", "guild", "--kind", "buyer")
    assert shop.tell("party", "show", "guild")["party_id"] == added["party_id"]
    assert shop.tell("party", "freeze", "guild")["state"] == "frozen"
    assert shop.tell("party", "unfreeze", "guild")["state"] == "active"

    limit = shop.tell(
        "limit", "set", "guild", "12.50", "--per", "month", "--time-zone", "Asia/Tokyo"
    )
    assert (limit["amount"], limit["per"], limit["time_zone"]) == ("12.5", "month", "Asia/Tokyo")
    lower = shop.tell("limit", "set", "guild", "7", "--per", "month", "--time-zone", "Asia/Tokyo")
    listed = shop.tell("limit", "list", "guild")["items"]
    assert [row["remaining"] for row in listed] == ["7"]
    assert lower["remaining"] == "7"
    shop.tell("limit", "remove", "guild", "--per", "month")
    assert shop.tell("limit", "list", "guild")["items"] == []

    offer = shop.tell("offer", "add", "factory", "relic", "--tier", "free", "--supplier-share", "0")
    assert offer["state"] == "active"
    edited = shop.tell("offer", "edit", offer["offer_id"], "--priority", "5")
    assert edited["priority"] == 5
    assert shop.tell("offer", "close", offer["offer_id"])["state"] == "paused"


def test_key_secret_is_shown_once(shop: Shop) -> None:
    """
    The answer to ``key add`` has it; no list, log or later answer does.
    """
    added = shop.tell("key", "add", "buyer", "--label", "once", "--expires", "30d")
    assert added["secret"].startswith(added["prefix"])
    assert len(added["secret"]) == 46
    listed = shop.run("key", "list", "--json")
    assert added["secret"] not in listed.stdout
    row = next(r for r in json.loads(listed.stdout)["items"] if r["key_id"] == added["key_id"])
    assert (row["state"], row["label"]) == ("active", "once")
    assert shop.tell("key", "revoke", added["prefix"])["state"] == "revoked"


def test_configuration_is_shown_with_its_source(shop: Shop) -> None:
    """
    Each setting names where it came from; secrets are masked.
    """
    environment = {"TOKENWORKS_PORT": "9123", "TOKENWORKS_KEY": "tw_secret_of_mine"}
    done = run_command("config", "show", "--json", environment=environment)
    assert done.returncode == 0
    assert "tw_secret_of_mine" not in done.stdout
    assert "9123" in done.stdout
    assert "TOKENWORKS_PORT" in done.stdout
    misspelt = run_command("config", "show", environment={"TOKENWORKS_PROT": "1"})
    assert misspelt.returncode == 2
    assert "TOKENWORKS_PORT" in misspelt.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("party", "show", "nobody"), 1, ("nobody",)),
        (("deposit", "nobody", "5"), 1, ("nobody",)),
        (("deposit", "buyer", "-5"), 2, ()),
        (("deposit", "buyer", "--", "-5"), 1, ("amount",)),
        (("deposit", "buyer", "five"), 1, ("amount",)),
        (("deposit", "buyer", "0.0000000001"), 1, ()),
        (("party", "add", "buyer", "--kind", "buyer"), 1, ("buyer",)),
        (("party", "add", "Bad Name", "--kind", "buyer"), 1, ("name",)),
        (("party", "add", "x", "--kind", "king"), 1, ("power_producer",)),
        (("limit", "set", "nobody", "5", "--per", "day"), 1, ("nobody",)),
        (("limit", "set", "buyer", "5", "--per", "fortnight"), 2, ("fortnight",)),
        (("limit", "set", "buyer", "5", "--per", "day", "--time-zone", "Mars"), 1, ("Mars",)),
        (("key", "add", "nobody"), 1, ("nobody",)),
        (("key", "revoke", "tw_0000000"), 2, ("tw_0000000",)),
        (
            ("offer", "add", "nobody", "m", "--tier", "standard", "--supplier-share", "1"),
            1,
            ("nobody",),
        ),
        (
            ("offer", "add", "factory", "m", "--tier", "golden", "--supplier-share", "1"),
            1,
            ("golden",),
        ),
        (("offer", "add", "factory", "m", "--tier", "standard"), 1, ()),
        (
            ("price", "set", "m", "--tier", "golden", "--input", "1", "--output", "1"),
            1,
            ("golden",),
        ),
        (
            ("price", "set", "m", "--tier", "standard", "--input", "x", "--output", "1"),
            1,
            ("input",),
        ),
        (("supplier", "pause", "nobody"), 1, ("nobody",)),
        (("call", "show", "nonsense"), 1, ()),
        (("call", "list", "--since", "yesterday"), 1, ("since",)),
        (("receipt", "show", "01a20159-2bfc-7f20-a8b6-d616b33516f8"), 1, ()),
        (("nonsense",), 2, ("nonsense",)),
    ],
    ids=lambda value: " ".join(value)[:48] if isinstance(value, tuple) else None,
)
def test_refusal_says_what_is_wrong(
    shop: Shop, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    """
    Exit 1 when the hub refuses, 2 when the command could not be run; a sentence, no traceback.
    """
    done = shop.run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_hub_that_is_not_there_is_named(tmp_path: Path) -> None:
    """
    Exit 2, where it was looked for, and what to do.
    """
    environment = {"TOKENWORKS_URL": NOBODY, "TOKENWORKS_KEY": "tw_x"}
    done = run_command("party", "list", environment=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert NOBODY in done.stderr
    assert "tokenworks up" in done.stderr
    as_json = run_command("party", "list", "--json", environment=environment, cwd=tmp_path)
    assert as_json.returncode == 2
    assert "error" in json.loads(as_json.stderr)

    admin = run_command("key", "add", "--admin", "--data", str(tmp_path / "none"))
    assert admin.returncode == 2
    check = run_command("ledger", "check", "--data", str(tmp_path / "none"), "--json")
    assert check.returncode == 2
    assert not (tmp_path / "none" / "postgres").exists(), "a check makes nothing"


def test_wrong_key_is_named_by_its_prefix_only(shop: Shop) -> None:
    """
    Exit 1; the message never repeats the key.
    """
    key = "tw_" + "B" * 43
    done = shop.run("party", "list", key=key)
    assert done.returncode == 1
    assert key not in done.stderr
    assert "tw_BBBBBBB" in done.stderr
    as_buyer = shop.run("supplier", "list", key=shop.buyer_key)
    assert as_buyer.returncode == 1
    assert "admin" in as_buyer.stderr


def test_every_command_explains_itself() -> None:
    """
    ``--help`` of every noun, and the version.
    """
    done = run_command("--version", is_fork=False)
    assert done.returncode == 0
    assert done.stdout.startswith("tokenworks ")
    listing = run_command("--help", is_fork=False).stdout
    nouns = "up party limit key deposit supplier offer price call receipt ledger config"
    for noun in nouns.split():
        assert noun in listing


def test_check_needs_a_free_directory() -> None:
    """
    A directory without books is exit 2, not clean.
    """
    with data_directory() as directory:
        directory.mkdir(parents=True)
        done = run_command("ledger", "check", "--json", "--data", str(directory))
    assert done.returncode == 2
    assert "no books" in done.stderr


def test_models_of_the_shop_are_for_sale(shop: Shop) -> None:
    """
    What the commands opened is what the buyer is offered.
    """
    answer = shop.http.get(
        f"{shop.base_url}/models", headers={"authorization": f"Bearer {shop.buyer_key}"}
    )
    names = [model["id"] for model in answer.json()["data"]]
    assert f"{STUB_MODEL}@standard" in names
