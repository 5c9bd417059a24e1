"""
Run the worker: what a hub does by the clock, until SIGTERM.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime

from tokenworks.adapters.power_meters.opening import open_source
from tokenworks.adapters.power_meters.prometheus_text import fetch_text
from tokenworks.adapters.power_meters.vllm_text import VllmText
from tokenworks.bootstrap.books import archive_ledger
from tokenworks.bootstrap.database import posting_dsn
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.bootstrap.process import end_process, is_holder_gone
from tokenworks.factory.live.model import SupplierMeter
from tokenworks.factory.live.posting import EnergyPosting
from tokenworks.factory.ports import PowerSource
from tokenworks.gateway.orphans import Orphans
from tokenworks.ledger.archive import ArchiveReport
from tokenworks.ledger.leases import Leases
from tokenworks.logs import configure_logs
from tokenworks.settings import Settings
from tokenworks.worker.jobs import Worker, months_before
from tokenworks.worker.metering import Metering


async def run_worker(settings: Settings) -> None:
    """
    Run the periodic jobs until SIGTERM.
    """
    configure_logs(settings.log_level, process="worker")
    async with open_hub(settings, posting_dsn(settings), name="worker") as hub:
        hub.writer.on_failure(end_process)
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
        is_gone=is_holder_gone,
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
        is_gone=is_holder_gone,
    )


def _archive_job(settings: Settings, dsn: str) -> Callable[[datetime], ArchiveReport] | None:
    folder = settings.archive_dir
    if folder is None:
        return None

    def run(now: datetime) -> ArchiveReport:
        before = months_before(now, settings.archive_after_months)
        return archive_ledger(settings, dsn=dsn, folder=folder, before=before)

    return run
