"""
Energy from the meter to the applications as bands between boxes; pure.

The five columns stand below the five stages' figures; a box is as high as its energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from tokenworks.web.console.factory.drawing import Size
from tokenworks.web.console.factory.live_model import Box, Link, Stage, ValueChain
from tokenworks.web.console.factory.wording import scaled_text

WIDE: Final = Size(name="wide", width=1160, height=300, ticks_max=0)
MIDDLE: Final = Size(name="middle", width=720, height=280, ticks_max=0)
BOX_PX: Final = 9
GAP_PX: Final = 16
BOX_PX_MIN: Final = 1.5
BOXES_MAX: Final = 12
"""Boxes of one stage; the smallest are drawn as one, the table has them all."""
LABEL_PX_MIN: Final = 11.0
CHARACTER_PX: Final = 7.0
MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnBox:
    """
    One box with its label.
    """

    x: float
    y: float
    height: float
    stage: str
    is_unattributed: bool
    label: str
    energy: str
    facts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """
    Energy from box to box.
    """

    path: str
    stage: str  # of its source
    is_unattributed: bool
    facts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainChart:
    """
    Everything a template draws.
    """

    size: Size
    boxes: tuple[DrawnBox, ...]
    bands: tuple[Band, ...]


def to_chart(chain: ValueChain, size: Size) -> ChainChart | None:
    """
    Return the picture in one size; ``None`` when there is no energy.
    """
    whole = int(chain.energy_uj)
    if whole <= 0:
        return None
    chain = gathered(chain)
    column_px = size.width / max(len(chain.stages), 1)
    most = max((len(stage.boxes) for stage in chain.stages), default=1)
    scale = max(size.height - GAP_PX * (most - 1), size.height / 3) / whole
    places: dict[str, tuple[float, float]] = {}
    drawn: list[DrawnBox] = []
    for index, stage in enumerate(chain.stages):
        top = 0.0
        for box in _ordered(stage.boxes):
            height = max(int(box.energy_uj) * scale, BOX_PX_MIN)
            x = round(index * column_px, 1)
            places[box.box] = (x, top)
            drawn.append(_drawn(box, stage.stage, x=x, y=top, height=height, room=column_px))
            top += max(height, LABEL_PX_MIN) + GAP_PX
    height = max((box.y + max(box.height, 30.0) for box in drawn), default=0.0)
    return ChainChart(
        size=Size(name=size.name, width=size.width, height=round(height) + 4, ticks_max=0),
        boxes=tuple(drawn),
        bands=_bands(chain, places, scale),
    )


def gathered(chain: ValueChain) -> ValueChain:
    """
    Return the chain with the smallest boxes of a full stage as one; energy stays the same.
    """
    names: dict[str, str] = {}
    stages: list[Stage] = []
    for stage in chain.stages:
        boxes = _ordered(stage.boxes)
        if len(boxes) > BOXES_MAX:
            small = [box for box in boxes if not box.is_unattributed][BOXES_MAX - 1 :]
            name = f"{stage.stage}:\N{HORIZONTAL ELLIPSIS}"
            names |= {box.box: name for box in small}
            energy_uj = sum(int(box.energy_uj) for box in small)
            one = Box(
                box=name,
                label=f"{len(small)} others",
                energy_uj=str(energy_uj),
                money=None,
                tokens=None,
            )
            boxes = [*(box for box in boxes if box.box not in names), one]
        stages.append(replace(stage, boxes=tuple(boxes)))
    energies: dict[tuple[str, str], int] = {}
    for link in chain.links:
        key = (names.get(link.source, link.source), names.get(link.target, link.target))
        energies[key] = energies.get(key, 0) + int(link.energy_uj)
    links = tuple(
        Link(source=source, target=target, energy_uj=str(energy_uj))
        for (source, target), energy_uj in energies.items()
    )
    return replace(chain, stages=tuple(stages), links=links)


def _ordered(boxes: Sequence[Box]) -> list[Box]:
    """
    Return the most energy first, and what no call used last.
    """
    return sorted(boxes, key=lambda box: (box.is_unattributed, -int(box.energy_uj)))


def _drawn(box: Box, stage: str, *, x: float, y: float, height: float, room: float) -> DrawnBox:
    longest = int((room - BOX_PX - 22) / CHARACTER_PX)
    energy = scaled_text(int(box.energy_uj) / MICRO, "J")
    label = box.label if len(box.label) <= longest else box.label[: longest - 1] + "…"
    return DrawnBox(
        x=x,
        y=round(y, 1),
        height=round(height, 1),
        stage=stage,
        is_unattributed=box.is_unattributed,
        label=label,
        energy=energy,
        facts=f"{box.label}\nEnergy: {energy}",
    )


def _bands(
    chain: ValueChain, places: dict[str, tuple[float, float]], scale: float
) -> tuple[Band, ...]:
    stages = {box.box: stage.stage for stage in chain.stages for box in stage.boxes}
    labels = {box.box: box for stage in chain.stages for box in stage.boxes}
    left = {name: y for name, (_, y) in places.items()}
    right = dict(left)
    bands: list[Band] = []
    known = [link for link in chain.links if link.source in places and link.target in places]
    for link in sorted(known, key=lambda link: (places[link.source], places[link.target])):
        thick = int(link.energy_uj) * scale
        (from_x, _), (to_x, _) = places[link.source], places[link.target]
        start, end = right[link.source], left[link.target]
        right[link.source] += thick
        left[link.target] += thick
        source, target = labels[link.source], labels[link.target]
        bands.append(
            Band(
                path=_band(from_x + BOX_PX, start, to_x, end, thick),
                stage=stages[link.source],
                is_unattributed=target.is_unattributed,
                facts=f"{source.label} → {target.label}\n"
                f"Energy: {scaled_text(int(link.energy_uj) / MICRO, 'J')}",
            )
        )
    return tuple(bands)


def _band(from_x: float, from_y: float, to_x: float, to_y: float, thick: float) -> str:
    middle = (from_x + to_x) / 2
    thick = max(thick, 0.5)
    return (
        f"M{from_x:.1f} {from_y:.1f}C{middle:.1f} {from_y:.1f} {middle:.1f} {to_y:.1f} "
        f"{to_x:.1f} {to_y:.1f}V{to_y + thick:.1f}C{middle:.1f} {to_y + thick:.1f} "
        f"{middle:.1f} {from_y + thick:.1f} {from_x:.1f} {from_y + thick:.1f}Z"
    )
