"""
Divide metered energy among calls by engine step, phase and residency; pure.

1. Steps that follow each other are gathered in windows, long enough for the meter to tell one
   from the next; a step that is not wholly metered is a window of its own.
2. A window's energy is the meter's, over its steps. The idle floor of that time goes to the calls
   in the engine, in equal parts; the rest by the costs of phases (``costs.py``).
3. Energy outside the steps, and of a window in which nothing has a cost, stays unattributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tokenworks.factory.attribution.costs import (
    Fit,
    PhaseCosts,
    count_terms,
    fit,
    weigh,
)
from tokenworks.factory.attribution.model import (
    Attribution,
    CallEnergy,
    Method,
    Part,
    Step,
)
from tokenworks.factory.attribution.sharing import share
from tokenworks.factory.energy.validation import Meter

WINDOW_US_DEFAULT: Final = 1_000_000
_IDLE_MIN_US: Final = 1_000_000
"""A pause between steps shorter than this tells nothing about the idle floor."""

_IDLE_MARGIN_US: Final = 250_000
"""Left out at both ends of a pause: meters average over some time."""

_FINE: Final = 1_000_000
_PHASES: Final = (Part.PREFILL, Part.DECODE, Part.CONTEXT)


class IdleSource(StrEnum):
    """
    Where the idle floor comes from.
    """

    GIVEN = "given"
    MEASURED = "measured"  # in pauses between steps
    UNKNOWN = "unknown"  # no pause and nothing given: taken as 0, so phases carry it


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleFloor:
    """
    The power of all devices together while no step runs.
    """

    power_uw: int
    source: IdleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttribution:
    """
    The division, and what it rests on.
    """

    attribution: Attribution
    fit: Fit
    idle: IdleFloor
    steps: int
    steps_not_whole: int  # not validly metered all through


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    steps: Sequence[Step]
    energies_uj: int
    floor_uj: int  # of the energy, at most all of it
    is_whole: bool


def attribute_steps(
    meter: Meter,
    steps: Sequence[Step],
    *,
    idle_uw: int | None = None,
    window_us: int = WINDOW_US_DEFAULT,
    tell: Callable[[int], None] = lambda _: None,
) -> StepAttribution:
    """
    Return what each call used.

    Args:
        meter: What was metered.
        steps: In order, not overlapping.
        idle_uw: Power of all devices together when idle; ``None``: measured in pauses.
        window_us: How long a window is at least; about ten readings of the meter.
        tell: Called with the percentage done, now and then.
    """
    idle = find_idle_floor(meter, steps) if idle_uw is None else _given(idle_uw)
    windows = list(_gather(meter, steps, idle, window_us))
    found = fit(
        [
            (_sum_terms(window.steps), window.energies_uj - window.floor_uj)
            for window in windows
            if window.is_whole
        ]
    )
    tally = _Tally()
    for number, window in enumerate(windows):
        _divide(window, found.costs, tally)
        tell(100 * (number + 1) // len(windows))
    inside_uj = sum(window.energies_uj for window in windows)
    meter_uj = meter.total_uj
    return StepAttribution(
        attribution=Attribution(
            method=Method.STEP_PHASE,
            calls=tally.calls(),
            meter_uj=meter_uj,
            unattributed_uj=meter_uj - tally.given_uj,
            outside_uj=meter_uj - meter.unplaced_uj - inside_uj,
            unplaced_uj=meter.unplaced_uj,
        ),
        fit=found,
        idle=idle,
        steps=len(steps),
        steps_not_whole=sum(len(window.steps) for window in windows if not window.is_whole),
    )


def find_idle_floor(meter: Meter, steps: Sequence[Step]) -> IdleFloor:
    """
    Return the mean power in the pauses between steps, before the first and after the last.
    """
    starts = [meter.start_us, *(step.end_us for step in steps)]
    ends = [*(step.start_us for step in steps), meter.end_us]
    energy_uj = duration_us = 0
    for start_us, end_us in zip(starts, ends, strict=True):
        if end_us - start_us < _IDLE_MIN_US:
            continue
        inner = (start_us + _IDLE_MARGIN_US, end_us - _IDLE_MARGIN_US)
        if meter.is_covered(*inner):
            energy_uj += meter.energy_uj(*inner)
            duration_us += inner[1] - inner[0]
    if duration_us == 0:
        return IdleFloor(power_uw=0, source=IdleSource.UNKNOWN)
    return IdleFloor(power_uw=energy_uj * 1_000_000 // duration_us, source=IdleSource.MEASURED)


def _given(idle_uw: int) -> IdleFloor:
    return IdleFloor(power_uw=idle_uw, source=IdleSource.GIVEN)


def _gather(
    meter: Meter, steps: Sequence[Step], idle: IdleFloor, window_us: int
) -> Iterable[_Window]:
    gathered: list[Step] = []
    for step in steps:
        if not meter.is_covered(step.start_us, step.end_us):
            if gathered:
                yield _measure(meter, gathered, idle, is_whole=True)
                gathered = []
            yield _measure(meter, [step], idle, is_whole=False)
            continue
        gathered.append(step)
        if step.end_us - gathered[0].start_us >= window_us:
            yield _measure(meter, gathered, idle, is_whole=True)
            gathered = []
    if gathered:
        yield _measure(meter, gathered, idle, is_whole=True)


def _measure(meter: Meter, steps: Sequence[Step], idle: IdleFloor, *, is_whole: bool) -> _Window:
    energies_uj = sum(meter.energy_uj(step.start_us, step.end_us) for step in steps)
    covered_us = sum(meter.covered_us(step.start_us, step.end_us) for step in steps)
    return _Window(
        steps=list(steps),
        energies_uj=energies_uj,
        floor_uj=min(energies_uj, idle.power_uw * covered_us // 1_000_000),
        is_whole=is_whole,
    )


def _sum_terms(steps: Sequence[Step]) -> list[int]:
    return [sum(column) for column in zip(*(count_terms(step) for step in steps), strict=True)]


def _divide(window: _Window, costs: PhaseCosts, tally: _Tally) -> None:
    calls: list[str] = []
    residency: list[int] = []
    phases: list[int] = []
    for step in window.steps:
        decoding = sum(1 for one in step.work if one.decode_tokens)
        stay = (step.end_us - step.start_us) * _FINE // len(step.work)
        for one in step.work:
            calls.append(one.call)
            residency.append(stay)
            phases.extend(weigh(one, costs, decoding=decoding))
            tokens = one.prefill_tokens + one.decode_tokens
            tally.note(one.call, tokens, is_whole=window.is_whole)
    for call, part_uj in zip(calls, share(window.floor_uj, residency), strict=True):
        tally.give(call, Part.RESIDENCY, part_uj)
    shares = share(window.energies_uj - window.floor_uj, phases)
    for place, part_uj in enumerate(shares):
        tally.give(calls[place // len(_PHASES)], _PHASES[place % len(_PHASES)], part_uj)


class _Tally:
    """
    What calls were given so far.
    """

    def __init__(self) -> None:
        self.given_uj = 0
        self._parts: dict[str, dict[Part, int]] = {}
        self._tokens: dict[str, int] = {}
        self._not_whole: set[str] = set()

    def note(self, call: str, tokens: int, *, is_whole: bool) -> None:
        if call not in self._parts:
            self._parts[call] = dict.fromkeys((*_PHASES, Part.RESIDENCY), 0)
        self._tokens[call] = self._tokens.get(call, 0) + tokens
        if not is_whole:
            self._not_whole.add(call)

    def give(self, call: str, part: Part, energy_uj: int) -> None:
        self._parts[call][part] += energy_uj
        self.given_uj += energy_uj

    def calls(self) -> list[CallEnergy]:
        return [
            CallEnergy(
                call=call,
                parts_uj=parts,
                tokens=self._tokens[call],
                is_whole=call not in self._not_whole,
            )
            for call, parts in self._parts.items()
        ]
