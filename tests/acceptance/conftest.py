"""
Hubs for the acceptance tests: one with the real model, one with a stub as supplier.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.hub_process import Document, HubProcess, data_directory
from tokenworks.testing.supplier_process import SupplierProcess, running_supplier

STUB_MODEL: Final = "stub-model"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark every test of this folder.
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.acceptance)


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
    with data_directory() as directory, open_shop(directory, workers=2) as hub:
        yield hub


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
    Open a business by commands only: a stub as supplier, a price, a buyer named ``buyer``.
    """
    arguments = ("--no-console", "--workers", str(workers))
    with running_supplier() as stub, Shop(directory, *arguments, environment=environment) as hub:
        hub.stub = stub
        hub.add_admin()
        address = ("--kind", "openai", "--base-url", stub.base_url, "--allow-private")
        hub.tell("supplier", "add", "factory", *address)
        share = ("--tier", "standard", "--supplier-share", "600000")
        hub.tell("offer", "add", "factory", STUB_MODEL, *share)
        prices = ("--tier", "standard", "--input", "1", "--output", "2")
        hub.tell("price", "set", STUB_MODEL, *prices)
        hub.tell("party", "add", "buyer", "--kind", "buyer")
        hub.tell("deposit", "buyer", "10")
        hub.buyer_key = str(hub.tell("key", "add", "buyer")["secret"])
        yield hub
