"""
Divide an interval's energy among the calls that ran in it; pure.

At each moment the calls at work get equal parts; where nothing is known to work, nobody gets any:

1. ``timings``: llama.cpp told how long it worked on prompt and answer. The answer ends when the
   call ends, the prompt just before it; the call is at work then and not while it waited.
2. ``overlap``: nothing was told. The call is at work from its start to its end.
3. ``vllm_metrics``: the engine counted tokens and the time of phases. What the moments with calls
   of this hub took is split by the phases' times, and each phase by tokens, of which the engine
   counted all: those of nobody's call here stay unattributed.

Parts and rest are whole microjoules: together they are the meter's figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from uuid import UUID

from tokenworks.factory.attribution.model import Part
from tokenworks.factory.attribution.sharing import share
from tokenworks.factory.energy.model import PowerSeries, Reading, Rules
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.live.model import (
    CallShare,
    Division,
    EngineCall,
    EngineCounters,
    ShareMethod,
)

_FINE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """
    A time in which a call is at work, within the interval.
    """

    place: int  # of the call
    part: Part
    start_us: int
    end_us: int


@dataclass(slots=True)
class _Given:
    """
    What a call has got so far.
    """

    parts_uj: dict[Part, int] = field(
        default_factory=lambda: dict.fromkeys((Part.PREFILL, Part.DECODE, Part.OVERLAP), 0)
    )
    is_whole: bool = True


def divide(
    meter: Meter,
    calls: Sequence[EngineCall],
    start_us: int,
    end_us: int,
    *,
    counters: EngineCounters | None = None,
    unplaced_uj: int = 0,
) -> Division:
    """
    Return what calls got of an interval; cost is n log n in its attempts.

    Args:
        meter: What was metered, from before the interval to after it.
        calls: Attempts that ran in it.
        start_us: Of the interval.
        end_us: Of the interval.
        counters: What the engine counted in it; ``None``: it tells none.
        unplaced_uj: What a counter counted over a gap that ends in it.
    """
    calls = [call for call in calls if call.start_us < end_us and call.end_us > start_us]
    given = [_Given() for _ in calls]
    stretches = [
        stretch
        for place, call in enumerate(calls)
        for stretch in _stretches(place, call, start_us, end_us)
    ]
    busy_uj = _share_moments(meter, stretches, given)
    method = ShareMethod.OVERLAP
    if counters is not None and counters.prefill_us + counters.decode_us > 0:
        method = ShareMethod.VLLM_METRICS
        _by_counters(calls, given, busy_uj, counters, start_us, end_us)
    return Division(
        metered_uj=meter.energy_uj(start_us, end_us) + unplaced_uj,
        unplaced_uj=unplaced_uj,
        shares=_by_call(calls, given, method),
        input_tokens=sum(_tokens_within(call, start_us, end_us)[0] for call in calls) // _FINE,
        output_tokens=sum(_tokens_within(call, start_us, end_us)[1] for call in calls) // _FINE,
    )


def _phases(call: EngineCall) -> list[tuple[Part, int, int]]:
    """
    Return when a call was at work, and at what; the parts follow each other.
    """
    timings = call.timings
    if timings is None:
        return [(Part.OVERLAP, call.start_us, call.end_us)]
    # What is told may not fit what the hub saw, by rounding or by error: it is cut, not believed.
    decode_us = max(call.end_us - timings.predicted_us, call.start_us)
    prefill_us = max(decode_us - timings.prompt_us, call.start_us)
    return [(Part.PREFILL, prefill_us, decode_us), (Part.DECODE, decode_us, call.end_us)]


def _stretches(place: int, call: EngineCall, start_us: int, end_us: int) -> Iterable[_Stretch]:
    for part, from_us, until_us in _phases(call):
        begin, end = max(from_us, start_us), min(until_us, end_us)
        if begin < end:
            yield _Stretch(place=place, part=part, start_us=begin, end_us=end)


def _share_moments(meter: Meter, stretches: Sequence[_Stretch], given: Sequence[_Given]) -> int:
    """
    Give those at work equal parts of each moment, and return what all of them together got.

    Everybody at work in a moment gets the same whole microjoules of it, so a running sum of these
    is enough, however many are at work; the remainder goes to the next moment, and where work ends
    to whoever ends.
    """
    events = sorted(
        [(one.start_us, 1, number) for number, one in enumerate(stretches)]
        + [(one.end_us, 0, number) for number, one in enumerate(stretches)]
    )
    begun: dict[int, tuple[int, int]] = {}  # what the sums were when a stretch began
    each_uj = holes = busy_uj = rest_uj = since_us = 0
    for at_us, is_start, number in events:
        if begun and at_us > since_us:
            energy_uj = meter.energy_uj(since_us, at_us)
            busy_uj += energy_uj
            part_uj, rest_uj = divmod(energy_uj + rest_uj, len(begun))
            each_uj += part_uj
            holes += not meter.is_covered(since_us, at_us)
        since_us = at_us
        if is_start:
            begun[number] = each_uj, holes
            continue
        before_uj, before = begun.pop(number)
        one = stretches[number]
        got = given[one.place]
        got.parts_uj[one.part] += each_uj - before_uj
        if not begun:
            got.parts_uj[one.part] += rest_uj
            rest_uj = 0
        if holes > before:
            got.is_whole = False
    return busy_uj


def _by_counters(
    calls: Sequence[EngineCall],
    given: Sequence[_Given],
    busy_uj: int,
    counters: EngineCounters,
    start_us: int,
    end_us: int,
) -> None:
    tokens = [_tokens_within(call, start_us, end_us) for call in calls]
    prefill_uj, decode_uj = share(busy_uj, [counters.prefill_us, counters.decode_us])
    for column, part, energy_uj, counted in (
        (0, Part.PREFILL, prefill_uj, counters.prompt_tokens),
        (1, Part.DECODE, decode_uj, counters.generation_tokens),
    ):
        ours = [one[column] for one in tokens]
        # Tokens of calls that did not come through this hub keep their part.
        others = max(0, counted * _FINE - sum(ours))
        for one, part_uj in zip(given, share(energy_uj, [*ours, others]), strict=False):
            one.parts_uj[part] = part_uj
            one.parts_uj[Part.OVERLAP] = 0


def _tokens_within(call: EngineCall, start_us: int, end_us: int) -> tuple[int, int]:
    """
    Return millionths of tokens read and written within a time, by the part of the phases' time.

    Where no first token is known, or it is the whole answer, both take the whole span.
    """
    first_us = call.first_token_us
    if call.timings is not None:
        (_, read_us, first), _ = _phases(call)
        return (
            _part(call.input_tokens, read_us, first, start_us, end_us),
            _part(call.output_tokens, first, call.end_us, start_us, end_us),
        )
    if first_us is None or not call.start_us < first_us < call.end_us:
        return (
            _part(call.input_tokens, call.start_us, call.end_us, start_us, end_us),
            _part(call.output_tokens, call.start_us, call.end_us, start_us, end_us),
        )
    return (
        _part(call.input_tokens, call.start_us, first_us, start_us, end_us),
        _part(call.output_tokens, first_us, call.end_us, start_us, end_us),
    )


def _part(tokens: int, from_us: int, until_us: int, start_us: int, end_us: int) -> int:
    if from_us == until_us:
        return tokens * _FINE if start_us <= from_us < end_us else 0
    inside_us = max(0, min(until_us, end_us) - max(from_us, start_us))
    return tokens * _FINE * inside_us // (until_us - from_us)


def _by_call(
    calls: Sequence[EngineCall], given: Sequence[_Given], method: ShareMethod
) -> list[CallShare]:
    """
    Add up the attempts of each call.
    """
    shares: dict[UUID, CallShare] = {}
    for call, got in zip(calls, given, strict=True):
        before = shares.get(call.call_id)
        told = call.timings is not None and method is ShareMethod.OVERLAP
        shares[call.call_id] = CallShare(
            call_id=call.call_id,
            organisation_id=call.organisation_id,
            energy_uj=sum(got.parts_uj.values()) + (before.energy_uj if before else 0),
            prefill_uj=got.parts_uj[Part.PREFILL] + (before.prefill_uj if before else 0),
            decode_uj=got.parts_uj[Part.DECODE] + (before.decode_uj if before else 0),
            method=ShareMethod.TIMINGS if told else method,
            is_whole=got.is_whole and (before is None or before.is_whole),
        )
    return list(shares.values())


def count_between(samples: Sequence[tuple[int, int]], start_us: int, end_us: int) -> int | None:
    """
    Return how far a counter of the engine went in an interval, in its own unit.

    ``None`` where it is not known: it is not told just before and just after both ends, it went
    back, as a restarted engine's does, or its clock did.
    """
    last = next((place for place, (at_us, _) in enumerate(samples) if at_us >= end_us), None)
    if last is None:
        return None
    first = max((place for place in range(last) if samples[place][0] <= start_us), default=None)
    if first is None:
        return None
    told = samples[first : last + 1]
    if any(one[0] > two[0] or one[1] > two[1] for one, two in pairwise(told)):
        return None
    return _level(told, end_us) - _level(told, start_us)


def _level(samples: Sequence[tuple[int, int]], at_us: int) -> int:
    """
    Return a counter at a moment, on a straight line between the samples beside it.
    """
    (left_us, left) = max(one for one in samples if one[0] <= at_us)
    (right_us, right) = min(one for one in samples if one[0] >= at_us)
    if right_us == left_us:
        return left
    return left + (right - left) * (at_us - left_us) // (right_us - left_us)


def unplaced_between(series: PowerSeries, rules: Rules, start_us: int, end_us: int) -> int:
    """
    Return what counters counted over gaps that end within an interval.

    It is metered, and no moment of it is known; each gap ends in one interval, so it counts once.
    """

    def until(at_us: int) -> int:
        # Up to each device's first reading after the moment: what comes behind it with an earlier
        # time, because a clock went back, is no part of the time before.
        past: set[str] = set()
        readings: list[Reading] = []
        for reading in series.readings:
            if reading.at_us > at_us:
                past.add(reading.device)
            elif reading.device not in past:
                readings.append(reading)
        return validate(replace(series, readings=readings), rules).unplaced_uj

    return until(end_us) - until(start_us)
