"""
What a call should cost, with fractions and no hurry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

MILLION = 1_000_000
INPUT_AXES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input")
OUTPUT_AXES = ("output", "reasoning", "audio_output")


def half_even(exact: Fraction) -> int:
    """
    Return the nearest integer; of two, the even one.
    """
    below = exact.numerator // exact.denominator
    rest = exact - below
    if rest == Fraction(1, 2):
        return below if below % 2 == 0 else below + 1
    return below if rest < Fraction(1, 2) else below + 1


def charge(counts: Mapping[str, int], prices: Mapping[str, int]) -> int:
    """
    Return the charge of a usage: exact until one rounding at the end.
    """
    exact = Fraction(0)
    for axis, count in counts.items():
        exact += Fraction(count) * Fraction(prices[axis], MILLION)
    return half_even(exact)


def most(prices: Mapping[str, int], *, input_tokens: int, output_tokens: int) -> int:
    """
    Return the most that so many tokens can cost, rounded up.
    """
    dearest_input = max(prices[axis] for axis in INPUT_AXES if axis in prices)
    dearest_output = max(prices[axis] for axis in OUTPUT_AXES if axis in prices)
    exact = Fraction(input_tokens * dearest_input, MILLION)
    exact += Fraction(output_tokens * dearest_output, MILLION)
    if "request" in prices:
        exact += Fraction(prices["request"], MILLION)
    return -(-exact.numerator // exact.denominator)


def input_ceiling(body: bytes) -> int:
    """
    Return the most input tokens a plain body can be: its bytes, and what templates add.
    """
    return 256 + len(body) + 8 * body.count(b'"role"')


def divide(whole: int, shares_ppm: Sequence[int]) -> list[int]:
    """
    Divide by largest remainder: whoever lost most by rounding down gets the next quantum.
    """
    exact = [Fraction(whole * share, MILLION) for share in shares_ppm]
    parts = [value.numerator // value.denominator for value in exact]
    while sum(parts) < whole:
        losses = [value - part for value, part in zip(exact, parts, strict=True)]
        parts[losses.index(max(losses))] += 1
    return parts
