"""
A small business behind a whole hub, for tests of the life of a call.

One organisation with money, a team, a user and a key; two suppliers (SIMULATED, in this
process) that offer the same model, the first one preferred; every leg of a split has an
owner. The hub connects as the posting role, as in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

import httpx
import psycopg
import uvicorn
from psycopg import conninfo, sql

from tests.patience import PATIENCE_S, until
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.money import USD, Amount, quanta_from_text
from tokenworks.gateway.ended_calls import CallFilter, CallRow
from tokenworks.gateway.holding import CallRules
from tokenworks.gateway.open_call import Quote
from tokenworks.identity.model import ApiKey, Party, PartyKind, Role
from tokenworks.ledger.check import check_books
from tokenworks.ledger.model import AccountBalance
from tokenworks.pricing.rating import ceiling
from tokenworks.pricing.tiers import load_tiers
from tokenworks.settings import Settings
from tokenworks.supply.costing import share_card
from tokenworks.supply.model import Offer, OfferTerms, Split, Supplier, Timeouts
from tokenworks.testing.supplier_stub import Behaviour, SupplierStub
from tokenworks.web.openai_api.app import OpenAiApi

UPSTREAM_MODEL: Final = "vendor/tiny-1b"
TIERS: Final = ("free", "standard", "premium")
DOLLAR: Final = 10**9
SUPPLIER_KEY: Final = "sk-rig-supplier-credential-0123456789"
POSTING_ROLE: Final = "tokenworks_posting"
CONTEXT_TOKENS: Final = 8_192

HELLO: Final = ({"role": "user", "content": "Say hello to the auditor."},)


@dataclass(kw_only=True)
class Rig:
    """
    The hub, its door, its suppliers, its buyer, and words for what tests do with them.
    """

    plant: Plant
    dsn: str
    hub: Hub
    door: OpenAiApi
    first: SupplierStub
    second: SupplierStub
    model: str
    offers: dict[tuple[str, str], Offer]
    """By (supplier name, tier)."""
    organisation: Party
    team: Party
    user: Party
    key: ApiKey
    secret: str
    client: httpx.AsyncClient
    deposited: int = 0
    _references: list[str] = field(default_factory=list[str])
    _odd: list[OddSupplier] = field(default_factory=list["OddSupplier"])
    _is_impatient: bool = False

    # ------------------------------------------------------------------ asking

    async def ask(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> httpx.Response:
        """
        Post a chat completion; members go over a plain request for the rig's model.
        """
        request: dict[str, Any] = {"model": self.model, "messages": list(HELLO), "max_tokens": 40}
        request |= {**(body or {}), **members}
        given = {name: value for name, value in request.items() if value is not ...}
        return await self.post(json.dumps(given).encode(), secret=secret, headers=headers)

    async def post(
        self,
        body: bytes,
        *,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """
        Post bytes to the completions door.
        """
        return await self.client.post(
            "/v1/chat/completions",
            content=body,
            headers={
                "authorization": f"Bearer {secret or self.secret}",
                "content-type": "application/json",
                **(headers or {}),
            },
        )

    async def ask_first_directly(self, body: bytes) -> bytes:
        """
        Ask the first supplier directly, as the hub would; return its answer's bytes.
        """
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            answer = await client.post(
                f"{self.first.base_url}/chat/completions",
                content=body,
                headers={"authorization": f"Bearer {SUPPLIER_KEY}"},
            )
        return answer.content

    async def quote(self, body: bytes) -> Quote:
        """
        Return what a call at the standard price would be held for, without holding money.
        """
        principal = await self.hub.identity.authenticate(self.secret)
        free = body.replace(self.model.encode(), f"{self.model}@free".encode(), 1)
        call = await self.hub.gateway.open(principal, free)
        await self.hub.ledger.void(call.call_id, reason="only asked")
        card = (await self.hub.prices.snapshot()).card(self.model, "standard", SystemClock().now())
        quote = call.quote
        quote.input_tokens -= len(free) - len(body)
        quote.quanta = ceiling(card, quote.input_tokens, quote.output_tokens)
        return quote

    # ------------------------------------------------------------------ setting up

    async def deposit(self, quanta: int) -> None:
        """
        Pay the organisation's money in.
        """
        reference = f"{self.organisation.name}-{len(self._references)}"
        self._references.append(reference)
        await self.hub.ledger.deposit(
            party_id=self.organisation.party_id,
            amount=Amount(quanta=quanta, asset=USD),
            rail="bank",
            reference=reference,
            actor="test",
        )
        self.deposited += quanta

    async def add_key(self, **options: Any) -> tuple[ApiKey, str]:  # noqa: ANN401 - as the service
        """
        Add another key of the user.
        """
        return await self.hub.opening.add_key(self.user.party_id, role=Role.BUYER, **options)

    async def add_odd_supplier(self, answer: Mapping[str, Any]) -> None:
        """
        Add a supplier, preferred to the others, that gives one answer to everything.
        """
        odd = OddSupplier(json.dumps(answer).encode())
        await odd.start()
        self._odd.append(odd)
        name = f"odd-{self.plant.businesses}"
        supplier = await _add_supplier(self.hub, name, odd.base_url)
        terms = OfferTerms(
            upstream_model=UPSTREAM_MODEL,
            cost_card=share_card(600_000),
            split=self.plant.split,
            priority=0,
        )
        await self.hub.supply.add_offer(
            supplier.supplier_id, model=self.model, tier="standard", terms=terms
        )

    async def be_impatient(self, **timeouts_ms: int) -> None:
        """
        Wait a moment only for the first supplier, where it is made to hang, until the business
        is closed. Whoever is healthy has the time that the machine needs.
        """
        self._is_impatient = True
        await self._set_timeouts(Timeouts(**timeouts_ms))

    async def _set_timeouts(self, timeouts: Timeouts) -> None:
        first = self.plant.suppliers[0].supplier_id
        await self.hub.supply.edit_supplier(first, timeouts=timeouts)

    async def close(self) -> None:
        """
        Stop what only this business had.
        """
        if self._is_impatient:
            await self._set_timeouts(Timeouts())
        for odd in self._odd:
            await odd.close()

    def set_rules(self, **changes: float) -> None:
        """
        Change the operator's settings about calls.
        """
        self.hub.gateway.holding.rules = replace(self.hub.gateway.holding.rules, **changes)

    # ------------------------------------------------------------------ looking

    async def calls(self) -> list[CallRow]:
        """
        Return every ended call in full, the oldest first.
        """
        rows, _ = await self.hub.calls.list_calls(
            CallFilter(organisation_id=self.organisation.party_id), None, 500
        )
        found = [await self.hub.calls.get_call(row.call_id) for row in reversed(rows)]
        return [row for row in found if row is not None]

    async def call(self) -> CallRow:
        """
        Return the only call there is.
        """
        (row,) = await self.calls()
        return row

    async def account(self, party_id: UUID, purpose: str, asset: str = "USD") -> AccountBalance:
        """
        Return one account of a party.
        """
        balances = await self.hub.ledger.balances(party_id)
        return next(b for b in balances if b.purpose == purpose and b.asset == asset)

    async def cash(self) -> AccountBalance:
        """
        Return the organisation's money.
        """
        return await self.account(self.organisation.party_id, "cash")

    async def attempts(self, call_id: UUID) -> list[tuple[int, UUID]]:
        """
        Return the noted second and later attempts of a call: ordinal, offer.
        """
        async with self.hub.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT ordinal, offer_id FROM gateway.attempts WHERE call_id = %s ORDER BY 1",
                (call_id,),
            )
            return [(row[0], row[1]) for row in await cursor.fetchall()]

    async def expire_one(self) -> None:
        """
        Return when the worker's job has expired a hold, without its grace.
        """
        await until(
            lambda: self.hub.ledger.expire_due(grace=timedelta(0)), otherwise="no hold expires"
        )

    async def quiet(self) -> None:
        """
        Return when no hold is open any more: what runs behind an answer has ended.
        """

        async def is_quiet() -> bool:
            return not await self.hub.ledger.open_holds()

        await until(is_quiet, otherwise="a hold stays open")

    async def audit(self, *, open_holds: int = 0) -> None:
        """
        Check that the books agree with themselves, with the calls and with the buyer's money.
        """
        trial = await self.hub.ledger.trial_balance()
        assert trial.is_balanced, trial
        holds = await self.hub.ledger.open_holds()
        assert len(holds) == open_holds, holds
        calls = await self.calls()
        cash = await self.cash()
        charged = sum(call.charge_quanta for call in calls)
        assert charged == cash.debits_posted, "charges are what left the buyer's cash"
        assert cash.credits_posted == self.deposited
        if not open_holds:
            assert cash.debits_pending == 0, "nothing stays reserved"
        for call in calls:
            self._audit_call(call)
        report = await check_books(self.dsn, clock=SystemClock())
        assert not report.problems, report.problems
        assert not report.omitted

    def _audit_call(self, call: CallRow) -> None:
        if call.receipt is None:
            assert call.status == "failed"
            assert call.charge_quanta == 0
            return
        receipt = call.receipt
        charge, overrun = nano(receipt["charge"]), nano(receipt["overrun"])
        legs = [value for name, value in receipt.items() if name.startswith("leg.")]
        sale = [leg for leg in legs if leg["kind"] not in {"supplier", "power"}]
        assert charge == call.charge_quanta
        assert sum(nano(leg["amount"]) for leg in sale) == charge + overrun
        assert len(call.attempts) == call.attempt_count, "every attempt is on the receipt"
        payable = sum(nano(leg["amount"]) for leg in legs if leg not in sale)
        assert payable == call.payable_quanta


def nano(text: str) -> int:
    """
    Return decimal dollars in quanta.
    """
    return quanta_from_text(text, scale=USD.scale)


# ---------------------------------------------------------------------- streams


@dataclass(frozen=True, kw_only=True)
class Heard:
    """
    What a client of a stream saw, taken apart.
    """

    raw: bytes
    chunks: list[dict[str, Any]]
    receipt: dict[str, Any] | None
    is_done: bool
    error: dict[str, Any] | None

    @property
    def text(self) -> str:
        """
        Return the words of the first choice.
        """
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["index"] == 0
        )

    @property
    def finish_reasons(self) -> list[str]:
        """
        Return every reason for which a choice ended.
        """
        return [
            choice["finish_reason"]
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["finish_reason"] is not None
        ]


def heard(raw: bytes) -> Heard:
    """
    Take a whole stream apart.
    """
    chunks: list[dict[str, Any]] = []
    receipt: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_done = False
    for event in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        said = b"".join(line.removeprefix(b"data:") for line in lines).strip()
        if event.startswith(b": tokenworks-receipt "):
            assert not is_done, "the receipt stands before [DONE]"
            assert receipt is None, "there is one receipt"
            receipt = json.loads(event.removeprefix(b": tokenworks-receipt "))
        elif said == b"[DONE]":
            is_done = True
        elif said:
            data = json.loads(said)
            if "error" in data:
                error = data["error"]
            else:
                chunks.append(data)
    return Heard(raw=raw, chunks=chunks, receipt=receipt, is_done=is_done, error=error)


# ---------------------------------------------------------------------- an odd supplier


def completion(*, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """
    Return a plain answer that reports any usage at all.
    """
    return {
        "id": "chatcmpl-odd",
        "object": "chat.completion",
        "created": 1,
        "model": UPSTREAM_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "short"},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


class OddSupplier:
    """
    A SIMULATED supplier that says the same whatever it is asked, then closes.
    """

    def __init__(self, body: bytes) -> None:
        self._answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._server: asyncio.Server | None = None
        self.base_url = ""

    async def start(self) -> None:
        """
        Listen on a free port.
        """
        self._server = await asyncio.start_server(self._say, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"

    async def close(self) -> None:
        """
        Stop listening.
        """
        assert self._server is not None, "it was started"
        self._server.close()
        await self._server.wait_closed()

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)
        writer.write(self._answer)
        await writer.drain()
        writer.close()


# ---------------------------------------------------------------------- opening


@dataclass(kw_only=True)
class Plant:
    """
    An open hub with its suppliers; several businesses may run on it, one after the other.
    """

    dsn: str
    hub: Hub
    door: OpenAiApi
    stubs: Sequence[SupplierStub]
    suppliers: Sequence[Supplier]
    split: Split
    businesses: int = 0


@contextlib.asynccontextmanager
async def open_plant(dsn: str, data_dir: Path) -> AsyncGenerator[Plant]:
    """
    Open a hub and two suppliers on a fresh database.
    """
    posting = conninfo.make_conninfo(dsn, user=POSTING_ROLE)
    async with contextlib.AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(SupplierStub(api_key=SUPPLIER_KEY)) for _ in range(2)
        ]
        hub = await stack.enter_async_context(
            open_hub(Settings(data_dir=data_dir), posting, name="test")
        )
        door = OpenAiApi(
            gateway=hub.gateway,
            streamer=hub.streamer,
            identity=hub.identity,
            metrics=hub.metrics,
        )
        suppliers = [
            await _add_supplier(hub, name, stub.base_url)
            for name, stub in zip(("north", "south"), stubs, strict=True)
        ]
        yield Plant(
            dsn=dsn,
            hub=hub,
            door=door,
            stubs=stubs,
            suppliers=suppliers,
            split=await _open_split(hub),
        )
        await door.close()


async def _add_supplier(hub: Hub, name: str, base_url: str) -> Supplier:
    party = await hub.opening.add_party(name, kind=PartyKind.SUPPLIER)
    return await hub.supply.add_supplier(
        name,
        party_id=party.party_id,
        base_url=base_url,
        api_key=SUPPLIER_KEY,
        allow_private=True,
    )


async def _open_split(hub: Hub) -> Split:
    power = await hub.opening.add_party("river", kind=PartyKind.POWER_PRODUCER)
    rights = await hub.opening.add_party("library", kind=PartyKind.RIGHTS_HOLDER)
    reseller = await hub.opening.add_party("shop", kind=PartyKind.RESELLER)
    return Split(
        tax_ppm=80_000,
        reseller_ppm=30_000,
        reseller_id=reseller.party_id,
        rights_ppm=20_000,
        rights_id=rights.party_id,
        power_ppm=250_000,
        power_id=power.party_id,
    )


@contextlib.asynccontextmanager
async def open_business(plant: Plant, *, deposit: int = 10 * DOLLAR) -> AsyncGenerator[Rig]:
    """
    Open a buyer, a model and its offers of their own; suppliers and hub behave as new.
    """
    hub = plant.hub
    plant.businesses += 1
    number = plant.businesses
    for stub in plant.stubs:
        stub.reset()
    hub.gateway.holding.rules = CallRules()
    hub.gateway.health.forget()
    model = f"tiny-{number}"
    offers = await _open_offers(plant, model)
    organisation = await hub.opening.add_party(f"acme-{number}", kind=PartyKind.BUYER)
    team = await hub.opening.add_party(
        f"lab-{number}", kind=PartyKind.BUYER, parent=organisation.party_id
    )
    user = await hub.opening.add_party(f"ada-{number}", kind=PartyKind.BUYER, parent=team.party_id)
    key, secret = await hub.opening.add_key(user.party_id, role=Role.BUYER, label="rig")
    address = f"2001:db8:{number:x}::1"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(plant.door, client=(address, 1)), base_url="http://hub"
    ) as client:
        rig = Rig(
            plant=plant,
            dsn=plant.dsn,
            hub=hub,
            door=plant.door,
            first=plant.stubs[0],
            second=plant.stubs[1],
            model=model,
            offers=offers,
            organisation=organisation,
            team=team,
            user=user,
            key=key,
            secret=secret,
            client=client,
        )
        if deposit:
            await rig.deposit(deposit)
        try:
            yield rig
        finally:
            await rig.close()


async def _open_offers(plant: Plant, model: str) -> dict[tuple[str, str], Offer]:
    offers: dict[tuple[str, str], Offer] = {}
    for priority, supplier in enumerate(plant.suppliers, start=1):
        terms = OfferTerms(
            upstream_model=UPSTREAM_MODEL,
            cost_card=share_card(600_000),
            split=plant.split,
            context_tokens_max=CONTEXT_TOKENS,
            priority=priority,
        )
        for tier in TIERS:
            offers[supplier.name, tier] = await plant.hub.supply.add_offer(
                supplier.supplier_id, model=model, tier=tier, terms=terms
            )
    for tier in TIERS:
        await plant.hub.prices.set_prices(model, tier, load_tiers()[tier].prices)
    return offers


@contextlib.asynccontextmanager
async def open_rig(dsn: str, data_dir: Path, *, deposit: int = 10 * DOLLAR) -> AsyncGenerator[Rig]:
    """
    Open a hub with one business in it.
    """
    async with (
        open_plant(dsn, data_dir) as plant,
        open_business(plant, deposit=deposit) as rig,
    ):
        yield rig


# ---------------------------------------------------------------------- a real socket


@contextlib.asynccontextmanager
async def serving(rig: Rig) -> AsyncGenerator[str]:
    """
    Serve the rig's door on a port of its own; yield its address.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        rig.door,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    # The test's own signal handlers stay.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


# ---------------------------------------------------------------------- an outage


class Outage:
    """
    Take one database away while its server goes on, and give it back.
    """

    def __init__(self, server_dsn: str, dsn: str) -> None:
        self._server_dsn = server_dsn
        self._name = str(conninfo.conninfo_to_dict(dsn)["dbname"])

    def begin(self) -> None:
        """
        Drop every connection and refuse new ones.
        """
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            connection.execute(self._allow("false"))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (self._name,),
            )

    def end(self) -> None:
        """
        Accept connections again.
        """
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            connection.execute(self._allow("true"))

    def _allow(self, word: LiteralString) -> sql.Composed:
        return sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
            sql.Identifier(self._name), sql.SQL(word)
        )


__all__ = [
    "CONTEXT_TOKENS",
    "DOLLAR",
    "HELLO",
    "SUPPLIER_KEY",
    "UPSTREAM_MODEL",
    "Behaviour",
    "CallRules",
    "Heard",
    "OddSupplier",
    "Outage",
    "Plant",
    "Rig",
    "completion",
    "heard",
    "nano",
    "open_business",
    "open_plant",
    "open_rig",
    "serving",
]
