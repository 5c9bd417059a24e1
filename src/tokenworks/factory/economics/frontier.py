"""
The Pareto front: no other point is as fast for one user and serves as much, and better at one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenworks.factory.economics.model import FrontKey, OperatingPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Dominated:
    """
    A point that is not on the front, and one that is better than it.
    """

    point: OperatingPoint
    by: OperatingPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """
    All points of one key: those on the front by ascending speed for one user, and the others.
    """

    points: tuple[OperatingPoint, ...]
    dominated: tuple[Dominated, ...]


def dominates(one: OperatingPoint, other: OperatingPoint) -> bool:
    """
    Say whether a point is at least as good at speed and throughput, and better at one.
    """
    ours = (one.tokens_per_s_per_user, one.tokens_per_s_per_gpu)
    theirs = (other.tokens_per_s_per_user, other.tokens_per_s_per_gpu)
    return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]


def find_front(points: Iterable[OperatingPoint]) -> Front:
    """
    Return the front of points and name what dominates each of the others; O(n log n).
    """
    ordered = sorted(
        points,
        key=lambda point: (-point.tokens_per_s_per_user, -point.tokens_per_s_per_gpu, point.row),
    )
    kept: list[OperatingPoint] = []  # from fast to slow, so by rising throughput
    dominated: list[Dominated] = []
    for point in ordered:
        # The last one kept serves most of all that are as fast or faster.
        if kept and dominates(kept[-1], point):
            dominated.append(Dominated(point=point, by=kept[-1]))
        else:
            kept.append(point)
    dominated.sort(key=lambda entry: entry.point.row)
    return Front(points=tuple(reversed(kept)), dominated=tuple(dominated))


def group_by_front(points: Iterable[OperatingPoint]) -> dict[FrontKey, tuple[OperatingPoint, ...]]:
    """
    Return the points of each front.
    """
    groups: dict[FrontKey, list[OperatingPoint]] = {}
    for point in points:
        groups.setdefault(point.front_key, []).append(point)
    return {key: tuple(group) for key, group in groups.items()}
