"""
The brake on a labelled stream (SIMULATION), and the score's own corners.
"""

from __future__ import annotations

import pytest

from benchmarks.agents.scoring import measure_stream
from tokenworks.agents.brake.profile import Profile, ProfileUnreadableError
from tokenworks.agents.brake.scoring import (
    LEARN_FIRST,
    PPM,
    ScoreState,
    features_of,
    learn,
    score_of,
)

CENT = 10**7


def test_attacks_are_told_from_usual_payments() -> None:
    """
    SIMULATION, one seed: each attack is caught at least nine times of ten, at a false positive
    rate a tenth of the field report's robust z; neither rules nor score would do it alone.
    """
    found = measure_stream(1)

    both = found["both"]
    assert min(both["loop"], both["new_payee_large"], both["salami"]) >= 0.9
    assert both["false_positives"] <= 0.0031 * 2
    assert found["rules"]["new_payee_large"] < 0.5 < found["score"]["new_payee_large"]
    assert found["score"]["salami"] < 0.5 < found["rules"]["salami"]


def _state(payments: int) -> tuple[ScoreState, int]:
    state, now_us = ScoreState(), 1_800_000_000_000_000
    times = [now_us]
    for number in range(payments):
        now_us += 60_000_000
        times.append(now_us)
        features = features_of(
            quanta=CENT + number % 7,
            times_us=times,
            is_new_payee=number == 0,
            payee_payments=number,
            state=state,
        )
        learn(features, state, is_new_payee=number == 0)
    return state, now_us


def test_score_says_nothing_before_it_knows_enough() -> None:
    """
    A young agent is judged by rules alone.
    """
    for payments, speaks in ((LEARN_FIRST - 1, False), (LEARN_FIRST, True)):
        state, now_us = _state(payments)
        features = features_of(
            quanta=CENT * 10**6,
            times_us=[now_us, now_us + 60_000_000],
            is_new_payee=True,
            payee_payments=0,
            state=state,
        )
        assert (score_of(features, state, is_new_payee=True).ppm >= PPM) is speaks


def test_small_payment_is_never_unusual_for_its_amount() -> None:
    """
    Only what is larger, faster, newer or rarer than usual scores.
    """
    state, now_us = _state(100)
    features = features_of(
        quanta=1,
        times_us=[now_us, now_us + 3_600_000_000],
        is_new_payee=False,
        payee_payments=100,
        state=state,
    )
    assert score_of(features, state, is_new_payee=False).ppm < PPM


def test_clock_that_stands_or_runs_back_is_no_error() -> None:
    """
    Payments of one moment, or of a process whose clock is behind, are judged all the same.
    """
    state, now_us = _state(40)
    for times in ([now_us], [now_us, now_us], [now_us, now_us - 10**9]):
        features = features_of(
            quanta=CENT, times_us=times, is_new_payee=False, payee_payments=1, state=state
        )
        assert score_of(features, state, is_new_payee=False).ppm >= 0
    profile = Profile()
    profile.minute.add(now_us, 5, is_new=False)
    profile.minute.add(now_us - 30_000_000, 7, is_new=False)
    assert (sum(profile.minute.counts), sum(profile.minute.sums)) == (2, 12)


@pytest.mark.parametrize("cut", [1, 10, 60, 200, -1])
def test_damaged_profile_is_not_read_as_another(cut: int) -> None:
    """
    Bytes that are cut short, or of another version, are an error and no empty profile.
    """
    content = Profile().encode()
    with pytest.raises(ProfileUnreadableError):
        Profile.decode(content[:cut])
    with pytest.raises(ProfileUnreadableError):
        Profile.decode(b"\x02" + content[1:])
    assert Profile.decode(b"").encode() == content
