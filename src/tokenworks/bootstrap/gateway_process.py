"""
Run a gateway: every door of a hub on one port, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, cast

import psycopg
import structlog
import uvicorn

from tokenworks.bootstrap.database import posting_dsn
from tokenworks.bootstrap.doors import make_app
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.bootstrap.process import end_process
from tokenworks.foundation.errors import TokenworksError
from tokenworks.logs import configure_logs
from tokenworks.postgres.pool import Connection, connect
from tokenworks.settings import Settings

WATCH_RETRY_S: Final = 1.0
GRACEFUL_SHUTDOWN_S: Final = 40
LISTEN_BACKLOG: Final = 2_048
COLLECT_AFTER: Final = (20_000, 20, 20)
"""New objects until the young are collected; young collections until the older are."""

_log = structlog.get_logger("tokenworks")


async def run_gateway(settings: Settings, *, index: int) -> None:
    """
    Serve ``/v1``, ``/hub/v1`` and ``/metrics`` until SIGTERM, then finish the calls.
    """
    configure_logs(settings.log_level, process=f"gateway-{index}")
    async with open_hub(settings, posting_dsn(settings), name=f"gateway-{index}") as hub:
        hub.writer.on_failure(end_process)
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
            calm_collector()
            _log.info("gateway_ready", host=settings.host, port=settings.port, lane=hub.ledger.lane)
            await server.serve(sockets=[listener])
            for door in doors:
                await door.close()


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


def calm_collector() -> None:
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
