"""
Divide an interval's energy by the engine's step log; pure.

As ``factory attribute`` does offline (``factory/attribution/by_step.py``): windows of about a
second, the idle floor of each to the calls in the engine, the rest by the costs of phases. A step
over the interval's edge counts by its part inside. Steps name calls by the hub's call id; what
steps did for anybody else stays unattributed, as does all energy outside the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from tokenworks.factory.attribution.costs import CostSource, Fit, count_terms, fit, weigh
from tokenworks.factory.attribution.model import Part, Step
from tokenworks.factory.attribution.sharing import share
from tokenworks.factory.energy.validation import Meter
from tokenworks.factory.live.model import CallShare, EngineCall, ShareMethod

WINDOW_US: Final = 1_000_000
PAUSE_US_MIN: Final = 1_000_000
PAUSE_MARGIN_US: Final = 250_000
WINDOWS_KEPT: Final = 600
_FINE: Final = 1_000_000
_PHASES: Final = (Part.PREFILL, Part.DECODE, Part.CONTEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    Steps that follow each other, and what was metered over them.
    """

    steps: Sequence[Step]
    energy_uj: int
    covered_us: int
    is_metered: bool  # all of it
    is_cut: bool  # a step of it goes over the interval's edge


@dataclass(slots=True)
class Experience:
    """
    What an engine's windows and pauses took lately: its costs of phases and its idle floor.
    """

    windows: dict[int, tuple[tuple[int, ...], int, int]] = field(
        default_factory=dict[int, tuple[tuple[int, ...], int, int]]
    )  # by start: terms, energy, covered time
    pauses: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def learn(
        self, windows: Iterable[Window], pauses: Iterable[tuple[int, int]], meter: Meter
    ) -> None:
        """
        Add what is wholly metered; the same again changes nothing.
        """
        for window in windows:
            if window.is_metered and not window.is_cut:
                terms = zip(*(count_terms(step) for step in window.steps), strict=True)
                sums = tuple(sum(column) for column in terms)
                known = (sums, window.energy_uj, window.covered_us)
                self.windows[window.steps[0].start_us] = known
        for start_us, end_us in pauses:
            inner = (start_us + PAUSE_MARGIN_US, end_us - PAUSE_MARGIN_US)
            if meter.is_covered(*inner):
                self.pauses[start_us] = (meter.energy_uj(*inner), inner[1] - inner[0])
        for kept in (self.windows, self.pauses):
            for start_us in sorted(kept)[:-WINDOWS_KEPT]:
                del kept[start_us]

    @property
    def idle_uw(self) -> int:
        """
        Return the power while nothing ran; 0 where there was no pause: phases carry it then.
        """
        duration_us = sum(duration for _, duration in self.pauses.values())
        energy_uj = sum(energy for energy, _ in self.pauses.values())
        return energy_uj * 1_000_000 // duration_us if duration_us else 0

    def fit(self) -> Fit:
        """
        Return the costs that explain the windows best, or another machine's.
        """
        idle_uw = self.idle_uw
        return fit(
            [
                (terms, energy_uj - _floor(energy_uj, covered_us, idle_uw))
                for terms, energy_uj, covered_us in self.windows.values()
            ]
        )


def divide_by_steps(
    meter: Meter,
    steps: Sequence[Step],
    calls: Sequence[EngineCall],
    start_us: int,
    end_us: int,
    *,
    experience: Experience,
    gap_max_us: int,
) -> tuple[list[CallShare], list[tuple[int, int]]]:
    """
    Return what calls got of an interval, and the times in which the log was silent for too long.

    Args:
        meter: What was metered.
        steps: That touch the interval, in order, not overlapping.
        calls: That ran in it, or that steps name.
        start_us: Of the interval.
        end_us: Of the interval.
        experience: What the engine took before; learns from this interval.
        gap_max_us: A call that ran in a longer silence is not whole.
    """
    windows = gather(meter, steps, start_us, end_us)
    experience.learn(windows, find_pauses(steps, calls, start_us, end_us), meter)
    found, idle_uw = experience.fit(), experience.idle_uw
    silences = find_silences(steps, start_us, end_us, gap_max_us)
    given = share_by_steps(
        windows, calls, found=found, idle_uw=idle_uw, start_us=start_us, end_us=end_us
    )
    shares = to_shares(
        calls,
        given,
        is_fitted=found.source is CostSource.FITTED,
        not_whole=find_not_whole(windows, calls, silences),
    )
    return shares, silences


def gather(meter: Meter, steps: Sequence[Step], start_us: int, end_us: int) -> list[Window]:
    """
    Return the windows of an interval; a step that is not wholly metered is one by itself.
    """
    windows: list[Window] = []
    gathered: list[Step] = []

    def close() -> None:
        if gathered:
            windows.append(_measure(meter, gathered, start_us, end_us))
            gathered.clear()

    for step in steps:
        begin, end = max(step.start_us, start_us), min(step.end_us, end_us)
        if begin >= end:
            continue
        if not meter.is_covered(begin, end):
            close()
            windows.append(_measure(meter, [step], start_us, end_us))
            continue
        gathered.append(step)
        if end - max(gathered[0].start_us, start_us) >= WINDOW_US:
            close()
    close()
    return windows


