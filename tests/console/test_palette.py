"""
Colours that everybody can read.
"""

from __future__ import annotations

import pytest

from tokenworks.web.console.palette import COLOURS, css_variables

TEXT_RATIO_MIN = 4.5
EDGE_RATIO_MIN = 3.0
BAR_RATIO_MIN = 1.6  # the figures stand beside the bar, too
PAIRS = [
    *[
        (text, back)
        for text in ("ink", "muted", "accent")
        for back in ("ground", "surface", "raised")
    ],
    ("faint", "surface"),
    ("on_accent", "accent"),
    ("accent", "accent_soft"),
    ("good", "surface"),
    ("good", "good_soft"),
    ("warn", "warn_soft"),
    ("bad", "bad_soft"),
    ("bad", "surface"),
    ("muted", "raised"),
    ("ink", "warn_soft"),
    ("ink", "bad_soft"),
    ("ink", "accent_soft"),
    ("muted", "accent_soft"),
    ("accent", "raised"),
    ("on_alarm", "alarm"),
    ("on_danger", "danger"),
]
BARS = [("bar_spent", "track"), ("bar_low", "track"), ("alarm", "surface"), ("danger", "surface")]


def luminance(colour: str) -> float:
    """
    Return the relative luminance of WCAG 2.2.
    """
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """
    Return the contrast ratio of WCAG 2.2.
    """
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "back"), PAIRS)
def test_text_can_be_read(text: str, back: str, scheme: int) -> None:
    """
    Text has at least 4.5:1 on what it stands on, in both schemes.
    """
    assert contrast(COLOURS[text][scheme], COLOURS[back][scheme]) >= TEXT_RATIO_MIN


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_edges_of_controls_can_be_seen(scheme: int) -> None:
    """
    The edge of a field or button has at least 3:1.
    """
    assert contrast(COLOURS["edge"][scheme], COLOURS["surface"][scheme]) >= EDGE_RATIO_MIN


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("bar", "back"), BARS)
def test_bars_can_be_seen(bar: str, back: str, scheme: int) -> None:
    """
    What is drawn and not written has at least 3:1 on what it stands on.
    """
    assert contrast(COLOURS[bar][scheme], COLOURS[back][scheme]) >= EDGE_RATIO_MIN


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_held_part_of_a_bar_differs_from_both_sides(scheme: int) -> None:
    """
    What is held stands between what is spent and what is left, and is told apart from each.
    """
    held = COLOURS["bar_held"][scheme]

    assert contrast(held, COLOURS["bar_spent"][scheme]) >= BAR_RATIO_MIN
    assert contrast(held, COLOURS["track"][scheme]) >= BAR_RATIO_MIN


def test_style_sheet_has_every_colour_once() -> None:
    """
    The palette is the only place a colour of the theme is written.
    """
    sheet = css_variables()

    assert all(sheet.count(f"--{name.replace('_', '-')}:") == 1 for name in COLOURS)
