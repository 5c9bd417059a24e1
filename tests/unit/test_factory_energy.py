"""
Power files: what is refused, what is flagged, and what is never averaged over.
"""

from __future__ import annotations

import pytest

from tokenworks.factory.energy.model import Fault, FaultKind, Rules
from tokenworks.factory.energy.power_file import read_power_file
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.errors import TableInvalidError
from tokenworks.foundation.limits import FACTORY_LINE_CHARACTERS_MAX

S = 1_000_000
RULES = Rules(gap_max_us=2 * S, power_max_uw=1_000 * S)


def meter_of(*rows: str, header: str = "time,device,watts", rules: Rules = RULES) -> Meter:
    """
    Validate a power file.
    """
    lines = [f"{line}\n" for line in (header, *rows)]
    return validate(read_power_file(lines, "power.csv"), rules)


def counter_of(*values: str, rules: Rules = RULES, counter_range: str = "") -> Meter:
    """
    Validate a counter that was read every second.
    """
    rows = [f"{at},a,{value},{counter_range}" for at, value in enumerate(values)]
    header = "time,device,joules,counter_range_joules"
    return meter_of(*rows, header=header, rules=rules)


def only(meter: Meter) -> Fault:
    """
    Return the one fault.
    """
    (fault,) = meter.faults
    return fault


def test_power_is_integrated_by_trapezoid() -> None:
    """
    100 W rising to 300 W over two seconds is 400 J; its first second 150 J.
    """
    meter = meter_of("1.0,a,100", "3.0,a,300")

    assert meter.total_uj == 400 * S
    assert meter.energy_uj(1 * S, 2 * S) == 150 * S
    assert not meter.faults


def test_remainder_is_carried() -> None:
    """
    A third of a microjoule each microsecond: three microseconds are one, whichever way cut.
    """
    meter = meter_of("0,a,0.333334", "0.001,a,0.333334")

    parts = [meter.energy_uj(at, at + 1) for at in range(1_000)]
    assert sum(parts) == meter.total_uj == 333
    assert set(parts) == {0, 1}


def test_time_is_seconds_or_rfc_3339() -> None:
    """
    Both ways of writing a moment are the same moment.
    """
    meter = meter_of("1767225600.5,a,10", "2026-01-01T01:00:01.5+01:00,a,10")

    assert (meter.start_us, meter.end_us) == (1_767_225_600_500_000, 1_767_225_601_500_000)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "", "n/a", "1e999999999"])
def test_no_number_is_flagged_with_row_and_column(value: str) -> None:
    """
    The interval from the last number to the next one is lost; the rest is metered.
    """
    meter = meter_of("0,a,100", "1,a,100", f"1.5,a,{value}", "2,a,100", "3,a,100")

    fault = only(meter)
    assert (fault.kind, fault.row, fault.column) == (FaultKind.NOT_A_NUMBER, 4, "watts")
    assert (fault.start_us, fault.end_us) == (1 * S, 2 * S)
    assert meter.total_uj == 200 * S
    assert not meter.is_covered(0, 3 * S)
    assert meter.covered_us(0, 3 * S) == 2 * S


@pytest.mark.parametrize(
    ("rows", "kind", "row", "lost", "total_j"),
    [
        (("0,a,100", "1,a,-1", "2,a,100"), FaultKind.NEGATIVE, 3, (0, 2), 0),
        (("0,a,100", "1,a,1001", "2,a,100"), FaultKind.IMPLAUSIBLE, 3, (0, 2), 0),
        (("0,a,100", "3,a,100", "4,a,100"), FaultKind.GAP, 3, (0, 3), 100),
        (("0,a,100", "1,a,100", "0.5,a,9", "2,a,100"), FaultKind.TIME_BACKWARDS, 4, (1, 2), 100),
        (("0,a,100", "1,a,100", "1,a,100", "2,a,100"), FaultKind.DUPLICATE, 4, (1, 1), 200),
    ],
)
def test_bad_reading_costs_its_interval(
    rows: tuple[str, ...], kind: FaultKind, row: int, lost: tuple[int, int], total_j: int
) -> None:
    """
    Each kind of fault names its row and loses just the interval it touches.
    """
    meter = meter_of(*rows)

    fault = only(meter)
    assert (fault.kind, fault.row) == (kind, row)
    assert (fault.start_us, fault.end_us) == (lost[0] * S, lost[1] * S)
    assert meter.total_uj == total_j * S


def test_contradicting_duplicate_loses_both_sides() -> None:
    """
    Two values at one moment: neither neighbour can be trusted.
    """
    meter = meter_of("0,a,100", "1,a,100", "2,a,100", "2,a,200", "3,a,100", "4,a,100")

    assert {fault.kind for fault in meter.faults} == {FaultKind.CONTRADICTION}
    assert {(fault.start_us, fault.end_us, fault.row) for fault in meter.faults} == {
        (1 * S, 2 * S, 5),
        (2 * S, 3 * S, 5),
    }
    assert meter.total_uj == 200 * S


