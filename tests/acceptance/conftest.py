"""
Hubs for the acceptance tests, each started once: one with the real model, the others with a
stub as supplier. A hub of a test's own costs ten seconds of a core, so tests share them, and
restart what they have stopped.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.acceptance.hub_process import Document, HubProcess, data_directory, wait_for
from tokenworks.testing.supplier_process import SupplierProcess, running_supplier

STUB_MODEL: Final = "stub-model"
TEST_TIMEOUT_S: Final = 600
STEADY_ANSWERS: Final = 20
CONNECTIONS: Final = 6
"""New connections enough to meet both gateway processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark every test of this folder; be patient where a start of a hub counts as its time.
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.acceptance)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


class Demo(HubProcess):
    """
    A hub as ``make run`` starts it.
    """

    @property
    def file(self) -> Path:
        """
        The hand-over file.
        """
        return self.data_dir / "demo.json"

    @property
    def fields(self) -> Document:
        """
        What the hand-over file says.
        """
        return json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def buyer_key(self) -> str:
        """
        The demo buyer's key.
        """
        return str(self.fields["buyer_key"])


class Shop(HubProcess):
    """
    A hub whose supplier is a stub.
    """

    stub: SupplierProcess
    buyer_key: str


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """
    The demo hub with the real model and the console; tests share it and its buyer.
    """
    with data_directory() as directory, Demo(directory, "--demo") as hub:
        hub.admin_key = str(hub.fields["admin_key"])
        yield hub


@pytest.fixture(scope="session")
def session_shop() -> Iterator[Shop]:
    """
    A hub of two gateway processes with a stub supplier, opened by commands only.
    """
    with data_directory() as directory:
        arguments = ("--no-console", "--workers", "2")
        with running_supplier() as stub, Shop(directory, *arguments) as hub:
            hub.stub = stub
            open_by_commands(hub)
            yield hub


@pytest.fixture(scope="session")
def session_fragile() -> Iterator[Shop]:
    """
    A hub of two gateway processes whose processes are killed; its books are checked at the end.
    """
    with data_directory() as directory, open_shop(directory, workers=2) as hub:
        yield hub
        hub.check_books()


@pytest.fixture
def fragile(session_fragile: Shop) -> Iterator[Shop]:
    """
    The hub that is killed, when it answers again, with a healthy supplier.
    """
    wait_for("the hub API answers", lambda: is_steady(session_fragile))
    session_fragile.stub.reset()
    yield session_fragile
    session_fragile.stub.release()


@pytest.fixture(scope="session")
def session_small_shop() -> Iterator[Shop]:
    """
    A hub of one gateway process, which tests stop and start again.
    """
    with data_directory() as directory, open_shop(directory, workers=1) as hub:
        yield hub


@pytest.fixture
def small_shop(session_small_shop: Shop) -> Iterator[Shop]:
    """
    The small hub, running, with a healthy supplier.
    """
    session_small_shop.stub.reset()
    if not session_small_shop.is_running:
        session_small_shop.stop()
        session_small_shop.start()
    yield session_small_shop
    session_small_shop.stub.release()


@pytest.fixture
def shop(session_shop: Shop) -> Iterator[Shop]:
    """
    The shared shop with a healthy supplier that has forgotten what came before.
    """
    session_shop.stub.reset()
    yield session_shop
    session_shop.stub.release()


@contextmanager
def open_shop(
    directory: Path, *, workers: int, environment: dict[str, str] | None = None
) -> Generator[Shop]:
    """
    Open a business: a stub as supplier, a price, a buyer named ``buyer`` with 10 USD.
    """
    arguments = ("--no-console", "--workers", str(workers))
    with running_supplier() as stub, Shop(directory, *arguments, environment=environment) as hub:
        hub.stub = stub
        hub.add_admin()
        address = {"kind": "openai", "base_url": stub.base_url, "allow_private": True}
        hub.post("suppliers", name="factory", **address)
        hub.sell("factory", STUB_MODEL)
        hub.buyer_key = hub.add_buyer("buyer", "10")
        yield hub


def open_by_commands(hub: Shop) -> None:
    """
    Open the same business by commands only, each as its user runs it.
    """
    hub.add_admin(is_fork=False)
    address = ("--kind", "openai", "--base-url", hub.stub.base_url, "--allow-private")
    hub.tell("supplier", "add", "factory", *address, is_fork=False)
    share = ("--tier", "standard", "--supplier-share", "600000")
    hub.tell("offer", "add", "factory", STUB_MODEL, *share, is_fork=False)
    prices = ("--tier", "standard", "--input", "1", "--output", "2")
    hub.tell("price", "set", STUB_MODEL, *prices, is_fork=False)
    hub.tell("party", "add", "buyer", "--kind", "buyer", is_fork=False)
    hub.tell("deposit", "buyer", "10", is_fork=False)
    hub.buyer_key = str(hub.tell("key", "add", "buyer", is_fork=False)["secret"])


def is_steady(hub: HubProcess, answers: int = STEADY_ANSWERS) -> bool:
    """
    Tell whether the hub API answers many times in a row: it may say 503 with Retry-After while
    its processes notice that their connections are gone.
    """
    with suppress(httpx.HTTPError):
        return all(
            hub.ask("GET", "balance", params={"party": "buyer"}).status_code == 200
            for _ in range(answers)
        )
    return False
