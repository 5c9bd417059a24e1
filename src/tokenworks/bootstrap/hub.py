"""
Open every service of one process, and close what was opened: the wiring of the hub.

Owns: the order in which services are built, and what each is built on::

    settings -> fence -> pool, writer -> ledger -> corrections, closings
    pool     -> identity, supply, prices, keys -> issuer
    these    -> gateway -> streamer, refunds, receipts, reconciliation
             -> agents (mandates, brake, payments, escrows)
             -> factory (meters, energy of engines' calls, its proofs)

Does not own: doors (``doors``) and what runs by the clock (``worker_process``).

Invariants: what was opened is closed in reverse, also when a later step fails; a process has one
writer, so one lane.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.adapters.openai_compatible.relay_client import RelayUpstream
from tokenworks.adapters.webhooks.sender import HttpWebhookSender
from tokenworks.agents.payments.store import PaymentStore
from tokenworks.agents.services import AgentServices, open_agent_services
from tokenworks.bootstrap.database import make_fence
from tokenworks.bootstrap.process import make_holder
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import LiveFactory
from tokenworks.factory.live.store import FactoryStore
from tokenworks.foundation.clock import Clock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.energy_calls import EnergyCalls
from tokenworks.gateway.holding import CallRules
from tokenworks.gateway.ports import Upstream
from tokenworks.gateway.receipt_reader import ReceiptReader
from tokenworks.gateway.refunding import Refunds
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.streaming import Streamer
from tokenworks.identity.model import TAX_ID
from tokenworks.identity.service import Identity
from tokenworks.ledger.closing import DateClosings, Sealer
from tokenworks.ledger.correcting import Corrections
from tokenworks.ledger.service import Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.metering.estimate import TokenCounter
from tokenworks.postgres.fence import Fence
from tokenworks.postgres.pool import Pool, open_pool
from tokenworks.pricing.service import PriceBook
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.reconciliation.service import Reconciliation
from tokenworks.settings import Settings
from tokenworks.supply.secrets import SecretBox, load_master_key
from tokenworks.supply.service import Supply
from tokenworks.web.hub_api.opening import Opening
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.relaying import to_error_event

POOL_CONNECTIONS_MAX: Final = 8


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

    Raises:
        MasterKeyError: The data directory's master key is missing or cannot be trusted.
        psycopg_pool.PoolTimeout: The database does not answer.
        UnavailableError: The servers that answer are not those the books went on with.
    """
    clock = clock or SystemClock()
    ids = ids or IdentifierSource(clock)
    box = SecretBox(load_master_key(settings.data_dir))
    async with contextlib.AsyncExitStack() as stack:
        # The books: one pool, one writer with a lane of its own, the ledger on both.
        fence = make_fence(settings)
        pool = await open_pool(dsn, name=name, size_max=POOL_CONNECTIONS_MAX, fence=fence)
        stack.push_async_callback(pool.close)
        writer = Writer(dsn, clock=clock, holder=make_holder(name), rider="hub", fence=fence)
        await writer.start()
        stack.push_async_callback(writer.close)
        ledger = Ledger(writer, pool, clock=clock, ids=ids, currency=settings.currency)
        await ledger.prepare()
        await ledger.open_party(TAX_ID, "tax_authority")
        corrections = Corrections(ledger, clock)

        # Who buys, who supplies, for how much; and the keys that sign what happened.
        identity = Identity(pool, clock, ids)
        supply = Supply(pool, clock, ids, box)
        await supply.reload()
        prices = PriceBook(pool, clock, ids)
        keys = ReceiptKeys(pool, box, clock)
        await keys.ensure_root()
        signer = await keys.ensure_lane_key(writer.lane)
        issuer = ReceiptIssuer(keys, await keys.ensure_salt_key())

        # Calls: the gateway on all of the above.
        calls = CallStore(pool, clock)
        await calls.ensure_partitions()
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
            rules=_call_rules(settings),
        )

        # Agents: their mandates and payments; conditions are evaluated in a sandbox.
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

        # The factory: what power the calls took.
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
            closings=DateClosings(
                dsn,
                clock=clock,
                sealer=Sealer(sign=signer.sign_statement, certificate=signer.certificate),
            ),
            refunds=Refunds(pool, calls=calls, ledger=ledger, clock=clock, ids=ids),
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


def _call_rules(settings: Settings) -> CallRules:
    return CallRules(
        granted_output_tokens=settings.granted_output_tokens,
        hold_lifetime_s=settings.hold_lifetime_s,
        drain_after_disconnect_s=settings.drain_after_disconnect_s,
    )
