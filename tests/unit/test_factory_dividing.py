"""
An interval's energy among the calls that ran in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading, Rules
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.live.dividing import count_between, divide, unplaced_between
from tokenworks.factory.live.model import EngineCall, EngineCounters, ShareMethod, interval_id
from tokenworks.metering.timings import EngineTimings, from_llama_cpp

SECOND = 1_000_000
RULES = Rules(gap_max_us=3 * SECOND)
LLAMA = {"prompt_n": 34, "prompt_ms": 500.0, "predicted_n": 12, "predicted_ms": 250.5, "cache_n": 0}


def steady(watts: int, *, seconds: int = 20) -> Meter:
    """
    Return a meter that says the same each second.
    """
    readings = [
        Reading(device="a", at_us=at * SECOND, quantity=Quantity.POWER, value=watts * SECOND)
        for at in range(seconds + 1)
    ]
    return validate(PowerSeries(readings=readings), RULES)


def call(
    number: int,
    start_s: float,
    end_s: float,
    *,
    first_s: float | None = None,
    tokens: tuple[int, int] = (10, 20),
    timings: EngineTimings | None = None,
) -> EngineCall:
    """
    Return an ended call.
    """
    return EngineCall(
        call_id=UUID(int=number),
        organisation_id=UUID(int=1_000),
        model="m",
        tier="standard",
        start_us=round(start_s * SECOND),
        first_token_us=None if first_s is None else round(first_s * SECOND),
        end_us=round(end_s * SECOND),
        input_tokens=tokens[0],
        cached_tokens=0,
        output_tokens=tokens[1],
        charge_quanta=0,
        payable_quanta=0,
        timings=timings,
        ended_at=datetime(2026, 1, 1, tzinfo=UTC),
        has_receipt=True,
    )


def joules(meter: Meter, calls: Sequence[EngineCall]) -> list[float]:
    """
    Return what calls got of the first ten seconds.
    """
    return [share.energy_uj / SECOND for share in divide(meter, calls, 0, 10 * SECOND).shares]


def test_calls_share_each_moment_equally() -> None:
    """
    Alone a call gets all, together they get halves, outside the interval nothing.
    """
    calls = [call(1, 0, 4), call(2, 2, 6), call(3, 8, 12), call(4, 11, 12)]

    assert joules(steady(100), calls) == [300, 300, 200]
    division = divide(steady(100), calls, 0, 10 * SECOND)
    assert division.unattributed_uj == 200 * SECOND
    assert {share.method for share in division.shares} == {ShareMethod.OVERLAP}
    # Of the third call half its time, so half its tokens.
    assert (division.input_tokens, division.output_tokens) == (25, 50)


def test_waiting_costs_nothing_where_the_engine_tells_its_phases() -> None:
    """
    The answer ends with the call, the prompt just before it: what comes earlier is the queue.
    """
    told = EngineTimings(
        prompt_us=SECOND, predicted_us=2 * SECOND, prompt_tokens=5, predicted_tokens=9
    )
    division = divide(steady(100), [call(1, 0, 8, timings=told)], 0, 10 * SECOND)
    (share,) = division.shares

    assert (share.prefill_uj, share.decode_uj) == (100 * SECOND, 200 * SECOND)
    assert share.energy_uj == 300 * SECOND
    assert share.method is ShareMethod.TIMINGS
    assert division.unattributed_uj == 700 * SECOND


def test_phases_longer_than_the_call_are_cut() -> None:
    """
    What an engine says cannot make a call longer than the hub saw it.
    """
    told = EngineTimings(
        prompt_us=90 * SECOND, predicted_us=2 * SECOND, prompt_tokens=5, predicted_tokens=9
    )
    (share,) = divide(steady(100), [call(1, 4, 8, timings=told)], 0, 10 * SECOND).shares

    assert (share.prefill_uj, share.decode_uj) == (200 * SECOND, 200 * SECOND)


def test_engine_counters_leave_others_their_tokens() -> None:
    """
    The phases' times split the energy, tokens split the phases; a third of the prompt tokens and
    half of the answers' came from elsewhere.
    """
    counters = EngineCounters(
        prompt_tokens=90, generation_tokens=80, prefill_us=SECOND, decode_us=3 * SECOND
    )
    calls = [
        call(1, 0, 10, first_s=2, tokens=(20, 10)),
        call(2, 0, 10, first_s=5, tokens=(40, 30)),
    ]
    division = divide(steady(100), calls, 0, 10 * SECOND, counters=counters)
    one, two = division.shares

    assert division.metered_uj == 1_000 * SECOND
    assert (one.prefill_uj, two.prefill_uj) == (55_555_556, 111_111_111)
    assert (one.decode_uj, two.decode_uj) == (93_750_000, 281_250_000)
    assert {share.method for share in division.shares} == {ShareMethod.VLLM_METRICS}
    assert division.unattributed_uj == 1_000 * SECOND - 541_666_667


def test_engine_counters_without_phases_are_not_used() -> None:
    """
    Nothing finished in the interval, so the engine told no times: by overlap.
    """
    counters = EngineCounters(prompt_tokens=0, generation_tokens=7, prefill_us=0, decode_us=0)
    (share,) = divide(steady(100), [call(1, 0, 10)], 0, 10 * SECOND, counters=counters).shares

    assert share.method is ShareMethod.OVERLAP
    assert share.energy_uj == 1_000 * SECOND


def test_attempts_of_a_call_are_added_up() -> None:
    """
    Who was asked twice used the energy of both.
    """
    assert joules(steady(100), [call(1, 0, 2), call(1, 3, 5)]) == [400]


def test_call_over_a_gap_is_marked_and_nothing_is_made_up() -> None:
    """
    What was not metered has no energy and no call gets any for it.
    """
    readings = [
        Reading(device="a", at_us=at * SECOND, quantity=Quantity.POWER, value=100 * SECOND)
        for at in (0, 1, 2, 8, 9, 10)
    ]
    meter = validate(PowerSeries(readings=readings), RULES)
    over, before = divide(meter, [call(1, 1, 9), call(2, 0, 1)], 0, 10 * SECOND).shares

    assert (over.energy_uj, over.is_whole) == (200 * SECOND, False)
    assert (before.energy_uj, before.is_whole) == (100 * SECOND, True)


def test_what_was_counted_over_a_gap_counts_where_the_gap_ends() -> None:
    """
    Once, in one interval, to nobody.
    """
    readings = [
        Reading(device="a", at_us=at * SECOND, quantity=Quantity.COUNTER, value=joules * SECOND)
        for at, joules in ((8, 0), (9, 100), (24, 900), (25, 1_000))
    ]
    series = PowerSeries(readings=readings)
    found = [
        unplaced_between(series, RULES, start * SECOND, (start + 10) * SECOND)
        for start in (0, 10, 20, 30)
    ]
    meter = validate(series, RULES)
    division = divide(meter, [call(1, 20, 30)], 20 * SECOND, 30 * SECOND, unplaced_uj=found[2])

    assert found == [0, 0, 800 * SECOND, 0]
    assert division.metered_uj == 900 * SECOND
    assert (division.shares[0].energy_uj, division.unattributed_uj) == (100 * SECOND, 800 * SECOND)


def test_zero_tokens_and_zero_time_cost_nothing_to_count() -> None:
    """
    An answer without tokens still had its time; a moment without length has its tokens once.
    """
    told = EngineTimings(prompt_us=0, predicted_us=2 * SECOND, prompt_tokens=0, predicted_tokens=9)
    division = divide(
        steady(100),
        [call(1, 2, 4, tokens=(0, 0)), call(2, 6, 8, tokens=(7, 9), timings=told)],
        0,
        10 * SECOND,
    )

    assert [share.energy_uj for share in division.shares] == [200 * SECOND, 200 * SECOND]
    assert (division.input_tokens, division.output_tokens) == (7, 9)


@pytest.mark.parametrize(
    ("samples", "counted"),
    [
        ([(0, 5), (10, 15)], 10),
        ([(-5, 0), (5, 10), (15, 30)], 15),  # on straight lines between what was told
        ([(0, 5), (5, 0), (10, 9)], None),  # the engine began again
        ([(0, 5), (4, 6), (3, 7), (10, 8)], None),  # the clock went back
        ([(1, 5), (10, 15)], None),  # not known at the start
        ([(0, 5), (9, 15)], None),  # nor at the end
        ([], None),
    ],
)
def test_engine_counter_over_an_interval(
    samples: list[tuple[int, int]], counted: int | None
) -> None:
    """
    Where a restart or a hole hides something, nothing is said.
    """
    assert count_between(samples, 0, 10) == counted


def test_timings_of_llama_cpp_are_read() -> None:
    """
    As its server answers.
    """
    assert from_llama_cpp(LLAMA) == EngineTimings(
        prompt_us=500_000, predicted_us=250_500, prompt_tokens=34, predicted_tokens=12
    )


@pytest.mark.parametrize(
    "timings",
    [
        None,
        [],
        "fast",
        {},
        LLAMA | {"prompt_ms": float("nan")},
        LLAMA | {"prompt_ms": float("inf")},
        LLAMA | {"predicted_ms": -1},
        LLAMA | {"predicted_ms": "250"},
        LLAMA | {"predicted_ms": True},
        LLAMA | {"prompt_n": -1},
        LLAMA | {"predicted_n": 1.5},
        LLAMA | {"prompt_ms": 0, "predicted_ms": 0},
        LLAMA | {"prompt_ms": 1e30},
    ],
)
def test_timings_that_cannot_be_are_no_timings(timings: object) -> None:
    """
    The call is divided by its span instead.
    """
    assert from_llama_cpp(timings) is None


def test_interval_has_one_name_for_ever() -> None:
    """
    A UUIDv7 of its start: the ledger's partitions and its window of ids apply to it.
    """
    meter = UUID(int=7)
    start_us = 1_767_225_600_000_000
    name = interval_id(meter, start_us)

    assert name == interval_id(meter, start_us)
    assert (
        len({name, interval_id(UUID(int=8), start_us), interval_id(meter, start_us + 1_000)}) == 3
    )
    assert (name.version, name.variant) == (7, "specified in RFC 4122")
    assert name.int >> 80 == start_us // 1_000


def test_thousands_at_once_have_equal_parts_and_lose_nothing() -> None:
    """
    Calls of the same second have the same to the microjoules that do not divide; together they are
    the meter. (The old way went over every pair of calls: minutes for these.).
    """
    meter = steady(100)
    calls = [call(number, number / 10_000, 5 + number / 10_000) for number in range(10_000)]
    division = divide(meter, calls, 0, 10 * SECOND)
    energies = [share.energy_uj for share in division.shares]

    assert sum(energies) == meter.energy_uj(0, calls[-1].end_us)
    assert division.unattributed_uj == meter.energy_uj(calls[-1].end_us, 10 * SECOND)
    # Who began first and who ended last were alone for a moment, the others are between.
    assert min(energies) > 0
    together = [divide(meter, [call(one, 0, 1) for one in range(7)], 0, SECOND).shares]
    assert {share.energy_uj for share in together[0][:-1]} == {100 * SECOND // 7}
    assert sum(share.energy_uj for share in together[0]) == 100 * SECOND
