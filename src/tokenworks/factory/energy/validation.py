"""
Decide which intervals between readings are validly metered; pure.

Rules, in this order for each reading of a device:

1. no number, a negative one or one above the greatest power: the reading is left out;
2. a time before the last one: left out; the same time: left out, and when the values differ
   the intervals on both sides are invalid;
3. an interval with a left-out reading inside, or longer than the greatest gap, is invalid;
4. a counter that falls has wrapped when its range is known and the step over the end is a
   possible power; otherwise it was reset (it is near zero) or runs backwards: invalid.

What a counter moved over an invalid interval of 3 is metered all the same, but not placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.factory.energy.curve import EnergyCurve, Segment
from tokenworks.factory.energy.model import (
    Fault,
    FaultKind,
    PowerSeries,
    Quantity,
    Reading,
    Rules,
)

_RESET_SHARE: Final = 100
"""A counter that fell below this part of what it was, was reset."""

_PPM: Final = 1_000_000
_OF_TIME: Final = {FaultKind.TIME_BACKWARDS, FaultKind.CONTRADICTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """
    What the meters say together, and what is wrong with it.
    """

    curves: Sequence[EnergyCurve]  # by device name
    faults: Sequence[Fault]
    start_us: int  # first reading of any device
    end_us: int  # last reading of any device
    missing_devices: Sequence[str]

    @property
    def total_uj(self) -> int:
        """
        Return everything that was validly metered, placed in time or not.
        """
        return sum(curve.placed_uj + curve.unplaced_uj for curve in self.curves)

    @property
    def unplaced_uj(self) -> int:
        """
        Return what counters counted while nobody knows when.
        """
        return sum(curve.unplaced_uj for curve in self.curves)

    def energy_uj(self, start_us: int, end_us: int) -> int:
        """
        Return the energy of an interval, over all devices.
        """
        return sum(curve.energy_uj(start_us, end_us) for curve in self.curves)

    def covered_us(self, start_us: int, end_us: int) -> int:
        """
        Return how much of an interval is validly metered, as a mean over the devices.
        """
        times = [curve.covered_us(start_us, end_us) for curve in self.curves]
        return sum(times) // (len(times) + len(self.missing_devices)) if times else 0

    def is_covered(self, start_us: int, end_us: int) -> bool:
        """
        Tell whether every device is validly metered all through an interval.
        """
        whole = end_us - start_us
        is_there = bool(self.curves) and not self.missing_devices
        return is_there and all(
            curve.covered_us(start_us, end_us) == whole for curve in self.curves
        )

    def coverage_ppm(self, curve: EnergyCurve) -> int:
        """
        Return which part of the whole time a device is validly metered, in millionths.
        """
        whole = self.end_us - self.start_us
        return curve.covered_us(self.start_us, self.end_us) * _PPM // whole if whole else 0


def validate(series: PowerSeries, rules: Rules) -> Meter:
    """
    Return the valid intervals of each device and the faults of the others.
    """
    by_device: dict[str, list[Reading]] = {}
    for reading in series.readings:
        by_device.setdefault(reading.device, []).append(reading)
    times = [reading.at_us for reading in series.readings]
    start_us, end_us = (min(times), max(times)) if times else (0, 0)
    curves: list[EnergyCurve] = []
    faults: list[Fault] = []
    for device in sorted(by_device):
        track = _Track(device, rules, series.counter_ranges_uj.get(device))
        for reading in by_device[device]:
            track.add(reading)
        track.finish(start_us, end_us)
        curves.append(EnergyCurve(device, track.segments, unplaced_uj=track.unplaced_uj))
        faults.extend(track.faults)
    missing = sorted(rules.expected_devices - by_device.keys())
    faults.extend(
        Fault(
            kind=FaultKind.MISSING_DEVICE,
            device=device,
            start_us=start_us,
            end_us=end_us,
            row=None,
            column="device",
            text="is expected and has no readings",
        )
        for device in missing
    )
    return Meter(
        curves=curves,
        faults=faults,
        start_us=start_us,
        end_us=end_us,
        missing_devices=missing,
    )


class _Track:
    """
    The readings of one device, as they come.
    """

    def __init__(self, device: str, rules: Rules, counter_range_uj: int | None) -> None:
        self.segments: list[Segment] = []
        self.faults: list[Fault] = []
        self.unplaced_uj = 0
        self._device = device
        self._rules = rules
        self._range_uj = counter_range_uj
        self._first_us: int | None = None
        self._last: Reading | None = None
        self._left_out: list[tuple[FaultKind, Reading, str]] = []  # since the last good one

    def add(self, reading: Reading) -> None:
        """
        Judge the next reading and the interval before it.
        """
        bad = self._find_bad(reading)
        last = self._last
        if bad is not None:
            self._left_out.append((bad[0], reading, bad[1]))
        elif last is None:
            self._close_left_out(reading.at_us)
            self._first_us = reading.at_us
            self._last = reading
        elif reading.at_us == last.at_us:
            self._add_second(reading, last)
        else:
            self._add_interval(last, reading)
            self._last = reading

    def finish(self, start_us: int, end_us: int) -> None:
        """
        Judge the time before the first and after the last good reading.
        """
        self._close_left_out(end_us)
        text = "has no valid readings while others have"
        if self._last is None or self._first_us is None:
            self._note(FaultKind.MISSING_DEVICE, start_us, end_us, None, "device", text)
            return
        for begin, end in ((start_us, self._first_us), (self._last.at_us, end_us)):
            if end - begin > self._rules.gap_max_us:
                self._note(FaultKind.MISSING_DEVICE, begin, end, None, "device", text)

    def _find_bad(self, reading: Reading) -> tuple[FaultKind, str] | None:
        value, last = reading.value, self._last
        if value is None:
            return FaultKind.NOT_A_NUMBER, "is no number"
        if value < 0:
            return FaultKind.NEGATIVE, "is negative"
        if reading.quantity is Quantity.POWER and value > self._rules.power_max_uw:
            limit = self._rules.power_max_uw // 1_000_000
            return FaultKind.IMPLAUSIBLE, f"is above {limit} W, the most a device can take"
        if last is not None and reading.quantity is not last.quantity:
            return FaultKind.MIXED_QUANTITIES, "tells power and a counter in turns"
        if last is not None and reading.at_us < last.at_us:
            return FaultKind.TIME_BACKWARDS, "is before the reading above it"
        return None

    def _add_second(self, reading: Reading, last: Reading) -> None:
        at_us = reading.at_us
        if reading.value == last.value:
            text = "is there twice with the same value; counted once"
            self._note(FaultKind.DUPLICATE, at_us, at_us, reading.row, "time", text)
            return
        start_us = at_us
        if self.segments and self.segments[-1].end_us == at_us:
            start_us = self.segments.pop().start_us
        text = "is there twice with different values"
        self._note(FaultKind.CONTRADICTION, start_us, at_us, reading.row, "time", text)
        self._left_out.append((FaultKind.CONTRADICTION, reading, text))

    def _add_interval(self, last: Reading, reading: Reading) -> None:
        assert last.value is not None, "a reading without a number is left out"
        assert reading.value is not None, "a reading without a number is left out"
        duration_us = reading.at_us - last.at_us
        was_contradicted = any(kind is FaultKind.CONTRADICTION for kind, *_ in self._left_out)
        is_whole = not self._left_out
        self._close_left_out(reading.at_us)
        if duration_us > self._rules.gap_max_us:
            text = f"is {duration_us / 1e6:.3f} s after the last valid reading"
            self._note(FaultKind.GAP, last.at_us, reading.at_us, reading.row, "time", text)
            is_whole = False
        start_level, end_level = last.value, reading.value
        if reading.quantity is Quantity.COUNTER:
            counted = self._find_counted(last, reading)
            if counted is None:
                return
            start_level, end_level = 0, counted
            if not is_whole and not was_contradicted:
                self.unplaced_uj += counted
        if is_whole:
            self.segments.append(
                Segment(
                    start_us=last.at_us,
                    end_us=reading.at_us,
                    quantity=reading.quantity,
                    start_level=start_level,
                    end_level=end_level,
                )
            )

    def _find_counted(self, last: Reading, reading: Reading) -> int | None:
        """
        Return what a counter counted, or ``None`` (noted) when nobody can tell.
        """
        assert last.value is not None, "a reading without a number is left out"
        assert reading.value is not None, "a reading without a number is left out"
        duration_us = reading.at_us - last.at_us
        possible_uj = self._rules.power_max_uw * duration_us // 1_000_000
        counted = reading.value - last.value
        if counted < 0 and self._range_uj is not None:
            wrapped = counted + self._range_uj
            if 0 <= wrapped <= possible_uj:
                text = "began again at 0; the step over the end is counted"
                self._judge(FaultKind.COUNTER_WRAPPED, last, reading, text, is_lost=False)
                return wrapped
        if counted < 0:
            if reading.value * _RESET_SHARE < last.value:
                self._judge(FaultKind.COUNTER_RESET, last, reading, "was reset")
            else:
                self._judge(FaultKind.COUNTER_BACKWARDS, last, reading, "runs backwards")
            return None
        if counted > possible_uj:
            text = f"jumps by {counted / 1e6:.0f} J in {duration_us / 1e6:.3f} s"
            self._judge(FaultKind.IMPLAUSIBLE, last, reading, text)
            return None
        return counted

    def _judge(
        self,
        kind: FaultKind,
        last: Reading,
        reading: Reading,
        text: str,
        *,
        is_lost: bool = True,
    ) -> None:
        start_us = last.at_us if is_lost else reading.at_us
        self._note(kind, start_us, reading.at_us, reading.row, reading.column, text)

    def _close_left_out(self, end_us: int) -> None:
        for kind, reading, text in self._left_out:
            start_us = self._last.at_us if self._last is not None else reading.at_us
            column = "time" if kind in _OF_TIME else reading.column
            self._note(kind, start_us, max(end_us, start_us), reading.row, column, text)
        self._left_out.clear()

    def _note(
        self, kind: FaultKind, start_us: int, end_us: int, row: int | None, column: str, text: str
    ) -> None:
        self.faults.append(
            Fault(
                kind=kind,
                device=self._device,
                start_us=start_us,
                end_us=end_us,
                row=row,
                column=column,
                text=text,
            )
        )
