"""
Draw the pictures of docs/factory-economics.md from the shipped rows: ``make factory-pictures``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from tokenworks.factory.economics.costing import Assumptions
from tokenworks.factory.economics.evaluating import choose_front, evaluate, hardware_for
from tokenworks.factory.economics.frontier import find_front
from tokenworks.factory.economics.interpolating import LogarithmicCurve
from tokenworks.factory.economics.model import OperatingPoint, SystemPoint
from tokenworks.factory.economics.reading import read_hardware, read_points, read_systems
from tokenworks.pricing.tiers import load_tiers

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # told apart by everybody
STEPS = 200
CROWDED_BELOW = 60  # tokens per second of one user: points too close for a label each


def main() -> None:
    """
    Write every picture.
    """
    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "figure.constrained_layout.use": True,
        }
    )
    _systems()
    _front()
    _utilisation()


def _systems() -> None:
    figure, axes = plt.subplots(figsize=(8, 4.6))
    groups: dict[str, list[SystemPoint]] = {}
    for point in read_systems():
        groups.setdefault(point.system, []).append(point)
    for colour, (system, points) in zip(COLOURS, groups.items(), strict=False):
        xs = [point.tokens_per_s_per_user for point in points]
        ys = [float(point.output_tokens_per_s_per_megawatt) for point in points]
        places = _places(xs[0], xs[-1])
        curve = LogarithmicCurve(xs, ys)
        axes.plot(places, [curve.at(x) for x in places], color=colour, label=system)
        axes.plot(xs, ys, "o", color=colour, markersize=5)
    for tier in load_tiers().values():
        if tier.speed_floor_tokens_per_s is not None:
            floor = tier.speed_floor_tokens_per_s
            axes.axvline(floor, color="0.4", linestyle=":", linewidth=1)
            axes.text(floor + 2, 2.2e6, tier.tier_id, color="0.3", fontsize=9)
    axes.set(
        yscale="log",
        xlim=(40, 360),
        ylim=(1.2e4, 2.9e6),
        xlabel="output tokens per second of one user",
        ylabel="output tokens per second and utility MW",
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    _save(figure, "factory-systems.png")


def _front() -> None:
    key, points = choose_front(read_points(), gpu="b200", model="DeepSeek-V4-Pro")
    front = find_front(points)
    figure, axes = plt.subplots(figsize=(8, 4.6))
    behind = [entry.point for entry in front.dominated]
    axes.plot(
        [point.tokens_per_s_per_user for point in behind],
        [point.tokens_per_s_per_gpu for point in behind],
        "o",
        color="0.7",
        markersize=5,
        label="dominated",
    )
    xs = [point.tokens_per_s_per_user for point in front.points]
    ys = [point.tokens_per_s_per_gpu for point in front.points]
    curve = LogarithmicCurve(xs, ys)
    places = _places(xs[0], xs[-1])
    axes.plot(places, [curve.at(x) for x in places], color=COLOURS[0], label="front")
    axes.plot(xs, ys, "o", color=COLOURS[0], markersize=6)
    crowded = [point for point in front.points if point.tokens_per_s_per_user < CROWDED_BELOW]
    axes.annotate(
        f"{_label(crowded[0])}\n... {_label(crowded[-1])}",
        (crowded[0].tokens_per_s_per_user, crowded[0].tokens_per_s_per_gpu),
        textcoords="offset points",
        xytext=(8, 12),
        fontsize=8,
        color="0.3",
    )
    for at, point in enumerate(front.points[len(crowded) :]):
        axes.annotate(
            _label(point),
            (point.tokens_per_s_per_user, point.tokens_per_s_per_gpu),
            textcoords="offset points",
            xytext=(8, 4 + 10 * (at % 2)),  # two neighbours serve nearly as much
            fontsize=8,
            color="0.3",
        )
    axes.set(
        yscale="log",
        xlim=(0, 130),
        ylim=(4, 3000),
        xlabel="output tokens per second of one user",
        ylabel="output tokens per second and GPU",
        title=f"{key.model}, {key.precision}, {key.gpu.upper()} (layout x batch: first token)",
    )
    axes.legend(frameon=False, loc="lower left")
    _save(figure, "factory-front.png")


def _utilisation() -> None:
    figure, axes = plt.subplots(figsize=(8, 4.2))
    machines, known, tiers = read_hardware(), read_points(), load_tiers()
    shares = [Fraction(step, 100) for step in range(2, 101)]
    for colour, gpu in zip(COLOURS, ("b200", "h100"), strict=False):
        _, points = choose_front(known, gpu=gpu, model="gpt-oss-120b", workload="gpqa")
        for tier_id, style in (("standard", "-"), ("premium", "--")):
            costs: list[float] = []
            for share in shares:
                assumptions = Assumptions(
                    utilisation=share, pue=Fraction(6, 5), power_usd_per_mwh=Fraction(80)
                )
                hardware = hardware_for(machines, gpu)
                [found] = evaluate(points, hardware, assumptions, {tier_id: tiers[tier_id]})
                assert found.economics is not None
                costs.append(float(found.economics.cost_usd_per_million))
            label = f"{gpu.upper()}, {tier_id}"
            axes.plot([float(s) for s in shares], costs, style, color=colour, label=label)
    axes.axhline(3, color="0.4", linestyle=":", linewidth=1)
    axes.text(0.99, 3.15, "price of standard, $3", ha="right", color="0.3", fontsize=9)
    axes.set(
        yscale="log",
        xlim=(0, 1),
        xlabel="utilisation",
        ylabel="US dollars per million output tokens",
        title="gpt-oss-120b, PUE 1.2, $80 per MWh",
    )
    axes.legend(frameon=False)
    _save(figure, "factory-utilisation.png")


def _label(point: OperatingPoint) -> str:
    assert point.ttft_ms is not None
    return f"{point.layout} x {point.batch:.0f}: {point.ttft_ms / 1000:.1f} s"


def _places(low: float, high: float) -> list[float]:
    inner = [low * math.exp(math.log(high / low) * step / STEPS) for step in range(1, STEPS)]
    return [low, *inner, high]


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