def find_silences(
    steps: Sequence[Step], start_us: int, end_us: int, least_us: int
) -> list[tuple[int, int]]:
    """
    Return the times of an interval without a step that are longer than something.
    """
    ends = [start_us, *(min(step.end_us, end_us) for step in steps)]
    starts = [*(max(step.start_us, start_us) for step in steps), end_us]
    return [(begin, end) for begin, end in zip(ends, starts, strict=True) if end - begin > least_us]


def find_pauses(
    steps: Sequence[Step], calls: Sequence[EngineCall], start_us: int, end_us: int
) -> list[tuple[int, int]]:
    """
    Return the times in which the engine had nothing to do: no step, and no call of this hub.
    """
    return [
        (begin, end)
        for begin, end in find_silences(steps, start_us, end_us, PAUSE_US_MIN)
        if not any(call.start_us < end and call.end_us > begin for call in calls)
    ]


def share_by_steps(
    windows: Sequence[Window],
    calls: Sequence[EngineCall],
    *,
    found: Fit,
    idle_uw: int,
    start_us: int,
    end_us: int,
) -> dict[UUID, dict[Part, int]]:
    """
    Return what each call got of the windows; others' parts are left out.
    """
    ours = {str(call.call_id): call.call_id for call in calls}
    given: dict[UUID, dict[Part, int]] = {}
    for window in windows:
        names: list[str] = []
        stays: list[int] = []
        weights: list[int] = []
        for step in window.steps:
            inside_us = min(step.end_us, end_us) - max(step.start_us, start_us)
            part = inside_us * _FINE // (step.end_us - step.start_us)
            decoding = sum(1 for one in step.work if one.decode_tokens)
            for one in step.work:
                names.append(one.call)
                stays.append(inside_us * _FINE // len(step.work))
                weights += [weight * part for weight in weigh(one, found.costs, decoding=decoding)]
        floor_uj = _floor(window.energy_uj, window.covered_us, idle_uw)
        for name, part_uj in zip(names, share(floor_uj, stays), strict=True):
            _give(given, ours.get(name.lower()), Part.RESIDENCY, part_uj)
        for place, part_uj in enumerate(share(window.energy_uj - floor_uj, weights)):
            call_id = ours.get(names[place // len(_PHASES)].lower())
            _give(given, call_id, _PHASES[place % len(_PHASES)], part_uj)
    return given


def to_shares(
    calls: Sequence[EngineCall],
    given: Mapping[UUID, Mapping[Part, int]],
    *,
    is_fitted: bool,
    not_whole: frozenset[UUID],
) -> list[CallShare]:
    """
    Return a share for each call, also for those that no step worked for.
    """
    method = ShareMethod.STEP_PHASE if is_fitted else ShareMethod.STEP_PHASE_ASSUMED
    shares: dict[UUID, CallShare] = {}
    for call in calls:
        parts = given.get(call.call_id, {})
        shares[call.call_id] = CallShare(
            call_id=call.call_id,
            organisation_id=call.organisation_id,
            energy_uj=sum(parts.values()),
            prefill_uj=parts.get(Part.PREFILL, 0),
            decode_uj=parts.get(Part.DECODE, 0),
            context_uj=parts.get(Part.CONTEXT, 0),
            residency_uj=parts.get(Part.RESIDENCY, 0),
            method=method,
            is_whole=call.call_id not in not_whole,
        )
    return list(shares.values())


def find_not_whole(
    windows: Sequence[Window],
    calls: Sequence[EngineCall],
    silences: Sequence[tuple[int, int]],
) -> frozenset[UUID]:
    """
    Return the calls of which a moment was not metered, or that ran while the log was silent.
    """
    ours = {str(call.call_id): call.call_id for call in calls}
    named = {
        one.call.lower()
        for window in windows
        if not window.is_metered
        for step in window.steps
        for one in step.work
    }
    found = {ours[name] for name in named if name in ours}
    for begin, end in silences:
        found |= {call.call_id for call in calls if call.start_us < end and call.end_us > begin}
    return frozenset(found)


def named_calls(steps: Sequence[Step]) -> list[UUID]:
    """
    Return the ids of calls that steps name; another name is somebody else's call.
    """
    found: set[UUID] = set()
    for name in {one.call for step in steps for one in step.work}:
        try:
            call_id = UUID(name)
        except ValueError:
            continue
        if str(call_id) == name.lower():
            found.add(call_id)
    return sorted(found)


def _measure(meter: Meter, steps: Sequence[Step], start_us: int, end_us: int) -> Window:
    inside = [
        replace(step, start_us=max(step.start_us, start_us), end_us=min(step.end_us, end_us))
        for step in steps
    ]
    return Window(
        steps=list(steps),
        energy_uj=sum(meter.energy_uj(step.start_us, step.end_us) for step in inside),
        covered_us=sum(meter.covered_us(step.start_us, step.end_us) for step in inside),
        is_metered=all(meter.is_covered(step.start_us, step.end_us) for step in inside),
        is_cut=any(step.start_us < start_us or step.end_us > end_us for step in steps),
    )


def _floor(energy_uj: int, covered_us: int, idle_uw: int) -> int:
    return min(energy_uj, idle_uw * covered_us // 1_000_000)


def _give(
    given: dict[UUID, dict[Part, int]], call_id: UUID | None, part: Part, energy_uj: int
) -> None:
    if call_id is not None:
        parts = given.setdefault(call_id, {})
        parts[part] = parts.get(part, 0) + energy_uj
