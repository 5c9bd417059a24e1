"""
``tokenworks factory``: record power meters; what energy each call took; what tokens cost.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from time import sleep as wait
from typing import Annotated, Any, Final, TextIO, TypeVar

import typer

from tokenworks.cli.client import EXIT_COULD_NOT_RUN, CommandError, JsonOption, reporting
from tokenworks.cli.factory_demo import demo
from tokenworks.cli.factory_economics import add_commands
from tokenworks.cli.factory_live import energy, meter_app
from tokenworks.cli.factory_steps import steps_app
from tokenworks.cli.long_work import LongWork
from tokenworks.cli.rendering import Output, column
from tokenworks.factory.attribution.by_overlap import attribute_spans
from tokenworks.factory.attribution.by_step import StepAttribution, attribute_steps
from tokenworks.factory.attribution.model import Attribution, CallEnergy
from tokenworks.factory.attribution.span_log import read_span_log
from tokenworks.factory.attribution.step_log import read_step_log
from tokenworks.factory.energy.model import MODEL_PREFIX, Fault, Quantity, Rules
from tokenworks.factory.energy.power_file import read_power_file, to_cells, to_header
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.errors import PowerSourceError
from tokenworks.factory.live.model import SourceKind, SourceSettings
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.limits import FACTORY_DEVICE_POWER_W_MAX, FACTORY_FILE_BYTES_MAX

app: Final = typer.Typer(
    help="The token factory: watts in, tokens out, what each costs.", no_args_is_help=True
)
add_commands(app)
app.add_typer(meter_app, name="meter")
app.add_typer(steps_app, name="steps")
app.command("energy")(energy)
app.command("demo")(demo)

T = TypeVar("T")
_MICRO: Final = 1_000_000
_FAULTS_SHOWN_MAX: Final = 20
_CALLS_SHOWN_MAX: Final = 50
_STEPS: Final = {
    "power": "Reading the meter",
    "log": "Reading the engine's log",
    "attribute": "Dividing the energy",
}


@app.command("attribute")
def attribute(
    power: Annotated[
        Path, typer.Option(help="CSV of readings: time, device, and watts or joules.")
    ],
    steps: Annotated[
        Path | None, typer.Option(help="The engine's step log: JSON lines or CSV.")
    ] = None,
    spans: Annotated[
        Path | None, typer.Option(help="Instead of steps: call, start, end. Less exact.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A device that must be there. Repeat for more.")
    ] = None,
    gap_s: Annotated[
        float, typer.Option(min=0.001, max=3600, help="Longer between two readings is a gap.")
    ] = 2.0,
    power_max_w: Annotated[
        int,
        typer.Option(
            min=1, max=FACTORY_DEVICE_POWER_W_MAX, help="No device can take more than this."
        ),
    ] = FACTORY_DEVICE_POWER_W_MAX,
    idle_w: Annotated[
        float | None,
        typer.Option(min=0, help="Idle power of all devices; else measured in pauses."),
    ] = None,
    window_s: Annotated[
        float, typer.Option(min=0.001, max=3600, help="About ten readings of the meter.")
    ] = 1.0,
    continued: Annotated[
        bool, typer.Option("--continued", help="Calls may have begun before the step log.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Divide metered energy among the calls of an engine, to the microjoule. Reads files only.

    Intervals that are not validly metered are listed and never averaged over.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        if (steps is None) == (spans is None):
            raise CommandError("Give --steps or --spans.", exit_code=EXIT_COULD_NOT_RUN)
        rules = Rules(
            gap_max_us=round(gap_s * _MICRO),
            power_max_uw=power_max_w * _MICRO,
            expected_devices=frozenset(device or ()),
        )
        with LongWork(output, _STEPS) as work:
            work.begin("power")
            meter = validate(_read(power, lambda lines: read_power_file(lines, power.name)), rules)
            if not meter.curves:
                message = f"{power.name}: row 2, column time: the file has no readings"
                raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
            work.begin("log")
            result: StepAttribution | None = None
            if steps is not None:
                name = steps.name
                log = _read(steps, lambda lines: read_step_log(lines, name, is_continued=continued))
                work.begin("attribute")
                result = attribute_steps(
                    meter,
                    log,
                    idle_uw=None if idle_w is None else round(idle_w * _MICRO),
                    window_us=round(window_s * _MICRO),
                    tell=work.advance,
                )
                attribution = result.attribution
            else:
                assert spans is not None, "one of the two was given"
                name = spans.name
                span_log = _read(spans, lambda lines: read_span_log(lines, name))
                work.begin("attribute")
                attribution = attribute_spans(meter, span_log, tell=work.advance)
        if as_json:
            output.document(_to_document(meter, attribution, result))
        else:
            _show(output, meter, attribution, result)


class Source(StrEnum):
    """
    Where power can be read.
    """

    NVML = "nvml"
    RAPL = "rapl"
    DCGM = "dcgm"
    MODEL = "model"


@app.command("record")
def record(
    source: Annotated[Source, typer.Option(help="What to read; model computes, it measures not.")],
    out: Annotated[Path, typer.Option(help="The CSV to write; must not exist.")],
    every_s: Annotated[float, typer.Option(min=0.01, max=3600, help="Between readings.")] = 0.1,
    readings: Annotated[
        int, typer.Option(min=0, help="So many, then stop; 0: until interrupted.")
    ] = 0,
    url: Annotated[str | None, typer.Option(help="Of dcgm: the exporter's /metrics.")] = None,
    pid: Annotated[int | None, typer.Option(help="Of model: the process.")] = None,
    tdp_w: Annotated[int | None, typer.Option(min=1, help="Of model: of the whole CPU.")] = None,
) -> None:
    """
    Write what power meters say to a file for ``factory attribute``.
    """
    output = Output(as_json=False)
    with reporting(output):
        meters = _open_source(source, url=url, pid=pid, tdp_w=tdp_w)
        try:
            with out.open("x", encoding="utf-8", newline="") as file:
                count = _write(meters, file, every_s=every_s, readings=readings)
        except OSError as error:
            message = f"{out} cannot be written: {error.strerror}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    output.note(f"{count} rows in {out}.")


def _open_source(
    source: Source, *, url: str | None, pid: int | None, tdp_w: int | None
) -> PowerSource:
    settings = SourceSettings(url=url, pid=pid, tdp_w=tdp_w)
    needs = "--url" if source is Source.DCGM and url is None else None
    if source is Source.MODEL and (pid is None or tdp_w is None):
        needs = "--pid and --tdp-w"
    if needs is not None:
        raise CommandError(f"{source} needs {needs}.", exit_code=EXIT_COULD_NOT_RUN)
    from tokenworks.adapters.power_meters.opening import open_source

    return open_source(SourceKind(source.value), settings, SystemClock(), name=str(pid))


def _write(meters: PowerSource, file: TextIO, *, every_s: float, readings: int) -> int:
    """
    Write readings as they come, and return how many rows; an interrupt ends it.
    """
    writer = csv.writer(file)
    quantity: Quantity | None = None
    count = taken = 0
    with contextlib.suppress(KeyboardInterrupt):
        while readings == 0 or taken < readings:
            if taken:
                wait(every_s)
            for reading in meters.read():
                if quantity is None:
                    quantity = reading.quantity
                    writer.writerow(to_header(quantity))
                if reading.quantity is not quantity:
                    raise PowerSourceError(f"{reading.device} tells another quantity than before.")
                range_uj = meters.counter_ranges_uj.get(reading.device)
                writer.writerow(to_cells(reading, range_uj))
                count += 1
            file.flush()  # A recording that is cut short has all rows but the last.
            taken += 1
    return count


def _read(path: Path, parse: Callable[[Iterable[str]], T]) -> T:
    try:
        size = path.stat().st_size
        if size > FACTORY_FILE_BYTES_MAX:
            message = f"{path} has {size} bytes; at most {FACTORY_FILE_BYTES_MAX} are read."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(lines)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


# ------------------------------------------------------------------ programs


def _to_document(
    meter: Meter, attribution: Attribution, result: StepAttribution | None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "method": attribution.method.value,
        "meter_uj": attribution.meter_uj,
        "attributed_uj": attribution.meter_uj - attribution.unattributed_uj,
        "unattributed_uj": attribution.unattributed_uj,
        "outside_uj": attribution.outside_uj,
        "unplaced_uj": attribution.unplaced_uj,
        "start_us": meter.start_us,
        "end_us": meter.end_us,
        "devices": [
            {
                "device": curve.device,
                "energy_uj": curve.placed_uj + curve.unplaced_uj,
                "coverage_ppm": meter.coverage_ppm(curve),
                "is_measured": not curve.device.startswith(MODEL_PREFIX),
            }
            for curve in meter.curves
        ],
        "faults": [_fault_document(one) for one in meter.faults],
        "calls": [_call_document(call) for call in attribution.calls],
    }
    if result is not None:
        document |= {
            "idle_uw": result.idle.power_uw,
            "idle_source": result.idle.source.value,
            "cost_source": result.fit.source.value,
            "fit_windows": result.fit.windows,
            "fit_mean_error_ppm": result.fit.mean_error_ppm,
            "steps": result.steps,
            "steps_not_whole": result.steps_not_whole,
        }
    return document


def _fault_document(one: Fault) -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        "device": one.device,
        "start_us": one.start_us,
        "end_us": one.end_us,
        "row": one.row,
        "column": one.column,
        "text": one.text,
    }


def _call_document(call: CallEnergy) -> dict[str, Any]:
    return {
        "call": call.call,
        "energy_uj": call.total_uj,
        "parts_uj": {part.value: energy_uj for part, energy_uj in call.parts_uj.items()},
        "tokens": call.tokens,
        "is_whole": call.is_whole,
    }


# ------------------------------------------------------------------ people


def _show(
    output: Output, meter: Meter, attribution: Attribution, result: StepAttribution | None
) -> None:
    largest = sorted(attribution.calls, key=lambda call: -call.total_uj)[:_CALLS_SHOWN_MAX]
    parts = list(attribution.calls[0].parts_uj) if attribution.calls else []
    rows = [
        {
            "call": call.call,
            "joules": _joules(call.total_uj),
            "tokens": call.tokens,
            "whole": "yes" if call.is_whole else "no",
        }
        | {part.value: _joules(call.parts_uj[part]) for part in parts}
        for call in largest
    ]
    columns = [
        column("Call"),
        column("Joules", right=True),
        *(column(part.value.capitalize(), right=True) for part in parts),
        column("Tokens", right=True),
        column("Whole"),
    ]
    output.records(rows, columns, empty="The log names no call.")
    if len(attribution.calls) > len(largest):
        output.note(
            f"The {len(largest)} largest of {len(attribution.calls)} calls; --json has all."
        )
    given_uj = attribution.meter_uj - attribution.unattributed_uj
    output.note(
        f"Meter {_joules(attribution.meter_uj)} J = calls {_joules(given_uj)} J"
        f" + unattributed {_joules(attribution.unattributed_uj)} J"
        f" (of that {_joules(attribution.outside_uj)} J while nothing ran,"
        f" {_joules(attribution.unplaced_uj)} J at an unknown time)."
    )
    output.note(_tell_method(result))
    for curve in meter.curves:
        percent = Decimal(meter.coverage_ppm(curve)) / 10_000
        output.note(f"{curve.device}: {percent:.2f} % of the time validly metered.")
        if curve.device.startswith(MODEL_PREFIX):
            output.note(f"{curve.device} is a MODEL of its power, no measurement.")
    _show_faults(output, meter)


def _tell_method(result: StepAttribution | None) -> str:
    if result is None:
        return "Method: overlap share. It does not tell phases apart; a step log is more exact."
    if result.fit.mean_error_ppm is None:
        costs = f"ASSUMED, not fitted: only {result.fit.windows} windows were wholly metered"
    else:
        error = Decimal(result.fit.mean_error_ppm) / 10_000
        costs = f"fitted to {result.fit.windows} windows, {error:.1f} % off on average"
    return (
        f"Method: step and phase. Idle floor {_joules(result.idle.power_uw)} W"
        f" ({result.idle.source}); costs of phases {costs};"
        f" {result.steps_not_whole} of {result.steps} steps not wholly metered."
    )


def _show_faults(output: Output, meter: Meter) -> None:
    shown = meter.faults[:_FAULTS_SHOWN_MAX]
    for kind, faults in groupby(shown, key=lambda one: one.kind):
        for one in faults:
            place = f"row {one.row}, " if one.row is not None else ""
            lost = Decimal(one.end_us - one.start_us) / _MICRO
            output.note(
                f"{kind}: {place}column {one.column}, {one.device}: {one.text}"
                + (f"; {lost} s not metered" if lost else "")
            )
    if len(meter.faults) > len(shown):
        output.note(f"... and {len(meter.faults) - len(shown)} more; --json has all.")


def _joules(energy_uj: int) -> str:
    return f"{Decimal(energy_uj) / _MICRO:.6f}"
