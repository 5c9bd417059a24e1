"""
Draw the value chain and the rates: options for ECharts, as data; pure.

Floats here are lengths on a screen. Texts of the hub never become markup: labels lose the
characters ECharts gives a meaning, tooltips are drawn as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from tokenworks.web.console.model import Link, Node
from tokenworks.web.console.palette import colour
from tokenworks.web.console.wording import amount_text, rate_text, to_decimal

FONT: Final = "Roboto, system-ui, sans-serif"
LABEL_CHARACTERS_MAX: Final = 22
NARROW_LABEL_CHARACTERS_MAX: Final = 17
NARROW_CHARACTER_PX: Final = 6
_MARKUP: Final = str.maketrans("", "", "{}|")

Options = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """
    What one box of the flow got or gave in the window, for the table beside the picture.
    """

    label: str
    kind: str
    amount: Decimal
    share_ppm: int | None  # of what was sold; None where that says nothing


def sankey_options(
    nodes: Sequence[Node],
    links: Sequence[Link],
    *,
    currency: str,
    is_dark: bool,
    is_narrow: bool = False,
) -> Options:
    """
    Return the picture of money from left to right; a narrow one has names without amounts.
    """
    kinds = {node.id: node.kind for node in nodes}
    labels = {node.id: node.label for node in nodes}
    totals = _totals(nodes, links)
    return {
        "animationDuration": 500,
        "animationDurationUpdate": 500,
        "textStyle": {"fontFamily": FONT},
        "tooltip": _tooltip(is_dark=is_dark),
        "series": [
            {
                "type": "sankey",
                "left": 2,
                "right": _label_room(nodes, links) if is_narrow else 148,
                "top": 10,
                "bottom": 10,
                "nodeWidth": 10,
                "nodeGap": 26,
                "nodeAlign": "left",
                "draggable": False,
                # 0 keeps the order in which the hub lists them, so that nothing jumps.
                "layoutIterations": 0,
                "emphasis": {"focus": "adjacency"},
                "label": _label_style(is_dark=is_dark, is_narrow=is_narrow),
                "data": [
                    {
                        "name": node.id,
                        "itemStyle": {
                            "color": _kind_colour(node.kind, is_dark=is_dark),
                            "borderWidth": 0,
                        },
                        "label": {"formatter": _label(node, totals[node.id], is_narrow=is_narrow)},
                        "tooltip": {
                            "formatter": f"{_plain(node.label)}: "
                            f"{amount_text(totals[node.id])} {currency}"
                        },
                    }
                    for node in nodes
                    if totals[node.id] > 0
                ],
                "links": [
                    {
                        "source": link.source,
                        "target": link.target,
                        "value": float(link.amount),
                        "lineStyle": {
                            "color": _kind_colour(
                                _telling_kind(kinds[link.source], kinds[link.target]),
                                is_dark=is_dark,
                            ),
                            "opacity": 0.34 if is_dark else 0.26,
                            "curveness": 0.5,
                        },
                        "tooltip": {
                            "formatter": f"{_plain(labels[link.source])} → "
                            f"{_plain(labels[link.target])}: "
                            f"{amount_text(link.amount)} {currency}"
                        },
                    }
                    for link in links
                    if link.source in kinds and link.target in kinds
                ],
            }
        ],
    }


def receivers(nodes: Sequence[Node], links: Sequence[Link]) -> list[Receiver]:
    """
    Return what the picture says as rows: who paid, who received, and the share of the sale.
    """
    totals = _totals(nodes, links)
    targets = {link.target for link in links}
    sold = sum((totals[node.id] for node in nodes if node.id not in targets), Decimal(0))
    rows: list[Receiver] = []
    for node in nodes:
        if totals[node.id] > 0 and node.kind != "sale":
            share = int(totals[node.id] * 1_000_000 / sold) if sold else None
            rows.append(
                Receiver(label=node.label, kind=node.kind, amount=totals[node.id], share_ppm=share)
            )
    return rows


def rate_options(
    points: Iterable[tuple[float, float]],
    *,
    colour_name: str,
    span_ms: tuple[float, float],
    unit: str,
    is_dark: bool,
) -> Options:
    """
    Return a small curve over the last minutes.

    Args:
        points: Milliseconds since 1970, and the rate then.
        colour_name: From the palette.
        span_ms: The first and the last moment of the axis, as points' times.
        unit: Written in the tooltip.
        is_dark: Which scheme.
    """
    drawn = [[moment, value] for moment, value in points]
    line = colour(colour_name, is_dark=is_dark)
    faint = colour("faint", is_dark=is_dark)
    top = _round_up(max((value for _, value in drawn), default=0.0))
    return {
        "animation": False,
        "textStyle": {"fontFamily": FONT},
        "grid": {"left": 58, "right": 14, "top": 14, "bottom": 24},
        "tooltip": _tooltip(is_dark=is_dark) | {"trigger": "axis", "formatter": "{c} " + unit},
        "xAxis": {
            "type": "time",
            "min": span_ms[0],
            "max": span_ms[1],
            "splitNumber": 4,
            "axisLine": {"lineStyle": {"color": colour("line", is_dark=is_dark)}},
            "axisTick": {"show": False},
            "axisLabel": {
                "color": faint,
                "fontSize": 11,
                "hideOverlap": True,
                "formatter": "{HH}:{mm}",
            },
        },
        "yAxis": {
            "type": "value",
            "min": 0,
            "max": top,
            "interval": top / 2,
            "axisLabel": {"color": faint, "fontSize": 11},
            "splitLine": {"lineStyle": {"color": colour("line", is_dark=is_dark)}},
        },
        "series": [
            {
                "type": "line",
                "data": drawn,
                "showSymbol": False,
                "lineStyle": {"width": 2, "color": line},
                "itemStyle": {"color": line},
                "areaStyle": {"color": line, "opacity": 0.12},
            }
        ],
    }


def _totals(nodes: Sequence[Node], links: Sequence[Link]) -> dict[str, Decimal]:
    into: dict[str, Decimal] = {node.id: Decimal(0) for node in nodes}
    out: dict[str, Decimal] = dict(into)
    for link in links:
        amount = to_decimal(link.amount)
        out[link.source] = out.get(link.source, Decimal(0)) + amount
        into[link.target] = into.get(link.target, Decimal(0)) + amount
    return {name: max(into[name], out[name]) for name in into}


def _round_up(top: float) -> float:
    """
    Return the next of 1, 2, 5 times a power of ten, so that the axis rarely changes.
    """
    if top <= 0:
        return 1.0
    power = 10.0 ** Decimal(repr(top)).adjusted()
    return next(step * power for step in (1, 2, 5, 10) if step * power >= top)


def _telling_kind(source: str, target: str) -> str:
    return source if target in {"sale", "service"} else target


def _kind_colour(kind: str, *, is_dark: bool) -> str:
    name = f"kind_{kind}"
    try:
        return colour(name, is_dark=is_dark)
    except KeyError:
        return colour("kind_tax", is_dark=is_dark)


def _label_room(nodes: Sequence[Node], links: Sequence[Link]) -> int:
    """
    Return the pixels that the names of the last column need.
    """
    sources = {link.source for link in links}
    lengths = [len(node.label) for node in nodes if node.id not in sources and node.kind != "tax"]
    longest = min(max(lengths, default=0), NARROW_LABEL_CHARACTERS_MAX)
    return longest * NARROW_CHARACTER_PX + 8


def _plain(text: str) -> str:
    return text.translate(_MARKUP)


def _label(node: Node, total: Decimal, *, is_narrow: bool) -> str:
    plain = _plain(node.label)
    longest = NARROW_LABEL_CHARACTERS_MAX if is_narrow else LABEL_CHARACTERS_MAX
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    if is_narrow:
        return f"{{name|{plain}}}" if node.kind != "sale" else ""
    return f"{{name|{plain}}}\n{{value|{rate_text(total)}}}"


def _label_style(*, is_dark: bool, is_narrow: bool) -> Mapping[str, object]:
    return {
        "position": "right",
        "distance": 4 if is_narrow else 7,
        "rich": {
            "name": {
                "color": colour("ink", is_dark=is_dark),
                "fontSize": 10.5 if is_narrow else 12.5,
                "fontWeight": 500,
                "lineHeight": 16,
            },
            "value": {
                "color": colour("muted", is_dark=is_dark),
                "fontSize": 11.5,
                "lineHeight": 15,
            },
        },
    }


def _tooltip(*, is_dark: bool) -> dict[str, object]:
    return {
        "renderMode": "richText",
        "confine": True,
        "backgroundColor": colour("surface", is_dark=is_dark),
        "borderColor": colour("line", is_dark=is_dark),
        "textStyle": {"color": colour("ink", is_dark=is_dark), "fontSize": 12},
    }