def test_missing_and_late_devices_are_named() -> None:
    """
    A device that never, or late, or no longer reports is a fault; nothing is whole then.
    """
    rules = Rules(gap_max_us=2 * S, expected_devices=frozenset({"a", "b", "c"}))

    meter = meter_of(
        *(f"{at},a,100" for at in range(10)), *(f"{at},b,100" for at in range(4, 7)), rules=rules
    )

    found = {(one.device, one.start_us // S, one.end_us // S) for one in meter.faults}
    assert found == {("b", 0, 4), ("b", 6, 9), ("c", 0, 9)}
    assert {one.kind for one in meter.faults} == {FaultKind.MISSING_DEVICE}
    assert not meter.is_covered(4 * S, 6 * S)
    assert [meter.coverage_ppm(curve) for curve in meter.curves] == [1_000_000, 222_222]


def test_counter_that_wraps_is_counted_on() -> None:
    """
    With a known range the step over the end counts; the wrap is told.
    """
    meter = counter_of("900", "990", "80", "170", counter_range="1000")

    fault = only(meter)
    assert (fault.kind, fault.row, fault.column) == (FaultKind.COUNTER_WRAPPED, 4, "joules")
    assert meter.total_uj == 270 * S
    assert meter.is_covered(0, 3 * S)


@pytest.mark.parametrize(
    ("values", "counter_range", "kind"),
    [
        (("90000", "90100", "3", "103"), "", FaultKind.COUNTER_RESET),
        (("90000", "90100", "90050", "90150"), "", FaultKind.COUNTER_BACKWARDS),
        # Over the end of this range it would be 9,903 W: no wrap.
        (("90000", "90100", "3", "103"), "100000", FaultKind.COUNTER_RESET),
        (("90000", "90100", "95000", "95100"), "", FaultKind.IMPLAUSIBLE),
    ],
)
def test_counter_that_resets_or_runs_backwards_loses_the_interval(
    values: tuple[str, ...], counter_range: str, kind: FaultKind
) -> None:
    """
    What cannot be told is not counted; the intervals around it are.
    """
    meter = counter_of(*values, counter_range=counter_range)

    fault = only(meter)
    assert (fault.kind, fault.row, fault.start_us, fault.end_us) == (kind, 4, 1 * S, 2 * S)
    assert meter.total_uj == 200 * S


def test_counter_over_a_gap_is_metered_and_not_placed() -> None:
    """
    The counter knows how much, nobody knows when: in the total, in no interval.
    """
    meter = meter_of("0,a,10", "1,a,20", "9,a,100", header="time,device,joules")

    assert only(meter).kind is FaultKind.GAP
    assert (meter.total_uj, meter.unplaced_uj, meter.energy_uj(0, 9 * S)) == (
        90 * S,
        80 * S,
        10 * S,
    )


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ([], "row 1, column time"),
        (["time,watts\n"], "row 1, column device"),
        (["time,device,watts,volts\n"], "row 1, column volts: is unknown"),
        (["time,device,watts,watts\n"], "row 1, column watts: is there twice"),
        (["time,device\n", "0,a\n"], "row 2, column watts: write either watts or joules"),
        (["time,device,watts,joules\n", "0,a,1,1\n"], "row 2, column watts"),
        (["time,device,watts\n", "soon,a,1\n"], "row 2, column time"),
        (["time,device,watts\n", "nan,a,1\n"], "row 2, column time"),
        (["time,device,watts\n", "-1,a,1\n"], "row 2, column time"),
        (["time,device,watts\n", "2026-01-01T00:00:00,a,1\n"], "row 2, column time: has no zone"),
        (["time,device,watts\n", "1,,1\n"], "row 2, column device: is empty"),
        (["time,device,watts\n", "1,a\n"], "row 2, column watts: the row has 2 cells"),
        (["time,device,watts\n", '1,"a,1\n'], "row 2, column (line): is no CSV"),
        (["time,device,watts\n", "x" * (FACTORY_LINE_CHARACTERS_MAX + 1)], "row 2, column (line)"),
        (
            ["time,device,joules,counter_range_joules\n", "1,a,1,5\n", "2,a,1,6\n"],
            "row 3, column counter_range_joules",
        ),
    ],
)
def test_file_that_is_none_is_refused_with_row_and_column(lines: list[str], place: str) -> None:
    """
    Without time, device or quantity a row means nothing.
    """
    with pytest.raises(TableInvalidError) as caught:
        read_power_file(lines, "power.csv")

    assert caught.value.message.startswith(f"power.csv: {place}")
