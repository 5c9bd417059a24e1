"""
``tokenworks factory meter | energy``: power meters of suppliers, and what calls took.
"""

from __future__ import annotations

import contextlib
import os
import socket
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from time import sleep as wait
from typing import Annotated, Any, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    HubClient,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import Record, column, short_moment
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.live.model import MICRO, GridMethod, SourceKind, SourceSettings
from tokenworks.factory.live.service import LEASE_S, from_us
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import SystemClock

meter_app: Final = typer.Typer(help="Power meters of suppliers.", no_args_is_help=True)

READINGS_SENT: Final = 5_000
"""Kept back while the hub does not answer, the oldest lost first: a gap, and it is told."""

LEASE_READINGS: Final = 4
"""So many readings may fail to come before another sender may take the meter."""


POWER_MINUTES: Final = 15
WITHOUT_ENERGY: Final = {
    "not_metered": "nothing was metered while they ran",
    "readings_gone": "they were booked after the readings of that time were gone",
}


def _grid_text(row: Record) -> str:
    grid: Record | None = row.get("grid")
    return "" if grid is None else f"{grid['co2e_g_per_kwh']} g/kWh, {grid['source']}"


def _ratio(field: str) -> Any:  # noqa: ANN401 - a cell
    def cell(row: Record) -> str:
        value = row.get(field)
        return "" if value is None else f"{value:.4g}"

    return cell


METER_COLUMNS: Final = (
    column("Supplier"),
    column("Name"),
    column("Source"),
    column("Measured", "is_measured"),
    column("Boundary"),
    column("Interval s", "interval_s", right=True),
    column("Price per kWh", "price_per_kwh", right=True),
    column("Grid", _grid_text),
    column("Host"),
    column("Read by", "read_by"),
    column("Read until", short_moment("read_until")),
    column("Last reading", short_moment("last_reading_at")),
    column("Retired", short_moment("retired_at")),
    column("Id", "meter_id"),
)
MODEL_COLUMNS: Final = (
    column("Model"),
    column("Calls", right=True),
    column("Tokens read", "input_tokens", right=True),
    column("written", "output_tokens", right=True),
    column("J/token", _ratio("joules_per_token"), right=True),
    column("J/written", _ratio("joules_per_output_token"), right=True),
    column("kWh/M", _ratio("kwh_per_million_tokens"), right=True),
    column("Electricity/M", "electricity_cost_per_million", right=True),
    column("Charged/M", "charge_per_million", right=True),
    column("g CO2e", "co2e_g", right=True),
    column("Divided by", "methods"),
    column("Measured", "is_measured"),
)

MeterArgument = Annotated[str, typer.Argument(help="The meter's id.")]


