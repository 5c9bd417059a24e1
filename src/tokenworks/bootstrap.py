"""
Put the hub together: settings -> pools -> services -> doors.

The only module that knows everything; whatever is built here is closed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import psutil
import psycopg
import structlog
import uvicorn
from psycopg import conninfo

from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.adapters.openai_compatible.relay_client import RelayUpstream
from tokenworks.adapters.operating_system.private_file import SharedPrivateFile
from tokenworks.adapters.operating_system.process_mark import is_gone, mark_process
from tokenworks.adapters.power_meters.opening import open_source
from tokenworks.adapters.power_meters.prometheus_text import fetch_text
from tokenworks.adapters.power_meters.vllm_text import VllmText
from tokenworks.adapters.webhooks.sender import HttpWebhookSender
from tokenworks.agents.payments.store import PaymentStore
from tokenworks.agents.services import AgentServices, open_agent_services
from tokenworks.factory.live.model import SupplierMeter
from tokenworks.factory.live.posting import EnergyPosting
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import LiveFactory
from tokenworks.factory.live.store import FactoryStore
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import Clock, SystemClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS, LIMIT_TOKENS, LIMIT_USD, USD, Amount
from tokenworks.gateway.calls import CallStore, ReceiptReader
from tokenworks.gateway.energy_calls import EnergyCalls
from tokenworks.gateway.holding import CallRules
from tokenworks.gateway.orphans import Orphans
from tokenworks.gateway.ports import Upstream
from tokenworks.gateway.refunding import Refunds
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.streaming import Streamer
from tokenworks.identity.model import PLATFORM_ID, TAX_ID, ApiKey, Party, PartyKind, Role
from tokenworks.identity.service import Identity
from tokenworks.ledger.archive import ArchiveReport, archive_months
from tokenworks.ledger.check import CheckReport, check_books
from tokenworks.ledger.closing import DateClosings, Sealer
from tokenworks.ledger.correcting import Corrections
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.leases import Leases
from tokenworks.ledger.service import Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.logs import configure_logs
from tokenworks.metering.estimate import TokenCounter
from tokenworks.postgres.fence import Fence
from tokenworks.postgres.pool import Connection, Pool, connect, open_pool
from tokenworks.pricing.service import PriceBook
from tokenworks.pricing.tiers import load_tiers
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.service import ReceiptKeys, published_keys
from tokenworks.receipts.statements import is_statement_good
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.reconciliation.service import Reconciliation
from tokenworks.settings import Settings, read_runtime
from tokenworks.supply.costing import share_card
from tokenworks.supply.model import OfferTerms, Split, SupplierKind
from tokenworks.supply.secrets import SecretBox, load_master_key
from tokenworks.supply.service import Supply
from tokenworks.web.hub_api.app import create_hub_api
from tokenworks.web.hub_api.opening import Opening
from tokenworks.web.hub_api.services import make_services
from tokenworks.web.mcp.door import McpDoor
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.openai_api.app import OpenAiApi
from tokenworks.web.relaying import to_error_event
from tokenworks.web.switch import Switch
from tokenworks.web.x402_api.app import X402Api
from tokenworks.web.x402_api.selling import SellingDoor
from tokenworks.worker.jobs import Worker, months_before
from tokenworks.worker.metering import Metering

MARK_FILE_NAME: Final = "promotion.json"
POOL_CONNECTIONS_MAX: Final = 8
WATCH_RETRY_S: Final = 1.0
GRACEFUL_SHUTDOWN_S: Final = 40
LISTEN_BACKLOG: Final = 2_048
COLLECT_AFTER: Final = (20_000, 20, 20)
"""New objects until the young are collected; young collections until the older are."""
RETENTION_ROLE: Final = "tokenworks_retention"

DEMO_MODEL: Final = "smollm2"
DEMO_TIERS: Final = ("free", "standard", "premium")
DEMO_DEPOSIT: Final = Amount(quanta=100 * 10**9, asset=USD)

_log = structlog.get_logger("tokenworks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """
    Every service of one process, open.
    """

    settings: Settings
    dsn: str
    fence: Fence
    pool: Pool
    clock: Clock
    ids: IdentifierSource
    identity: Identity
    supply: Supply
    prices: PriceBook
    writer: Writer
    ledger: Ledger
    corrections: Corrections
    closings: DateClosings
    refunds: Refunds
    reconciliation: Reconciliation
    keys: ReceiptKeys
    issuer: ReceiptIssuer
    calls: CallStore
    receipts: ReceiptReader
    upstream: Upstream
    gateway: Gateway
    streamer: Streamer
    opening: Opening
    agents: AgentServices
    factory: LiveFactory
    engine_calls: EnergyCalls
    energy_proofs: EnergyProofs
    metrics: HubMetrics


@contextlib.asynccontextmanager
async def open_hub(
    settings: Settings,
    dsn: str,
    *,
    name: str,
    clock: Clock | None = None,
    ids: IdentifierSource | None = None,
    upstream: Upstream | None = None,
) -> AsyncGenerator[Hub]:
    """
    Open every service of a process on one database, and close them in reverse.

    Args:
        settings: The operator's settings.
        dsn: Connection string of the posting role.
        name: What this process is called in the database, e.g. ``gateway-0``.
        clock: The machine's when omitted.
        ids: Mints every id; unpredictable when omitted.
        upstream: The way to suppliers, closed with the hub; the network when omitted.
    """
    clock = clock or SystemClock()
    ids = ids or IdentifierSource(clock)
    box = SecretBox(load_master_key(settings.data_dir))
    async with contextlib.AsyncExitStack() as stack:
        fence = make_fence(settings)
        pool = await open_pool(dsn, name=name, size_max=POOL_CONNECTIONS_MAX, fence=fence)
        stack.push_async_callback(pool.close)
        writer = Writer(dsn, clock=clock, holder=_holder(name), rider="hub", fence=fence)
        await writer.start()
        stack.push_async_callback(writer.close)
        ledger = Ledger(writer, pool, clock=clock, ids=ids, currency=settings.currency)
        await ledger.prepare()
        await ledger.open_party(TAX_ID, "tax_authority")
        corrections = Corrections(ledger, clock)
        calls = CallStore(pool, clock)
        await calls.ensure_partitions()
        identity = Identity(pool, clock, ids)
        supply = Supply(pool, clock, ids, box)
        await supply.reload()
        prices = PriceBook(pool, clock, ids)
        keys = ReceiptKeys(pool, box, clock)
        await keys.ensure_root()
        signer = await keys.ensure_lane_key(writer.lane)
        issuer = ReceiptIssuer(keys, await keys.ensure_salt_key())
        upstream = upstream or RelayUpstream()
        stack.push_async_callback(upstream.close)
        counter = TokenCounter()
        gateway = Gateway(
            ledger=ledger,
            prices=prices,
            supply=supply,
            receipts=issuer,
            upstream=upstream,
            counter=counter,
            calls=calls,
            clock=clock,
            ids=ids,
            rules=CallRules(
                granted_output_tokens=settings.granted_output_tokens,
                hold_lifetime_s=settings.hold_lifetime_s,
                drain_after_disconnect_s=settings.drain_after_disconnect_s,
            ),
        )
        await PaymentStore(pool).ensure_partitions()
        evaluator = CelSandbox()
        stack.push_async_callback(evaluator.close)
        agents = await open_agent_services(
            pool=pool,
            ledger=ledger,
            identity=identity,
            keys=keys,
            clock=clock,
            ids=ids,
            calls=calls,
            evaluator=evaluator,
            box=box,
            sender=HttpWebhookSender(),
            review_lifetime_s=settings.review_lifetime_s,
        )
        stack.push_async_callback(agents.payments.quiet)
        factory_store = FactoryStore(pool)
        await factory_store.ensure_partitions(clock.now())
        engine_calls = EnergyCalls(pool, calls=calls, ledger=ledger, issuer=issuer)
        metrics = HubMetrics()
        metrics.watch_writer(writer)
        yield Hub(
            settings=settings,
            dsn=dsn,
            fence=fence,
            pool=pool,
            clock=clock,
            ids=ids,
            identity=identity,
            supply=supply,
            prices=prices,
            writer=writer,
            ledger=ledger,
            corrections=corrections,
            refunds=Refunds(pool, calls=calls, ledger=ledger, clock=clock, ids=ids),
            closings=DateClosings(
                dsn,
                clock=clock,
                sealer=Sealer(sign=signer.sign_statement, certificate=signer.certificate),
            ),
            reconciliation=Reconciliation(
                pool,
                ledger=ledger,
                corrections=corrections,
                clock=clock,
                ids=ids,
                asset=ASSETS[settings.currency],
                hold_days=settings.payable_hold_days,
            ),
            keys=keys,
            issuer=issuer,
            calls=calls,
            receipts=ReceiptReader(calls, ledger, issuer),
            upstream=upstream,
            gateway=gateway,
            streamer=Streamer(
                gateway,
                counter=counter,
                monotonic_s=clock.monotonic_s,
                to_error_event=to_error_event,
            ),
            opening=Opening(pool=pool, identity=identity, ledger=ledger),
            agents=agents,
            factory=LiveFactory(factory_store, clock, ids),
            engine_calls=engine_calls,
            energy_proofs=EnergyProofs(factory_store, engine_calls, keys, clock),
            metrics=metrics,
        )


def make_app(hub: Hub) -> tuple[Switch, OpenAiApi, SellingDoor, McpDoor]:
    """
    Return all HTTP doors of a process behind one path switch, and those that are to be closed.
    """
    openai_api = OpenAiApi(
        gateway=hub.gateway,
        streamer=hub.streamer,
        identity=hub.identity,
        metrics=hub.metrics,
    )
    hub_api = create_hub_api(
        make_services(
            pool=hub.pool,
            clock=hub.clock,
            ids=hub.ids,
            identity=hub.identity,
            supply=hub.supply,
            prices=hub.prices,
            ledger=hub.ledger,
            corrections=hub.corrections,
            closings=hub.closings,
            refunds=hub.refunds,
            reconciliation=hub.reconciliation,
            calls=hub.calls,
            receipts=hub.receipts,
            upstream=hub.upstream,
            agents=hub.agents,
            factory=hub.factory,
            energy_proofs=hub.energy_proofs,
        )
    )
    selling = SellingDoor(
        gateway=hub.gateway,
        streamer=hub.streamer,
        payments=hub.agents.payments,
        calls=hub.calls,
        metrics=hub.metrics,
        clock=hub.clock,
    )

    async def doors(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
        await switch(scope, receive, send)

    mcp = McpDoor(doors, network=hub.agents.payments.network, clock=hub.clock)
    switch = Switch(
        selling=selling,
        mcp=mcp,
        openai_api=openai_api,
        hub_api=hub_api,
        x402_api=X402Api(
            payments=hub.agents.payments,
            identity=hub.identity,
            clock=hub.clock,
            metrics=hub.metrics,
        ),
        metrics=hub.metrics,
        is_healthy=lambda: hub.writer.is_connected,
        jwks=hub.keys.jwks,
    )
    return switch, openai_api, selling, mcp


async def run_gateway(settings: Settings, *, index: int) -> None:
    """
    Serve ``/v1``, ``/hub/v1`` and ``/metrics`` until SIGTERM, then finish the calls.
    """
    configure_logs(settings.log_level, process=f"gateway-{index}")
    async with open_hub(settings, posting_dsn(settings), name=f"gateway-{index}") as hub:
        hub.writer.on_failure(_end_process)
        app, *doors = make_app(hub)
        server = uvicorn.Server(
            uvicorn.Config(
                cast("Any", app),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=",".join(settings.trusted_proxies) or None,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            )
        )
        listener = _listener(settings.host, settings.port)
        async with _watching(hub):
            _calm_collector()
            _log.info("gateway_ready", host=settings.host, port=settings.port, lane=hub.ledger.lane)
            await server.serve(sockets=[listener])
            for door in doors:
                await door.close()


async def run_worker(settings: Settings) -> None:
    """
    Run the periodic jobs until SIGTERM.
    """
    configure_logs(settings.log_level, process="worker")
    async with open_hub(settings, posting_dsn(settings), name="worker") as hub:
        hub.writer.on_failure(_end_process)
        signer = await hub.keys.ensure_lane_key(hub.writer.lane)
        worker = Worker(
            ledger=hub.ledger,
            calls=hub.calls,
            payments=hub.agents.payments.store,
            escrows=hub.agents.escrows,
            refunds=hub.refunds,
            reconciliation=hub.reconciliation,
            brake=hub.agents.brake,
            orphans=make_orphans(hub),
            metering=_metering(hub),
            energy=EnergyPosting(
                hub.factory.store,
                calls=hub.engine_calls,
                ledger=hub.ledger,
                supply=hub.supply,
                proofs=hub.energy_proofs,
                signer=signer,
                clock=hub.clock,
            ),
            factory=hub.factory.store,
            pool=hub.pool,
            clock=hub.clock,
            signer=signer,
            archive=_archive_job(settings, hub.dsn),
        )
        await worker.run()


def make_orphans(hub: Hub) -> Orphans:
    """
    Return what gives back the holds of processes that are gone.
    """
    return Orphans(
        Leases(hub.pool, hub.clock),
        hub.ledger,
        clock=hub.clock,
        holder=hub.writer.holder,
        is_gone=_is_gone,
    )


def _metering(hub: Hub) -> Metering:
    def open_meter(meter: SupplierMeter) -> PowerSource:
        terms = meter.terms
        return open_source(terms.source, terms.settings, hub.clock, name=terms.name)

    return Metering(
        hub.factory.store,
        open_source=open_meter,
        read_counters=lambda url: VllmText(lambda: fetch_text(url)).read(),
        clock=hub.clock,
        holder=hub.writer.holder,
        host=socket.gethostname(),
        is_gone=_is_gone,
    )


def _archive_job(settings: Settings, dsn: str) -> Callable[[datetime], ArchiveReport] | None:
    folder = settings.archive_dir
    if folder is None:
        return None

    def run(now: datetime) -> ArchiveReport:
        before = months_before(now, settings.archive_after_months)
        return archive_ledger(settings, dsn=dsn, folder=folder, before=before)

    return run


async def create_admin_key(settings: Settings) -> tuple[ApiKey, str]:
    """
    Add an admin key directly in the database; return it with its secret.
    """
    fence = make_fence(settings)
    pool = await open_pool(posting_dsn(settings), name="admin", size_max=1, fence=fence)
    try:
        clock = SystemClock()
        identity = Identity(pool, clock, IdentifierSource(clock))
        return await identity.add_key(PLATFORM_ID, role=Role.ADMIN, label="admin")
    finally:
        await pool.close()


async def check_ledger(
    settings: Settings,
    *,
    dsn: str | None = None,
    full: bool = False,
    archive: Path | None = None,
    root: bytes | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> CheckReport:
    """
    Rebuild the books from the entries and compare, on one snapshot.

    Args:
        settings: Say where the books are.
        dsn: Another connection string.
        full: From the first batch, not from the last checkpoint.
        archive: The folder of archived months.
        root: A file's content with the root key to trust; the database's own when omitted.
        on_progress: Told a stage and its rows.

    Raises:
        KeyFileInvalidError: ``root`` holds no key.
    """
    dsn = dsn or posting_dsn(settings)
    return await check_books(
        dsn,
        clock=SystemClock(),
        full=full,
        archive=archive,
        on_progress=on_progress,
        verify_checkpoint=await _checkpoint_verifier(dsn, root),
    )


async def _checkpoint_verifier(dsn: str, root: bytes | None) -> Callable[[bytes, str], bool] | None:
    try:
        async with await connect(dsn, name="ledger check keys") as connection:
            published = await published_keys(connection)
    except psycopg.Error as error:
        message = f"The books could not be read: {error}"
        raise LedgerUnavailableError(message) from error
    if not published["keys"] and root is None:
        return None  # nobody ever signed here
    trusted = None if root is None else TrustedKeys.from_json(root)
    keys = TrustedKeys.from_json(json.dumps(published))
    if trusted is not None and not keys.root_kids <= trusted.root_kids:
        # Signed by a root that is not the one that was kept elsewhere: nothing is trusted.
        return lambda _payload, _signature: False
    return lambda payload, signature: is_statement_good(payload, signature, keys)


def archive_ledger(
    settings: Settings,
    *,
    dsn: str,
    folder: Path,
    before: datetime,
    on_progress: Callable[[str, int], None] | None = None,
) -> ArchiveReport:
    """
    Archive and drop old months; blocks until it is done.

    Args:
        settings: Say whether the database is the hub's own.
        dsn: Any role of the hub's own database; an external one is taken as the setting
            ``retention_database_url`` says, or as its owner.
        folder: Where the files go.
        before: Months that end later stay.
        on_progress: Told each step.
    """
    return archive_months(
        retention_dsn(settings, dsn),
        folder,
        before=before,
        clock=SystemClock(),
        on_progress=on_progress,
    )


def retention_dsn(settings: Settings, dsn: str) -> str:
    """
    Return the connection string of the retention role.
    """
    if settings.database_url is not None:
        return settings.retention_database_url or settings.database_url
    return conninfo.make_conninfo(dsn, user=RETENTION_ROLE, options="")


def make_fence(settings: Settings) -> Fence:
    """
    Return what keeps a hub's processes away from a server whose books have gone on elsewhere.
    """
    path = settings.data_dir / MARK_FILE_NAME
    return Fence(SharedPrivateFile(path), place=str(path))


def posting_dsn(settings: Settings) -> str:
    """
    Return the connection string of the posting role.

    Raises:
        HubNotRunningError: No database is set and no hub runs on the data directory.
    """
    if settings.database_url is not None:
        return settings.posting_database_url or settings.database_url
    return read_runtime(settings.data_dir).dsn_posting


# ---------------------------------------------------------------------- the demo


async def prepare_demo(
    settings: Settings, dsn_owner: str, supplier_base_url: str
) -> Mapping[str, object]:
    """
    Open the demo's business, or find it open; return the fields of ``demo.json``.

    One organisation with a team and a user, limits on each and on the key; one supplier
    (the local model) with a power producer, a rights holder and a reseller; three tiers.
    Keys of an earlier ``demo.json`` that still work are kept.
    """
    async with open_hub(settings, dsn_owner, name="demo") as hub:
        keys = await _demo_keys(hub, _read_demo(settings.data_dir))
        await _demo_supply(hub, supplier_base_url)
        root = await hub.keys.ensure_root()
        return {
            "base_url": f"{settings.hub_url}/v1",
            "console_url": settings.console_url,
            "admin_key": keys["admin_key"],
            "buyer_key": keys["buyer_key"],
            "model": f"{DEMO_MODEL}@standard",
            "receipt_public_key": msgspec.to_builtins(root),
        }


async def _demo_keys(hub: Hub, earlier: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("admin_key", "buyer_key"):
        secret = earlier.get(name)
        if isinstance(secret, str):
            with contextlib.suppress(TokenworksError):
                await hub.identity.authenticate(secret)
                found[name] = secret
    if "admin_key" not in found:
        _, found["admin_key"] = await hub.identity.add_key(
            PLATFORM_ID, role=Role.ADMIN, label="demo admin"
        )
    if "buyer_key" not in found:
        found["buyer_key"] = await _demo_buyer(hub)
    return found


async def _demo_buyer(hub: Hub) -> str:
    organisation = await _demo_party(hub, "acme", PartyKind.BUYER, None)
    team = await _demo_party(hub, "acme-research", PartyKind.BUYER, "acme")
    user = await _demo_party(hub, "alice", PartyKind.BUYER, "acme-research")
    await hub.ledger.deposit(
        party_id=organisation.party_id,
        amount=DEMO_DEPOSIT,
        rail="demo",
        reference="opening balance",
        actor="demo",
    )
    key, secret = await hub.opening.add_key(user.party_id, role=Role.BUYER, label="demo")
    limits = (
        (organisation.party_id, LIMIT_USD, 1000 * 10**9, "year"),
        (team.party_id, LIMIT_USD, 200 * 10**9, "month"),
        (user.party_id, LIMIT_TOKENS, 20_000_000, "day"),
        (key.key_id, LIMIT_USD, 50 * 10**9, "ever"),
    )
    for scope_id, asset, quanta, window in limits:
        await hub.ledger.set_limit(
            scope_id=scope_id, asset=asset, quanta=quanta, window=window, actor="demo"
        )
    return secret


async def _demo_party(hub: Hub, name: str, kind: PartyKind, parent: str | None) -> Party:
    try:
        return await hub.identity.get_party(name)
    except TokenworksError:
        return await hub.opening.add_party(name, kind=kind, parent=parent)


async def _demo_supply(hub: Hub, supplier_base_url: str) -> None:
    supplier_party = await _demo_party(hub, "demo-factory", PartyKind.SUPPLIER, None)
    power = await _demo_party(hub, "river-power", PartyKind.POWER_PRODUCER, None)
    rights = await _demo_party(hub, "open-library", PartyKind.RIGHTS_HOLDER, None)
    reseller = await _demo_party(hub, "corner-shop", PartyKind.RESELLER, None)
    try:
        supplier = await hub.supply.get_supplier("demo-factory")
        if supplier.base_url != supplier_base_url:
            await hub.supply.edit_supplier("demo-factory", base_url=supplier_base_url)
    except TokenworksError:
        supplier = await hub.supply.add_supplier(
            "demo-factory",
            party_id=supplier_party.party_id,
            base_url=supplier_base_url,
            kind=SupplierKind.LLAMA_CPP,
            allow_private=True,
        )
    split = Split(
        tax_ppm=80_000,
        reseller_ppm=30_000,
        reseller_id=reseller.party_id,
        rights_ppm=20_000,
        rights_id=rights.party_id,
        power_ppm=250_000,
        power_id=power.party_id,
    )
    terms = OfferTerms(
        upstream_model=DEMO_MODEL,
        cost_card=share_card(600_000),
        split=split,
        context_tokens_max=8_192,
    )
    known = {offer.tier for offer in await hub.supply.list_offers(supplier=supplier.supplier_id)}
    for tier in DEMO_TIERS:
        if tier not in known:
            await hub.supply.add_offer(
                supplier.supplier_id, model=DEMO_MODEL, tier=tier, terms=terms
            )
            await hub.prices.set_prices(DEMO_MODEL, tier, load_tiers()[tier].prices)


def _read_demo(data_dir: Path) -> Mapping[str, object]:
    try:
        content = json.loads((data_dir / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", content) if isinstance(content, dict) else {}


# ---------------------------------------------------------------------- processes


@contextlib.asynccontextmanager
async def _watching(hub: Hub) -> AsyncGenerator[None]:
    """
    Hear what other processes change, on connections of their own, for as long as it runs.
    """
    watchers = [
        asyncio.create_task(_watch(hub, "identity", hub.identity.watch)),
        asyncio.create_task(_watch(hub, "supply", hub.supply.watch)),
        asyncio.create_task(_watch(hub, "prices", hub.prices.watch)),
        asyncio.create_task(_watch(hub, "mandates", hub.agents.mandates.watch)),
    ]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _watch(hub: Hub, name: str, watch: Callable[[Connection], Awaitable[None]]) -> None:
    while True:
        try:
            connection = await connect(hub.dsn, name=f"watch {name}", fence=hub.fence)
            async with connection:
                await watch(connection)
        except (psycopg.Error, TokenworksError, OSError) as error:
            _log.warning("watch_interrupted", what=name, reason=type(error).__name__)
        await asyncio.sleep(WATCH_RETRY_S)


def _end_process() -> None:
    # A process that cannot book is of no use: it drains, ends, and is started again.
    os.kill(os.getpid(), signal.SIGTERM)


def _calm_collector() -> None:
    """
    Leave what start-up made out of the garbage collector, and let it run less often.

    A call makes hundreds of objects and hardly a cycle, so by the defaults the collector
    looks at live calls again and again: a tenth of a gateway's processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(LISTEN_BACKLOG)
    listener.setblocking(False)
    return listener


def _holder(name: str) -> str:
    """
    Return what this process is called in its leases: the service, then its mark.
    """
    mark = mark_process()
    if mark is None:
        started_at_s = psutil.Process().create_time()
        mark = f"{socket.gethostname()}:{os.getpid()}:{started_at_s:.2f}"
    return f"{name}@{mark}"


def _is_gone(holder: str) -> bool | None:
    return is_gone(holder.partition("@")[2])
