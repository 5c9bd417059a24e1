"""
Power and tokens of the last minutes as bars, an interval each; pure.

A bar of power is what calls used, and above it what no call used; time that was not validly
metered has no bar and is marked below the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tokenworks.web.console.factory.drawing import LinearScale, Size, Tick, rounded_up
from tokenworks.web.console.factory.live_model import Live, PowerPoint
from tokenworks.web.console.factory.wording import method_text, scaled_text
from tokenworks.web.console.wording import clock_text, moment_of, rate_text

WIDE: Final = Size(name="half-wide", width=560, height=190, ticks_max=4)
COMPACT: Final = Size(name="half-compact", width=340, height=180, ticks_max=3)
LEFT: Final = 46
TOP: Final = 8
BOTTOM: Final = 34
SPAN_S_MIN: Final = 120.0
WHOLE: Final = 0.9995
"""From here on an interval counts as metered: what is missing is the step of the readings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """
    One interval; heights are pixels, 0 where there is nothing.
    """

    x: float
    width: float
    used: float  # from the axis up: by calls, or all of it while that is not known
    unused: float  # above it: by no call
    is_divided: bool
    is_whole: bool
    facts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """
    Everything a template draws.
    """

    size: Size
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]


def power_chart(live: Live, size: Size) -> BarChart:
    """
    Return watts by interval.
    """
    heights = [(point.watts, _unused_share(point)) for point in live.points]
    return _chart(live, size, heights)


def tokens_chart(live: Live, size: Size) -> BarChart:
    """
    Return output tokens per second by interval; those that are not known yet have no bar.
    """
    heights = [(point.output_tokens_per_s or 0.0, 0.0) for point in live.points]
    return _chart(live, size, heights)


def _chart(live: Live, size: Size, heights: Sequence[tuple[float, float]]) -> BarChart:
    right, bottom = float(size.width - 4), float(size.height - BOTTOM)
    now = moment_of(live.as_of)
    assert now is not None, "the hub says when it looked"
    span_s = _span_s(live, now)
    begin = now - timedelta(seconds=span_s)
    x = LinearScale(high=span_s, start=LEFT, end=right)
    top = rounded_up(max((height for height, _ in heights), default=0.0))
    y = LinearScale(high=top, start=0.0, end=bottom - TOP)
    bars: list[Bar] = []
    for point, (height, unused) in zip(live.points, heights, strict=True):
        start, end = moment_of(point.start), moment_of(point.end)
        if start is None or end is None or end <= begin:
            continue
        left = x.at((start - begin).total_seconds())
        width = x.at((end - begin).total_seconds()) - left
        whole = y.at(height)
        bars.append(
            Bar(
                x=left,
                width=max(round(width - 1, 1), 1.0),
                used=round(whole * (1 - unused), 1),
                unused=round(whole * unused, 1),
                is_divided=point.unattributed_uj is not None,
                is_whole=point.coverage >= WHOLE,
                facts=_facts(point),
            )
        )
    step_s = max(span_s / (size.ticks_max + 1), 60.0)
    step_s = round(step_s / 60) * 60.0
    first = now.replace(second=0, microsecond=0)
    moments = [first - timedelta(seconds=step_s * index) for index in range(size.ticks_max + 1)]
    return BarChart(
        size=size,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_ticks=tuple(
            Tick(at=x.at((moment - begin).total_seconds()), label=moment.strftime("%H:%M"))
            for moment in reversed(moments)
            if moment > begin + timedelta(seconds=span_s / 20)
        ),
        y_ticks=tuple(Tick(at=round(bottom - tick.at, 1), label=tick.label) for tick in y.ticks()),
        bars=tuple(bars),
    )


def _span_s(live: Live, now: datetime) -> float:
    """
    Return the seconds of the axis: fewer than were asked for while the plant is young.
    """
    asked_s = live.minutes * 60.0
    first = moment_of(live.points[0].start) if live.points else None
    young_s = asked_s if first is None else (now - first).total_seconds()
    return min(max(young_s, SPAN_S_MIN), asked_s)


def _unused_share(point: PowerPoint) -> float:
    energy = int(point.energy_uj)
    return int(point.unattributed_uj or 0) / energy if energy else 0.0


def _facts(point: PowerPoint) -> str:
    lines = [
        f"{clock_text(point.start)} to {clock_text(point.end)}",
        f"Power: {scaled_text(point.watts, 'W')}{'' if point.is_measured else ', MODEL'}",
        f"Metered: {rate_text(point.coverage * 100, digits=3)} % of the time",
    ]
    if point.unattributed_uj is None:
        lines.append("Calls: not divided among them yet")
    else:
        rate = point.output_tokens_per_s or 0
        lines += [
            f"By no call: {rate_text(_unused_share(point) * 100, digits=3)} %",
            f"Written: {rate_text(rate)} tokens/s",
        ]
        if point.joules_per_output_token is not None:
            lines.append(f"Per token: {scaled_text(point.joules_per_output_token, 'J')}")
        if point.methods:
            lines.append(f"Divided: {', '.join(method_text(each) for each in point.methods)}")
    return "\n".join(lines)
