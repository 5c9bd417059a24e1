"""
Divide whole microjoules by weights; pure.
"""

from __future__ import annotations

from collections.abc import Sequence


def share(total: int, weights: Sequence[int]) -> list[int]:
    """
    Return parts in proportion to the weights that sum to the total, by largest remainder.

    Equal remainders go to whoever comes first. Without any weight nobody gets anything.
    """
    assert total >= 0, "energy is not negative"
    whole = sum(weights)
    if whole == 0:
        return [0] * len(weights)
    parts: list[int] = []
    remainders: list[int] = []
    for weight in weights:
        assert weight >= 0, "a weight is not negative"
        part, remainder = divmod(total * weight, whole)
        parts.append(part)
        remainders.append(remainder)
    left = total - sum(parts)
    for place in sorted(range(len(parts)), key=lambda place: -remainders[place])[:left]:
        parts[place] += 1
    return parts
