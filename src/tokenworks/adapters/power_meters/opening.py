"""
Open the source of a meter from its settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import psutil

from tokenworks.adapters.power_meters.modelled import ModelledPower, cpu_time_of
from tokenworks.adapters.power_meters.nvml import Nvml
from tokenworks.adapters.power_meters.powercap import Powercap
from tokenworks.adapters.power_meters.prometheus_text import PrometheusText, fetch_text
from tokenworks.factory.errors import PowerSourceError
from tokenworks.factory.live.model import SourceKind, SourceSettings
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import Clock


def open_source(
    kind: SourceKind,
    settings: SourceSettings,
    clock: Clock,
    *,
    name: str,
    fetch: Callable[[str], str] = fetch_text,
) -> PowerSource:
    """
    Return the power source of this machine, or of an exporter, that settings name.

    Args:
        kind: Of the source; not ``push``.
        settings: What it needs.
        clock: When readings are taken.
        name: Of the model's device.
        fetch: Returns what an exporter answers.

    Raises:
        PowerSourceError: It is not there, may not be read, or is not named.
    """
    if kind is SourceKind.NVML:
        return Nvml(clock)
    if kind is SourceKind.RAPL:
        return Powercap(clock)
    if kind is SourceKind.DCGM:
        url = settings.url
        if url is None:
            raise PowerSourceError("The source dcgm needs the exporter's url.")
        return PrometheusText(clock, lambda: fetch(url))
    assert kind is SourceKind.MODEL, "what is pushed is not read"
    pid = settings.pid
    if pid is None and settings.port is not None:
        pid = _listener_on(settings.port)
    if pid is None or settings.tdp_w is None:
        raise PowerSourceError("The source model needs a process (pid or port) and tdp_w.")
    cores = os.cpu_count() or 1
    return ModelledPower(clock, cpu_time_of(pid), name=name, tdp_w=settings.tdp_w, cores=cores)


def _listener_on(port: int) -> int:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error as error:
        raise PowerSourceError("This machine's sockets may not be looked at.") from error
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or connection.pid is None:
            continue
        if connection.laddr and connection.laddr.port == port:
            return connection.pid
    raise PowerSourceError(f"No process of this machine that may be looked at listens on {port}.")
