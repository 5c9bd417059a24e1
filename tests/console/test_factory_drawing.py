"""
Scales, ticks, rows of labels, and what an address asks.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.web.console.factory.drawing import (
    CHARACTER_PX,
    LogarithmicScale,
    rounded_up,
    rows_of,
    spanning,
    tick_text,
)
from tokenworks.web.console.factory.model import FrontName
from tokenworks.web.console.factory.question import baseline_of, read_question
from tokenworks.web.console.factory.wording import dollars_text, percent_text, scaled_text

POSITIVE = st.floats(min_value=1e-6, max_value=1e9)


@given(st.lists(POSITIVE, min_size=2, max_size=30))
def test_logarithmic_scale_keeps_order_and_stays_inside(values: list[float]) -> None:
    """
    A larger value is never further left, and every value is within the picture.
    """
    scale = spanning(values, start=50, end=700)
    places = [scale.at(value) for value in sorted(values)]

    assert places == sorted(places)
    assert all(50 <= place <= 700 for place in places)


@given(POSITIVE, st.floats(min_value=1.5, max_value=1e7), st.integers(min_value=2, max_value=9))
def test_ticks_are_round_few_and_where_they_say(low: float, factor: float, most: int) -> None:
    """
    Ticks stand within the scale; there are no more than asked for, but for decades.
    """
    scale = LogarithmicScale(low=low, high=low * factor, start=0, end=500)
    ticks = scale.ticks(most)

    assert all(0 <= tick.at <= 500 for tick in ticks)
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)
    assert len(ticks) <= max(most, 9)


@given(
    st.lists(
        st.tuples(st.floats(min_value=0, max_value=700), st.text(max_size=20)), max_size=12
    ).map(lambda labels: sorted(labels, key=lambda label: label[0]))
)
def test_labels_in_one_row_do_not_touch(labels: list[tuple[float, str]]) -> None:
    """
    Two labels that would lie over each other get rows of their own.
    """
    ends: dict[int, float] = {}
    for (middle, text), row in zip(labels, rows_of(labels), strict=True):
        half = len(text) * CHARACTER_PX / 2
        assert middle - half > ends.get(row, -1e9)
        ends[row] = middle + half


def test_figures_are_short_and_keep_their_unit() -> None:
    """
    Prefixes of the SI, money with two decimals at least.
    """
    assert scaled_text(1_234_000.0, "W") == "1.234 MW"
    assert scaled_text(0.0954, "J") == "95.4 mJ"
    assert (scaled_text(0, "J"), scaled_text(None, "J")) == ("0 J", "–")
    assert [dollars_text(text) for text in ("3", "0.441957", "1234.5", "-809.87", None)] == [
        "3.00",
        "0.442",
        "1,234",
        "-809.87",
        "–",
    ]
    assert (percent_text("0.612685"), percent_text(None)) == ("61.3 %", "–")
    assert (tick_text(0.3), tick_text(5_000), tick_text(20_000)) == ("0.3", "5,000", "20k")
    assert (rounded_up(0), rounded_up(3.2), rounded_up(0.055)) == (1.0, 4, pytest.approx(0.06))


NAMES = tuple(
    FrontName(gpu=gpu, model=model, precision="fp8", workload="chat", is_priced=True)
    for gpu, model in (("h100", "a"), ("b200", "a"), ("h100", "b"))
)


def test_address_says_what_is_asked_and_nonsense_falls_back() -> None:
    """
    A model that is only on one GPU is shown there; unknown ones are the first.
    """
    chosen = read_question({"family": "b|fp8|chat", "gpu": "b200", "pue": " 1.3 "}, NAMES)
    strange = read_question({"family": "<script>", "gpu": "x", "power": "9" * 50}, NAMES)

    assert (chosen.front, chosen.value("pue")) == (NAMES[2], "1.3")
    assert strange.front == NAMES[1]
    assert len(strange.value("power")) == 12
    assert baseline_of(chosen, NAMES).value("pue") == "1.2"


@pytest.mark.parametrize("text", ["nan", "inf", "1,5", "0x10", "half", "--1"])
def test_what_is_no_number_is_a_fault_with_its_name(text: str) -> None:
    """
    A fault is shown, never sent.
    """
    question = read_question({"utilisation": text}, NAMES)

    assert list(question.faults) == ["utilisation"]
    assert "Utilisation" in question.faults["utilisation"]


@pytest.mark.parametrize(
    ("typed", "sent"), [("50", "0.5"), ("0.1", "0.001"), ("1e2", "1"), ("33.3", "0.333")]
)
def test_per_cent_is_sent_as_a_share(typed: str, sent: str) -> None:
    """
    What people type as per cent, the hub reads as a share without an exponent.
    """
    assert read_question({"utilisation": typed}, NAMES).economics_query()["utilisation"] == sent
