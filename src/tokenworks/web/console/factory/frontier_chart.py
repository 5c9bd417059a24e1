"""
The front of a model on a GPU, with the floors of the tiers on it; pure.

Both axes are logarithmic: speed of one user to the right, tokens of one GPU upward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.web.console.factory.drawing import (
    LogarithmicScale,
    Size,
    Tick,
    path_of,
    rows_of,
    spanning,
)
from tokenworks.web.console.factory.model import Frontier, Point, Served
from tokenworks.web.console.factory.wording import BOUNDARIES, scaled_text, tier_name
from tokenworks.web.console.wording import count_text, duration_text, rate_text

WIDE: Final = Size(name="wide", width=760, height=430, ticks_max=9)
COMPACT: Final = Size(name="compact", width=360, height=380, ticks_max=5)
LEFT: Final = 52
RIGHT: Final = 14
BOTTOM: Final = 46
LABEL_ROW: Final = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """
    One measured point.
    """

    x: float
    y: float
    row: int
    is_front: bool
    facts: str  # a line each, the first is the heading


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """
    A tier's floor as a line from top to bottom.
    """

    x: float
    label: str
    label_x: float
    label_y: float
    reach: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """
    Where a tier is served on the front.
    """

    x: float
    y: float
    reach: str
    facts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ghost:
    """
    The front of the same model on another GPU.
    """

    path: str
    gpu: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierChart:
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
    curve: str
    ghosts: tuple[Ghost, ...]
    floors: tuple[Floor, ...]
    marks: tuple[Mark, ...]
    dots: tuple[Dot, ...]


def to_chart(frontier: Frontier, others: Sequence[Frontier], size: Size) -> FrontierChart:
    """
    Return the picture of a front in one size.

    Args:
        frontier: The chosen one.
        others: Of the same model, on other GPUs.
        size: Of the picture.
    """
    drawn = (frontier, *others)
    floors = [tier for tier in frontier.tiers if tier.speed_floor_tokens_per_s is not None]
    speeds = [each.tokens_per_s_per_user for one in drawn for each in one.points]
    speeds += [float(tier.speed_floor_tokens_per_s or 0) for tier in floors]
    rates = [each.tokens_per_s_per_gpu for one in drawn for each in one.points]
    right = float(size.width - RIGHT)
    x = spanning(speeds, start=LEFT, end=right)
    names = [(x.at(float(tier.speed_floor_tokens_per_s or 0)), tier) for tier in floors]
    rows = rows_of([(_inside(at, tier, right), _floor_label(tier)) for at, tier in names])
    top = LABEL_ROW * (max(rows, default=0) + 1) + 8.0
    bottom = float(size.height - BOTTOM)
    y = spanning(rates, start=bottom, end=top, room=1.35)
    return FrontierChart(
        size=size,
        left=LEFT,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=x.ticks(size.ticks_max),
        y_ticks=y.ticks(8),
        curve=_curve(frontier, x, y),
        ghosts=tuple(_ghost(each, x, y) for each in others),
        floors=tuple(
            Floor(
                x=at,
                label=_floor_label(tier),
                label_x=_inside(at, tier, right),
                label_y=LABEL_ROW * row + 13.0,
                reach=tier.reach,
            )
            for (at, tier), row in zip(names, rows, strict=True)
        ),
        marks=tuple(
            Mark(
                x=x.at(tier.tokens_per_s_per_user),
                y=y.at(tier.tokens_per_s_per_gpu),
                reach=tier.reach,
                facts=_mark_facts(tier),
            )
            for tier in frontier.tiers
            if tier.tokens_per_s_per_user is not None
        ),
        # Those on the front are drawn last: nothing lies over them.
        dots=tuple(
            Dot(
                x=x.at(point.tokens_per_s_per_user),
                y=y.at(point.tokens_per_s_per_gpu),
                row=point.row,
                is_front=point.dominated_by_row is None,
                facts=point_facts(point, frontier.sources),
            )
            for point in sorted(frontier.points, key=_is_on_front)
        ),
    )


def point_facts(point: Point, sources: dict[str, str]) -> str:
    """
    Return what is known of a point: a heading, then ``name: value`` lines.
    """
    gpus = "GPU" if point.gpu_count == 1 else "GPUs"
    within = BOUNDARIES.get(point.boundary, point.boundary)
    first_token = (
        "not measured" if point.ttft_ms is None else f"{duration_text(point.ttft_ms)} median"
    )
    lines = [
        f"{point.engine} {point.layout}",
        f"Speed of one user: {rate_text(point.tokens_per_s_per_user)} tokens/s",
        f"Throughput: {rate_text(point.tokens_per_s_per_gpu)} tokens/s per GPU",
        f"Energy: {scaled_text(point.joules_per_token, 'J')} per token, {within}",
        f"Power: {rate_text(point.power_w_per_gpu)} W per GPU",
        f"First token: {first_token}",
        f"Together: {rate_text(point.batch)} calls on {count_text(point.gpu_count)} {gpus}",
        f"Measured: {point.as_of or 'date not stated'}",
    ]
    if point.dominated_by_row is not None:
        lines.append(f"Behind: row {point.dominated_by_row} is better")
    lines.append(f"Source: {sources.get(point.source, point.source)} Row {point.row}.")
    return "\n".join(lines)


def _is_on_front(point: Point) -> bool:
    return point.dominated_by_row is None


def _mark_facts(tier: Served) -> str:
    lines = [
        f"{tier_name(tier.tier)}: {tier.reach}",
        f"Speed of one user: {rate_text(tier.tokens_per_s_per_user or 0)} tokens/s",
        f"Throughput: {rate_text(tier.tokens_per_s_per_gpu)} tokens/s per GPU",
        f"Energy: {scaled_text(tier.joules_per_token, 'J')} per token",
    ]
    if not tier.is_first_token_measured:
        lines.append("First token: not measured")
    return "\n".join(lines)


def _floor_label(tier: Served) -> str:
    return f"{tier_name(tier.tier)} {tier.speed_floor_tokens_per_s}"


def _inside(at: float, tier: Served, right: float) -> float:
    """
    Return where a label's middle is so that it does not leave the picture.
    """
    half = len(_floor_label(tier)) * 3.3
    return round(min(max(at, LEFT + half), right + RIGHT - 2 - half), 1)


def _curve(frontier: Frontier, x: LogarithmicScale, y: LogarithmicScale) -> str:
    return path_of(
        (x.at(point.tokens_per_s_per_user), y.at(point.tokens_per_s_per_gpu))
        for point in frontier.curve
    )


def _ghost(frontier: Frontier, x: LogarithmicScale, y: LogarithmicScale) -> Ghost:
    last = frontier.curve[-1]
    return Ghost(
        path=_curve(frontier, x, y),
        gpu=frontier.gpu,
        x=x.at(last.tokens_per_s_per_user),
        y=y.at(last.tokens_per_s_per_gpu),
    )
