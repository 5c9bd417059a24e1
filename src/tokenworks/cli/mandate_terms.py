"""
The terms of a mandate as people write and read them: ``5/day``, ``1000/hour``.
"""

from __future__ import annotations

from typing import Any, cast

from tokenworks.cli.client import EXIT_COULD_NOT_RUN, CommandError


def terms_text(terms: dict[str, Any]) -> str:
    """
    Return terms in one line for people.
    """
    parts: list[str] = []
    for field, value in terms.items():
        if field in {"budgets", "payee_budgets"}:
            each = " each payee" if field == "payee_budgets" else ""
            parts.extend(f"{limit['amount']}/{limit['window']}{each}" for limit in value)
        elif field == "counts":
            parts.extend(f"{limit['payments']} payments/{limit['window']}" for limit in value)
        elif isinstance(value, list):
            parts.append(f"{field}: {len(cast('list[object]', value))}")
        else:
            parts.append(f"{field} {value}")
    return ", ".join(parts)


def money_limits(texts: list[str] | None) -> list[dict[str, str]]:
    """
    Return budgets, each written as an amount in a window.
    """
    return [
        {"window": window, "amount": amount} for amount, window in map(split_window, texts or [])
    ]


def payment_limits(texts: list[str] | None) -> list[dict[str, object]]:
    """
    Return counts of payments, each written as a whole number in a window.
    """
    return [
        {"window": window, "payments": _whole(number)}
        for number, window in map(split_window, texts or [])
    ]


def split_window(text: str) -> tuple[str, str]:
    """
    Return the amount and the window of ``5/day``.

    Raises:
        CommandError: One of them is missing.
    """
    amount, separator, window = text.partition("/")
    if not separator or not amount or not window:
        message = f"{text!r} is not written as 5/day or 100/ever."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return amount, window


def _whole(text: str) -> int:
    if not text.isdecimal():
        message = f"{text!r} is no whole number of payments."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return int(text)
