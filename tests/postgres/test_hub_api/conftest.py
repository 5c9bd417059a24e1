"""
A hub API on a real database and the real ledger; calls and suppliers are fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.postgres.test_hub_api.fakes import FakeCalls, FakeReceipts, FakeUpstream
from tests.simulation.books import fake_time
from tokenworks.agents.services import open_agent_services
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import LiveFactory
from tokenworks.factory.live.store import FactoryStore
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.energy_calls import EnergyCalls
from tokenworks.gateway.refunding import Refunds
from tokenworks.identity.model import PLATFORM_ID, TAX_ID, Role
from tokenworks.identity.service import Identity
from tokenworks.ledger.closing import DateClosings, Sealer
from tokenworks.ledger.correcting import Corrections
from tokenworks.ledger.service import Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Pool
from tokenworks.pricing.service import PriceBook
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.reconciliation.service import Reconciliation
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.service import Supply
from tokenworks.web.hub_api.app import create_hub_api
from tokenworks.web.hub_api.services import HubServices, make_services


@dataclass(slots=True, kw_only=True)
class Hub:
    """
    A hub API, its services, and an admin's client.
    """

    services: HubServices
    calls: FakeCalls
    receipts: FakeReceipts
    upstream: FakeUpstream
    admin: httpx.AsyncClient
    client: Callable[[str], httpx.AsyncClient]
    now: datetime

    async def make(self, path: str, **body: object) -> dict[str, Any]:
        """
        Post as admin; the write must succeed.
        """
        answer = await self.admin.post(path, json=body, headers={"idempotency-key": str(uuid4())})
        assert answer.is_success, answer.text
        return answer.json()

    async def key_of(self, party: str, **body: object) -> httpx.AsyncClient:
        """
        Add a key for a party and return a client that uses it.
        """
        return self.client((await self.make("keys", party=party, **body))["secret"])


@pytest.fixture
async def ledger(
    dsn: str, pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> AsyncIterator[Ledger]:
    """
    The real ledger with its own writer.
    """
    # The clock stands still: on a slow machine it would soon be a second off the database's.
    await fake_time(dsn)
    writer = Writer(dsn, clock=clock, holder="test", rider="hub")
    await writer.start()
    ledger = Ledger(writer, pool, clock=clock, ids=ids)
    await ledger.prepare()
    await ledger.open_party(TAX_ID, "tax_authority")
    yield ledger
    await writer.close()


@pytest.fixture
async def hub(
    dsn: str, pool: Pool, clock: FakeClock, ids: IdentifierSource, ledger: Ledger
) -> AsyncIterator[Hub]:
    """
    A hub API with an admin key.
    """

    async def resolve(host: str, port: int) -> list[str]:
        return [host if host[0].isdigit() else "93.184.216.34"]

    identity = Identity(pool, clock, ids)
    supply = Supply(pool, clock, ids, SecretBox(bytes(32)), resolve=resolve)
    await supply.reload()
    corrections = Corrections(ledger, clock)
    calls, receipts, upstream = FakeCalls(), FakeReceipts(), FakeUpstream()
    receipt_keys = ReceiptKeys(pool, SecretBox(bytes(32)), clock)
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    services = make_services(
        pool=pool,
        clock=clock,
        ids=ids,
        identity=identity,
        supply=supply,
        prices=PriceBook(pool, clock, ids),
        ledger=ledger,
        corrections=corrections,
        refunds=Refunds(pool, calls=CallStore(pool, clock), ledger=ledger, clock=clock, ids=ids),
        closings=DateClosings(
            dsn,
            clock=clock,
            sealer=Sealer(sign=lambda content: f"signed:{len(content)}", certificate="test"),
        ),
        reconciliation=Reconciliation(
            pool,
            ledger=ledger,
            corrections=corrections,
            clock=clock,
            ids=ids,
            asset=USD,
            hold_days=30,
        ),
        calls=calls,
        receipts=receipts,
        upstream=upstream,
        agents=await open_agent_services(
            pool=pool,
            ledger=ledger,
            identity=identity,
            keys=receipt_keys,
            clock=clock,
            ids=ids,
            calls=CallStore(pool, clock),
            box=SecretBox(bytes(32)),
        ),
        factory=LiveFactory(store, clock, ids),
        energy_proofs=EnergyProofs(
            store,
            EnergyCalls(
                pool,
                calls=CallStore(pool, clock),
                ledger=ledger,
                issuer=ReceiptIssuer(receipt_keys, bytes(32)),
            ),
            receipt_keys,
            clock,
        ),
    )
    app = create_hub_api(services)
    _, secret = await identity.add_key(PLATFORM_ID, role=Role.ADMIN, label="test")
    clients: list[httpx.AsyncClient] = []

    def client(key: str) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False),
            base_url="http://hub/hub/v1/",
            headers={"authorization": f"Bearer {key}"},
        )
        clients.append(made)
        return made

    yield Hub(
        services=services,
        calls=calls,
        receipts=receipts,
        upstream=upstream,
        admin=client(secret),
        client=client,
        now=clock.now(),
    )
    for made in clients:
        await made.aclose()
