"""
A live step log: what is kept of it, and how it divides intervals.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.factory.attribution.model import Step, StepPhase, Work
from tokenworks.factory.attribution.step_log import read_step, read_step_line, to_json
from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading, Rules
from tokenworks.factory.energy.validation import validate
from tokenworks.factory.live.by_steps import Experience, divide_by_steps
from tokenworks.factory.live.model import EngineCall, ShareMethod
from tokenworks.factory.live.step_spool import take
from tokenworks.testing.simulated_engine import simulate_engine

SECOND = 1_000_000
FOREVER = 1 << 60


def step(name: str, start: int, end: int, *calls: UUID, decode: int = 1, row: int = 0) -> Step:
    """
    Return a step that wrote for some calls.
    """
    work = [
        Work(call=str(call), prefill_tokens=0, decode_tokens=decode, context_tokens=10)
        for call in calls
    ]
    return Step(name=name, start_us=start, end_us=end, phase=StepPhase.DECODE, work=work, row=row)


def engine_call(call_id: UUID, start_us: int, end_us: int) -> EngineCall:
    """
    Return a call as the gateway saw it.
    """
    return EngineCall(
        call_id=call_id,
        organisation_id=UUID(int=1),
        model="m",
        tier="t",
        start_us=start_us,
        first_token_us=None,
        end_us=end_us,
        input_tokens=1,
        cached_tokens=0,
        output_tokens=1,
        charge_quanta=0,
        payable_quanta=0,
        timings=None,
        ended_at=datetime(2026, 1, 1, tzinfo=UTC),
        has_receipt=True,
    )


def test_steps_out_of_order_twice_and_missing_are_told_and_kept() -> None:
    """
    What comes late is put in its place, the same again counts once, a number left out is named;
    what overlaps or says something else is refused with row and column and keeps nothing else out.
    """
    a = UUID(int=7)
    sent = [
        step("1", 0, 10, a, row=2),
        step("4", 40, 50, a, row=3),
        step("2", 10, 20, a, row=4),
        step("1", 0, 10, a, row=5),
        step("1", 0, 10, a, decode=2, row=6),
        step("9", 15, 45, a, row=7),
        step("5", 50, 60, a, row=8),
        step("6", 60, 60 + 700 * SECOND, a, row=9),
        step("7", FOREVER, FOREVER + 1, a, row=10),
    ]
    taken = take([], sent, latest_us=FOREVER)

    assert [one.name for one in taken.steps] == ["1", "4", "2", "5"]
    assert taken.repeated == 1
    remarks = {(one.row, one.column): one.text for one in taken.remarks}
    assert remarks[3, "step"] == "comes after 1: 2 between are missing; send them too"
    assert remarks[4, "start"].startswith("is out of order: before step 4 began")
    assert remarks[5, "step"].startswith("1 is there already, word by word")
    refused = {(one.row, one.column): one.text for one in taken.refused}
    assert refused.keys() == {(6, "step"), (7, "start"), (9, "end"), (10, "end")}
    assert "said something else" in refused[6, "step"]
    assert "overlaps step" in refused[7, "start"]
    # Sent once more, beside what is kept: nothing new, nothing lost.
    again = take(taken.steps, sent, latest_us=FOREVER)
    assert (again.steps, again.repeated) == ([], 5)


def test_step_is_written_and_read_again_the_same() -> None:
    """
    What is sent is what the log said, to the microsecond.
    """
    line = (
        '{"step": 7, "start": "2026-01-01T00:00:00.020001Z", "end": 1767225600.045, "phase":'
        ' "mixed", "calls": [{"call": "a", "prefill_tokens": 5}, {"call": "b", "decode_tokens":'
        ' 1, "context_tokens": 9}], "resident": ["c"]}\n'
    )
    read = read_step_line(line, "log", 12)
    assert read.row == 12
    assert read_step(to_json(read), "log", 12) == read


def test_step_log_that_says_nothing_of_a_running_call_leaves_it_not_whole() -> None:
    """
    A hole in the log is nobody's energy; who ran in it is marked, and who did not is whole.
    """
    a, b = UUID(int=7), UUID(int=8)
    readings = [
        Reading(device="g", at_us=at * SECOND, quantity=Quantity.POWER, value=100 * SECOND)
        for at in range(11)
    ]
    meter = validate(PowerSeries(readings=readings), Rules())
    steps = [step("1", 0, SECOND, a), step("9", 8 * SECOND, 10 * SECOND, b)]
    calls = [engine_call(a, 0, 5 * SECOND), engine_call(b, 8 * SECOND, 10 * SECOND)]
    shares, silences = divide_by_steps(
        meter, steps, calls, 0, 10 * SECOND, experience=Experience(), gap_max_us=3 * SECOND
    )

    assert silences == [(SECOND, 8 * SECOND)]
    assert [(one.energy_uj, one.is_whole) for one in shares] == [
        (100 * SECOND, False),
        (200 * SECOND, True),
    ]
    assert {one.method for one in shares} == {ShareMethod.STEP_PHASE_ASSUMED}


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Step], list[EngineCall]]:
    """
    Steps of some calls and of strangers, over the edges of intervals; calls that no step names.
    """
    at_us, steps = 0, list[Step]()
    for number in range(draw(st.integers(0, 12))):
        at_us += draw(st.integers(0, 2 * SECOND))
        end_us = at_us + draw(st.integers(1, 3 * SECOND))
        names = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True))
        work = [
            Work(
                call=str(UUID(int=name)),
                prefill_tokens=draw(st.integers(0, 100)),
                decode_tokens=draw(st.integers(0, 3)),
                context_tokens=draw(st.integers(0, 1_000)),
            )
            for name in names
        ]
        steps.append(
            Step(
                name=str(number),
                start_us=at_us,
                end_us=end_us,
                phase=StepPhase.MIXED,
                work=work,
                row=number,
            )
        )
        at_us = end_us
    calls = [engine_call(UUID(int=name), name * SECOND, 3 * name * SECOND) for name in range(1, 5)]
    return steps, calls


@given(logs(), st.lists(st.integers(0, 400), min_size=2, max_size=40))
@settings(max_examples=60)
def test_intervals_divided_by_steps_conserve_energy(
    log: tuple[list[Step], list[EngineCall]], watts: list[int]
) -> None:
    """
    Calls get no more than the meter says of the time of their steps, and every part adds up.
    """
    steps, calls = log
    readings = [
        Reading(device="g", at_us=at * SECOND, quantity=Quantity.POWER, value=power * SECOND)
        for at, power in enumerate(watts)
    ]
    meter = validate(PowerSeries(readings=readings), Rules())
    experience = Experience()
    for start_us in range(0, 40 * SECOND, 4 * SECOND):
        end_us = start_us + 4 * SECOND
        inside = [one for one in steps if one.start_us < end_us and one.end_us > start_us]
        shares, _ = divide_by_steps(
            meter, inside, calls, start_us, end_us, experience=experience, gap_max_us=SECOND
        )
        ran_uj = sum(
            meter.energy_uj(max(one.start_us, start_us), min(one.end_us, end_us)) for one in inside
        )
        given_uj = sum(one.energy_uj for one in shares)
        assert 0 <= given_uj <= ran_uj <= meter.energy_uj(start_us, end_us)
        # All calls of the log together get all of it, where anything has a cost.
        strangers = [engine_call(UUID(int=name), 0, 1) for name in range(1, 7)]
        everyone, _ = divide_by_steps(
            meter, inside, strangers, start_us, end_us, experience=experience, gap_max_us=SECOND
        )
        assert sum(one.energy_uj for one in everyone) <= ran_uj
        for one in shares:
            parts = one.prefill_uj + one.decode_uj + one.context_uj + one.residency_uj
            assert parts == one.energy_uj


def test_simulated_truth_is_found_live_within_five_percent() -> None:
    """
    Interval by interval, with what was learned before: as good as offline. SIMULATION.
    """
    run = simulate_engine(seed=1, calls=250)
    names = {name: UUID(int=number) for number, name in enumerate(run.true_j, start=1)}
    steps = [
        replace(one, work=[replace(part, call=str(names[part.call])) for part in one.work])
        for one in run.steps
    ]
    calls = [engine_call(names[span.call], span.start_us, span.end_us) for span in run.spans]
    meter = validate(run.measure_counter(), Rules())
    experience, got = Experience(), dict.fromkeys(names.values(), 0)
    methods: set[ShareMethod] = set()
    for start_us in range(meter.start_us, meter.end_us, 10 * SECOND):
        end_us = start_us + 10 * SECOND
        shares, _ = divide_by_steps(
            meter,
            [one for one in steps if one.start_us < end_us and one.end_us > start_us],
            [one for one in calls if one.start_us < end_us and one.end_us > start_us],
            start_us,
            end_us,
            experience=experience,
            gap_max_us=3 * SECOND,
        )
        methods |= {one.method for one in shares}
        for one in shares:
            got[one.call_id] += one.energy_uj
    errors = [
        abs(got[call_id] / SECOND - run.true_j[name]) / run.true_j[name]
        for name, call_id in names.items()
    ]

    assert ShareMethod.STEP_PHASE in methods
    assert median(errors) <= 0.05
