"""
A hub on a PostgreSQL of the operator's own, by ``TOKENWORKS_DATABASE_URL``.

``make test-postgres15`` runs this on Debian's PostgreSQL 15, otherwise it is the wheel's.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.acceptance.conftest import STUB_MODEL, Shop, open_shop
from tests.acceptance.hub_process import data_directory, run_command

CALL: Final = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 5,
}


@pytest.fixture
def external(server_dsn: str) -> Iterator[dict[str, str]]:
    """
    The settings of a hub with a database on a server that it does not run.
    """
    name = f"hub_{uuid.uuid4().hex}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield {
        "TOKENWORKS_DATABASE_URL": conninfo.make_conninfo(server_dsn, dbname=name),
        "TOKENWORKS_POSTING_DATABASE_URL": conninfo.make_conninfo(
            server_dsn, dbname=name, user="tokenworks_posting"
        ),
    }
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def check_books(environment: dict[str, str]) -> None:
    """
    Run the check of the books; it must find them clean.
    """
    done = run_command("ledger", "check", "--json", environment=environment)
    assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"


def test_hub_sells_on_a_database_of_the_operators_own(external: dict[str, str]) -> None:
    """
    Plain calls and streams are charged, a limit refuses, the books are clean while the hub runs
    and after; a second start finds them, and starts no server of its own.
    """
    with (
        data_directory() as directory,
        open_shop(directory, workers=2, environment=external) as shop,
    ):
        assert "postgres" not in shop.children()
        charges = [sell(shop) for _ in range(5)]
        with shop.stream(shop.buyer_key, {**CALL, "stream": True}) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        shop.set_limit("buyer", "0", per="day")
        refused = shop.chat(shop.buyer_key, CALL)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
        check_books(external)
        calls = shop.all_calls(party="buyer")
        spent = sum((Decimal(call["charge"]) for call in calls), Decimal(0))
        assert spent > sum(charges)
        shop.stop()
        check_books(external)
        shop.start()
        cash = shop.get("balance", party="buyer")["cash"][0]
        assert Decimal(cash["posted"]) == Decimal(10) - spent
        assert not (directory / "postgres").exists()


def sell(shop: Shop) -> Decimal:
    """
    Make a call; return its charge.
    """
    answer = shop.chat(shop.buyer_key, CALL)
    assert answer.status_code == 200, answer.text
    return Decimal(answer.headers["x-tokenworks-charge"])


def test_secrets_of_the_connection_string_are_not_shown() -> None:
    """
    ``config show`` names where the database is, never its password.
    """
    environment = {"TOKENWORKS_DATABASE_URL": "host=a,b user=owner password='hunter 2' dbname=x"}
    shown = run_command("config", "show", "--json", environment=environment)
    assert json.loads(shown.stdout)
    assert "hunter" not in shown.stdout
    assert "host=a,b" in shown.stdout
