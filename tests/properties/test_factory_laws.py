"""
Laws of the token factory: energy is neither made nor lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from tokenworks.factory.attribution.by_overlap import attribute_spans
from tokenworks.factory.attribution.by_step import attribute_steps
from tokenworks.factory.attribution.model import Span, Step, StepPhase, Work
from tokenworks.factory.attribution.sharing import share
from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading, Rules
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.live.dividing import divide, unplaced_between
from tokenworks.factory.live.model import EngineCall, EngineCounters
from tokenworks.metering.timings import EngineTimings

SPAN_US = 4_000_000
RULES = Rules(gap_max_us=500_000, power_max_uw=2_000_000_000)

values = st.one_of(
    st.integers(0, 900_000_000),
    st.none(),
    st.integers(-5, -1),
    st.just(3_000_000_000),
)


@st.composite
def series(draw: st.DrawFn) -> PowerSeries:
    """
    Readings of one or two devices with gaps, resets, duplicates, holes and a clock that jumps.
    """
    readings: list[Reading] = []
    ranges: dict[str, int] = {}
    for device in ("a", "b")[: draw(st.integers(1, 2))]:
        quantity = draw(st.sampled_from(Quantity))
        at_us = draw(st.integers(0, 300_000))
        counter = draw(st.integers(0, 1_000_000_000))
        if draw(st.booleans()):
            ranges[device] = 1_000_000_000
        for _ in range(draw(st.integers(1, 25))):
            value = draw(values)
            if quantity is Quantity.COUNTER and value is not None and draw(st.integers(0, 9)):
                counter = (counter + value // 10) % 1_000_000_000
                value = counter
            readings.append(Reading(device=device, at_us=at_us, quantity=quantity, value=value))
            at_us += draw(st.sampled_from((0, 1, 99_999, 100_000, 333_333, 700_000, -50_000)))
    return PowerSeries(readings=readings, counter_ranges_uj=ranges)


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """
    Steps in order, some before, between and after the readings.
    """
    made: list[Step] = []
    at_us = draw(st.integers(0, 500_000))
    for number in range(draw(st.integers(0, 30))):
        end_us = at_us + draw(st.integers(1, 200_000))
        calls = draw(st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4, unique=True))
        work = [
            Work(
                call=call,
                prefill_tokens=draw(st.integers(0, 3_000)),
                decode_tokens=draw(st.integers(0, 2)),
                context_tokens=draw(st.integers(0, 9_000)),
            )
            for call in calls
        ]
        made.append(
            Step(
                name=str(number),
                start_us=at_us,
                end_us=end_us,
                phase=StepPhase.MIXED,
                work=work,
                row=number,
            )
        )
        at_us = end_us + draw(st.sampled_from((0, 7, 50_000, 1_500_000)))
    return made


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    """
    Spans that overlap as they like.
    """
    starts = sorted(draw(st.lists(st.integers(0, SPAN_US), max_size=12)))
    return [
        Span(
            call=f"call-{place}",
            start_us=start_us,
            end_us=start_us + draw(st.integers(1, SPAN_US)),
            prefill_tokens=1,
            decode_tokens=1,
            row=place,
        )
        for place, start_us in enumerate(starts)
    ]


@given(
    total=st.integers(0, 10**18),
    weights=st.lists(st.integers(0, 10**24), max_size=20),
)
@example(total=1, weights=[1, 1, 1])
def test_shares_sum_to_the_whole_and_are_fair(total: int, weights: list[int]) -> None:
    """
    Parts sum to the total, and each is less than one unit from its exact share.
    """
    parts = share(total, weights)

    whole = sum(weights)
    assert sum(parts) == (total if whole else 0)
    for part, weight in zip(parts, weights, strict=True):
        assert whole == 0 or abs(part - Fraction(total * weight, whole)) < 1


@given(
    power=series(),
    log=steps(),
    idle_uw=st.one_of(st.none(), st.integers(0, 10**9)),
    window_us=st.sampled_from((1, 300_000, 1_000_000)),
)
def test_steps_conserve_energy(
    power: PowerSeries, log: list[Step], idle_uw: int | None, window_us: int
) -> None:
    """
    Calls and the unattributed rest are the meter's total to the microjoule; nothing is negative.
    """
    meter = validate(power, RULES)

    found = attribute_steps(meter, log, idle_uw=idle_uw, window_us=window_us).attribution

    parts = [part for call in found.calls for part in call.parts_uj.values()]
    assert sum(parts) + found.unattributed_uj == meter.total_uj
    assert min([0, *parts]) == 0
    assert found.unattributed_uj >= found.outside_uj + found.unplaced_uj
    assert found.outside_uj >= 0
    assert {call.call for call in found.calls} == {one.call for step in log for one in step.work}


@given(power=series(), log=spans())
def test_spans_conserve_energy(power: PowerSeries, log: list[Span]) -> None:
    """
    Overlap shares and the rest are the meter's total: all of it while a call ran is given.
    """
    meter = validate(power, RULES)

    found = attribute_spans(meter, log)

    assert sum(call.total_uj for call in found.calls) + found.unattributed_uj == meter.total_uj
    assert found.unattributed_uj == found.outside_uj + found.unplaced_uj


@given(power=series(), cuts=st.lists(st.integers(0, SPAN_US), min_size=2, max_size=30))
def test_energies_of_adjoining_intervals_add_up(power: PowerSeries, cuts: list[int]) -> None:
    """
    However an interval is cut, the remainder is carried: parts sum to the whole.
    """
    meter = validate(power, RULES)
    cuts.sort()

    parts = [meter.energy_uj(start, end) for start, end in pairwise(cuts)]

    assert sum(parts) == meter.energy_uj(cuts[0], cuts[-1])
    assert min(parts) >= 0


@given(power=series())
def test_energy_is_the_exact_integral_of_valid_segments(power: PowerSeries) -> None:
    """
    Each device's energy is the trapezoid (or the counter's steps) over what is valid, rounded
    down once; no invalid interval has energy or cover.
    """
    meter = validate(power, RULES)

    for curve in meter.curves:
        exact = Fraction(0)
        for segment in curve._segments:
            if segment.quantity is Quantity.COUNTER:
                exact += segment.end_level
            else:
                mean = Fraction(segment.start_level + segment.end_level, 2)
                exact += mean * segment.duration_us / 1_000_000
        assert curve.placed_uj == exact.numerator // exact.denominator
        for fault in meter.faults:
            if fault.device == curve.device:
                assert curve.covered_us(fault.start_us, fault.end_us) == 0
                assert curve.energy_uj(fault.start_us, fault.end_us) == 0


@given(power=series(), log=steps())
def test_whole_calls_were_metered_all_through(power: PowerSeries, log: list[Step]) -> None:
    """
    A call is whole exactly when each step it was in is covered by every device.
    """
    meter = validate(power, RULES)

    found = attribute_steps(meter, log).attribution

    for call in found.calls:
        of_call = [step for step in log if any(one.call == call.call for one in step.work)]
        assert call.is_whole == all(_is_covered(meter, step) for step in of_call)


def _is_covered(meter: Meter, step: Step) -> bool:
    whole = step.end_us - step.start_us
    return all(curve.covered_us(step.start_us, step.end_us) == whole for curve in meter.curves)


@st.composite
def engine_calls(draw: st.DrawFn) -> list[EngineCall]:
    """
    Attempts before, over, in and after an interval, some with phases that fit and some that lie.
    """
    made: list[EngineCall] = []
    for number in range(draw(st.integers(0, 8))):
        start_us = draw(st.integers(0, SPAN_US))
        duration_us = draw(st.integers(1, SPAN_US))
        times = st.integers(0, 2 * duration_us)
        timings = None
        if draw(st.booleans()):
            timings = EngineTimings(
                prompt_us=draw(times), predicted_us=draw(times), prompt_tokens=1, predicted_tokens=1
            )
        made.append(
            EngineCall(
                call_id=UUID(int=draw(st.integers(0, number))),
                organisation_id=UUID(int=1),
                model="m",
                tier="t",
                start_us=start_us,
                first_token_us=draw(st.none() | st.just(start_us + duration_us // 3)),
                end_us=start_us + duration_us,
                input_tokens=draw(st.integers(0, 1_000)),
                cached_tokens=0,
                output_tokens=draw(st.integers(0, 1_000)),
                charge_quanta=0,
                payable_quanta=0,
                timings=timings,
                ended_at=datetime(2026, 1, 1, tzinfo=UTC),
                has_receipt=True,
            )
        )
    return made


engine_counters = st.none() | st.builds(
    EngineCounters,
    prompt_tokens=st.integers(0, 10_000),
    generation_tokens=st.integers(0, 10_000),
    prefill_us=st.integers(0, 10**9),
    decode_us=st.integers(0, 10**9),
)


@given(series(), engine_calls(), engine_counters)
def test_intervals_conserve_energy(
    series: PowerSeries, calls: list[EngineCall], counters: EngineCounters | None
) -> None:
    """
    In each interval calls and rest are the meter, by whatever method; tokens are at most theirs.
    """
    meter = validate(series, RULES)
    step_us = SPAN_US // 4
    counted = [0, 0]
    for start_us in range(0, 3 * SPAN_US, step_us):
        end_us = start_us + step_us
        unplaced_uj = unplaced_between(series, RULES, start_us, end_us)
        division = divide(
            meter, calls, start_us, end_us, counters=counters, unplaced_uj=unplaced_uj
        )
        given_uj = sum(share.energy_uj for share in division.shares)
        assert division.metered_uj == meter.energy_uj(start_us, end_us) + unplaced_uj
        assert given_uj + division.unattributed_uj == division.metered_uj
        assert all(
            0 <= share.prefill_uj + share.decode_uj <= share.energy_uj for share in division.shares
        )
        assert len({share.call_id for share in division.shares}) == len(division.shares)
        counted[0] += division.input_tokens
        counted[1] += division.output_tokens
    # A call's tokens are rounded down in each interval, and it is in all of them.
    for sum_of_parts, whole in zip(
        counted,
        (sum(one.input_tokens for one in calls), sum(one.output_tokens for one in calls)),
        strict=True,
    ):
        assert whole - 12 <= sum_of_parts <= whole