@meter_app.command("add")
def add(
    supplier: Annotated[str, typer.Argument(help="The supplier's name or id.")],
    source: Annotated[SourceKind, typer.Option(help="How it is read; push: it is sent.")],
    name: Annotated[str, typer.Option(help="What it is called.")] = "meter",
    boundary: Annotated[str, typer.Option(help="What it sees: GPU boards, host, rack.")] = "",
    url: Annotated[str | None, typer.Option("--exporter", help="Of dcgm: its /metrics.")] = None,
    engine: Annotated[str | None, typer.Option(help="vLLM's /metrics, for its phases.")] = None,
    port: Annotated[int | None, typer.Option(help="Of model: where the engine listens.")] = None,
    pid: Annotated[int | None, typer.Option(help="Of model: the process instead.")] = None,
    tdp_w: Annotated[int | None, typer.Option(help="Of model: of the whole CPU.")] = None,
    host: Annotated[
        str | None, typer.Option(help="The machine whose worker reads it; else the first.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="The exporter's address may be private.")
    ] = False,
    interval_s: Annotated[float | None, typer.Option(help="How much time is posted.")] = None,
    gap_max_s: Annotated[float | None, typer.Option(help="Longer is a gap.")] = None,
    power_max_w: Annotated[int | None, typer.Option(help="No device takes more.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="One that must be there. Repeat for more.")
    ] = None,
    price_per_kwh: Annotated[str | None, typer.Option(help="Of its electricity.")] = None,
    grid_g_per_kwh: Annotated[str | None, typer.Option(help="CO2e of a kWh, grams.")] = None,
    grid_source: Annotated[str | None, typer.Option(help="Who says so; place, year.")] = None,
    grid_method: Annotated[GridMethod, typer.Option(help="Of the factor.")] = (
        GridMethod.LOCATION_BASED
    ),
    hub_url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add a supplier's power meter: the worker reads it, or `factory meter send` at the site does.
    """
    with hub_session(url=hub_url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "supplier": supplier,
            "name": name,
            "source": source.value,
            "boundary": boundary,
            "url": url,
            "engine_url": engine,
            "port": port,
            "pid": pid,
            "tdp_w": tdp_w,
            "host": host,
            "allow_private": allow_private,
            "interval_s": interval_s,
            "gap_max_s": gap_max_s,
            "power_max_w": power_max_w,
            "devices": device,
            "price_per_kwh": price_per_kwh,
            "grid": _grid(grid_g_per_kwh, grid_source, grid_method),
        }
        hub.output.record(hub.post("factory/meters", body), METER_COLUMNS)


@meter_app.command("list")
def list_meters(
    retired: Annotated[bool, typer.Option("--retired", help="Those too.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List power meters.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.get("factory/meters", retired=retired)["items"]
        hub.output.records(rows, METER_COLUMNS, empty="No supplier has a power meter.")


@meter_app.command("show")
def show(
    meter: MeterArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show a power meter, and until when it was read and posted.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"factory/meters/{meter}"), METER_COLUMNS)


@meter_app.command("retire")
def retire(
    meter: MeterArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Read a meter no more; what it said is still posted.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"factory/meters/{meter}/retire"), METER_COLUMNS)


@meter_app.command("release")
def release(
    meter: MeterArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let another process or machine read a meter: the one that did is gone, or was moved.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"factory/meters/{meter}/release", {}), METER_COLUMNS)


class LocalSource(StrEnum):
    """
    What can be read where this command runs.
    """

    MODEL = "model"
    RAPL = "rapl"
    NVML = "nvml"
    DCGM = "dcgm"


@meter_app.command("send")
def send(
    meter: MeterArgument,
    source: Annotated[LocalSource, typer.Option(help="What to read on this machine.")],
    exporter: Annotated[str | None, typer.Option(help="Of dcgm: its /metrics.")] = None,
    port: Annotated[int | None, typer.Option(help="Of model: where the engine listens.")] = None,
    tdp_w: Annotated[int | None, typer.Option(help="Of model: of the whole CPU.")] = None,
    every_s: Annotated[float, typer.Option(min=0.05, max=3600, help="Between readings.")] = 0.5,
    readings: Annotated[
        int, typer.Option(min=0, help="So many, then stop; 0: until interrupted.")
    ] = 0,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Read a meter on the engine's own machine and send it to the hub, until interrupted.

    For a meter of the source push. What the hub does not take is sent again later, in its order;
    while another one sends this meter's readings, this one's are skipped, and it says so.
    """
    from tokenworks.adapters.power_meters.opening import open_source

    settings = SourceSettings(url=exporter, port=port, tdp_w=tdp_w)
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        kind = SourceKind(source.value)
        source_here = open_source(kind, settings, SystemClock(), name=meter)
        sender = _Sender(hub, meter, source_here, every_s=every_s)
        taken = 0
        with contextlib.suppress(KeyboardInterrupt):
            while readings == 0 or taken < readings:
                if taken:
                    wait(every_s)
                sender.read_and_send()
                taken += 1
        sender.release()
        hub.output.document(
            {
                "sent": sender.sent,
                "not_sent": len(sender.waiting),
                "lost": sender.lost,
                "skipped": sender.skipped,
                "reason": sender.reason or None,
            }
        )
        if sender.skipped and not sender.sent:
            raise typer.Exit(EXIT_REFUSED)


class _Sender:
    def __init__(self, hub: HubClient, meter: str, source: PowerSource, *, every_s: float) -> None:
        self.sent = 0
        self.lost = 0  # that were kept back and became too many
        self.skipped = 0  # because another one reads this meter
        self.waiting: list[Reading] = []
        self._hub = hub
        self._meter = meter
        self._source = source
        self.reason = ""  # why the last readings were not taken
        self._lease_s = max(LEASE_S, every_s * LEASE_READINGS)
        self._name = f"send@{socket.gethostname()}:{os.getpid()}"

    def read_and_send(self) -> None:
        waiting = [*self.waiting, *self._source.read()]
        self.waiting = waiting[-READINGS_SENT:]
        if len(waiting) > len(self.waiting):
            self.lost += len(waiting) - len(self.waiting)
            self._tell(f"More than {READINGS_SENT} wait: the oldest are lost, which is a gap.")
        ranges_uj = self._source.counter_ranges_uj
        body = {
            "readings": [_to_body(one, ranges_uj.get(one.device)) for one in self.waiting],
            "reader": self._name,
            "lease_s": self._lease_s,
        }
        try:
            self._hub.post(f"factory/meters/{self._meter}/readings", body)
        except CommandError as error:
            if (error.problem or {}).get("code") == "meter_read_by_other":
                # The other one reads the same moments: two readings of one are one too many.
                self.skipped += len(self.waiting)
                self.waiting = []
                self._tell(f"Skipped: {error.message}")
                return
            if error.exit_code != EXIT_COULD_NOT_RUN:
                raise
            self._tell(f"Kept for later: {error.message}")
            return
        self.reason = ""
        self.sent += len(self.waiting)
        self.waiting = []

    def release(self) -> None:
        """
        Let another one send at once; without a hub the lease runs out by itself.
        """
        if self.sent:
            with contextlib.suppress(CommandError):
                body = {"reader": self._name}
                self._hub.post(f"factory/meters/{self._meter}/release", body)

    def _tell(self, text: str) -> None:
        if text != self.reason:
            self._hub.output.note(text)
        self.reason = text


def energy(
    hours: Annotated[int, typer.Option(min=1, max=744, help="So far back.")] = 24,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show what each model's calls took: joules, kWh and electricity beside the charge.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("factory/models", hours=hours)
        rows = answer["items"]
        hub.output.records(rows, MODEL_COLUMNS, empty="No call's energy is known in that time.")
        for one in answer["without_energy"]:
            reason = WITHOUT_ENERGY[one["reason"]]
            hub.output.note(f"{one['calls']} calls at {one['supplier']} have no energy: {reason}.")
        _tell_power(hub)
        if any(not row["is_measured"] for row in rows):
            hub.output.note("Not measured: the energy of some is a MODEL.")


def _tell_power(hub: HubClient) -> None:
    """
    Say the power of the newest interval whose readings reach its end: a younger one is part of one.
    """
    points = hub.get("factory/live", minutes=POWER_MINUTES)["points"]
    whole = [point for point in points if point["is_complete"] and point["coverage"] > 0]
    if whole:
        start, end = (datetime.fromisoformat(whole[-1][name]) for name in ("start", "end"))
        percent = whole[-1]["coverage"] * 100
        hub.output.note(
            f"Power: {whole[-1]['watts']:.4g} W from {start:%H:%M:%S} to {end:%H:%M:%S} UTC,"
            f" {percent:.4g} % of it metered."
        )


def _grid(grams: str | None, source: str | None, method: GridMethod) -> dict[str, str] | None:
    if grams is None and source is None:
        return None
    if grams is None or source is None:
        message = "A grid factor needs --grid-g-per-kwh and --grid-source."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return {"co2e_g_per_kwh": grams, "source": source, "method": method.value}


def _to_body(reading: Reading, range_uj: int | None) -> dict[str, str | None]:
    value = None if reading.value is None else str(Decimal(reading.value) / MICRO)
    moment: datetime = from_us(reading.at_us)
    column_name = "watts" if reading.quantity is Quantity.POWER else "joules"
    body = {"time": moment.isoformat(), "device": reading.device, column_name: value}
    if range_uj is not None:
        body["counter_range_joules"] = f"{Decimal(range_uj) / MICRO:f}"
    return body
