"""
Tokens of a megawatt of whole systems against the speed of one user, with the tiers' floors; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.web.console.factory.drawing import Size, Tick, path_of, rows_of, spanning
from tokenworks.web.console.factory.model import System
from tokenworks.web.console.factory.wording import tier_name
from tokenworks.web.console.wording import rate_text

WIDE: Final = Size(name="wide", width=700, height=330, ticks_max=9)
COMPACT: Final = Size(name="compact", width=350, height=320, ticks_max=5)
LEFT: Final = 52
RIGHT: Final = 14
BOTTOM: Final = 46
LABEL_ROW: Final = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemDot:
    """
    One measured point.
    """

    x: float
    y: float
    facts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLine:
    """
    One system; straight between its points, which is no claim about what lies between.
    """

    name: str
    path: str
    dots: tuple[SystemDot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorLine:
    """
    A tier's floor.
    """

    x: float
    label: str
    label_y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemsChart:
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
    floors: tuple[FloorLine, ...]
    lines: tuple[SystemLine, ...]


def to_chart(systems: Sequence[System], size: Size) -> SystemsChart | None:
    """
    Return the picture in one size; ``None`` when there is no system.
    """
    if not systems:
        return None
    floors = [
        (float(tier.speed_floor_tokens_per_s), tier_name(tier.tier))
        for tier in systems[0].tiers
        if tier.speed_floor_tokens_per_s is not None
    ]
    points = [point for system in systems for point in system.points]
    speeds = [point.tokens_per_s_per_user for point in points] + [floor for floor, _ in floors]
    right, bottom = float(size.width - RIGHT), float(size.height - BOTTOM)
    x = spanning(speeds, start=LEFT, end=right, room=1.15)
    rows = rows_of([(x.at(floor), name) for floor, name in floors])
    top = LABEL_ROW * (max(rows, default=0) + 1) + 8.0
    rates = [point.tokens_per_s_per_megawatt for point in points]
    y = spanning(rates, start=bottom, end=top)
    return SystemsChart(
        size=size,
        left=LEFT,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=x.ticks(size.ticks_max),
        y_ticks=y.ticks(7),
        floors=tuple(
            FloorLine(x=x.at(floor), label=name, label_y=LABEL_ROW * row + 13.0)
            for (floor, name), row in zip(floors, rows, strict=True)
        ),
        lines=tuple(
            SystemLine(
                name=system.system,
                path=path_of(
                    (x.at(point.tokens_per_s_per_user), y.at(point.tokens_per_s_per_megawatt))
                    for point in system.points
                ),
                dots=tuple(
                    SystemDot(
                        x=x.at(point.tokens_per_s_per_user),
                        y=y.at(point.tokens_per_s_per_megawatt),
                        facts=f"{system.system}\n"
                        f"Speed of one user: {rate_text(point.tokens_per_s_per_user)} tokens/s\n"
                        f"Throughput: {rate_text(point.tokens_per_s_per_megawatt)} tokens/s "
                        "per utility MW\nSource: SemiAnalysis InferenceX, July 2026",
                    )
                    for point in system.points
                ),
            )
            for system in systems
        ),
    )
