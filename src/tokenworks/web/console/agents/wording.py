"""
Say in plain words what a mandate allows, how long is left, and how far a limit is used; pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tokenworks.web.console.agents.model import Limit, Terms
from tokenworks.web.console.wording import (
    count_text,
    day_and_clock_text,
    moment_of,
    price_text,
    to_decimal,
    words,
)

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_LIST_SHOWN_MAX: Final = 8

WINDOW_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "minute": "a minute",
        "hour": "an hour",
        "day": "a day",
        "week": "a week",
        "month": "a month",
        "quarter": "a quarter",
        "year": "a year",
        "ever": "in all",
    }
)
RULE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "velocity": "Many at once",
        "new_payee": "New payee",
        "price_jump": "Price jump",
        "loop": "Same request again",
        "night": "Quiet hours",
        "burn_rate": "Budget burns fast",
        "score": "Unusual",
        "currency": "Other currency",
    }
)
GROUND_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "condition_met": "The condition was met",
        "silence": "Nobody decided in time, so the payee is paid",
        "not_delivered": "Nothing was delivered in time",
        "condition_not_met": "The condition was not met",
        "arbitrated": "Decided by the arbiter",
        "cancelled": "The payee let it go",
    }
)


def rule_text(rule: str) -> str:
    """
    Return what a rule of the brake looks for.
    """
    return RULE_NAMES.get(rule, words(rule).capitalize())


def window_text(window: str) -> str:
    """
    Return how long a limit counts.
    """
    return WINDOW_NAMES.get(window, window)


def ground_text(ground: str) -> str:
    """
    Return why a milestone was decided as it was.
    """
    return GROUND_NAMES.get(ground, words(ground).capitalize())


def pretty_text(value: object) -> str:
    """
    Return JSON to be read.
    """
    return json.dumps(value, indent=2, ensure_ascii=False)


def lasting_text(seconds: int) -> str:
    """
    Return how long something lasts, in its largest whole unit.
    """
    for span_s, unit in ((_DAY_S, "day"), (_HOUR_S, "hour"), (_MINUTE_S, "minute")):
        if seconds and seconds % span_s == 0:
            count = seconds // span_s
            return f"{count_text(count)} {unit}{'' if count == 1 else 's'}"
    return f"{count_text(seconds)} seconds"


def terms_in_words(terms: Terms, names: Mapping[str, str]) -> tuple[str, ...]:
    """
    Return what a mandate allows, a sentence for each narrowing.

    Args:
        terms: The mandate's own; those above it narrow it further.
        names: Of payees, by id.
    """
    money = _money_of(terms.currency)
    return (
        *_amounts(terms),
        *(f"At most {money(each.amount)} {window_text(each.window)}." for each in terms.budgets),
        *(
            f"At most {_payments(each.payments)} {window_text(each.window)}."
            for each in terms.counts
        ),
        *(
            f"At most {money(each.amount)} {window_text(each.window)} to each payee."
            for each in terms.payee_budgets
        ),
        *_lists(terms, names),
        *_times(terms),
        *((f"Only for the transaction {terms.reference}.",) if terms.reference else ()),
        _delegations(terms.delegations_max),
    )


def left_text(until: str | None, now: datetime) -> str:
    """
    Return how long is left until a moment, as a clock that counts down.
    """
    moment = moment_of(until)
    if moment is None:
        return "no end"
    seconds = int((moment - now).total_seconds())
    if seconds <= 0:
        return "time is over"
    if seconds >= _DAY_S:
        return f"{seconds // _DAY_S} d {seconds % _DAY_S // _HOUR_S} h left"
    if seconds >= _HOUR_S:
        return f"{seconds // _HOUR_S} h {seconds % _HOUR_S // _MINUTE_S} min left"
    return f"{seconds // _MINUTE_S}:{seconds % _MINUTE_S:02d} left"


def ago_text(moment_text: str | None, now: datetime) -> str:
    """
    Return how long ago a moment was, roughly.
    """
    moment = moment_of(moment_text)
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    if seconds < _MINUTE_S:
        return "just now"
    for span_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= span_s:
            return f"{seconds // span_s} {unit} ago"
    raise AssertionError("a minute or more is one of these")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """
    A limit as a bar: what is spent, what is held on top, what is left.
    """

    label: str
    spent: str
    held: str
    left: str
    whole: str
    unit: str
    spent_percent: Decimal  # of the bar's width
    held_percent: Decimal  # on top of it
    is_low: bool  # less than a tenth is left
    resets_at: str | None

    @property
    def says(self) -> str:
        """
        Return the bar for somebody who does not see it.
        """
        held = f", {self.held} {self.unit} held" if to_decimal(self.held) else ""
        return (
            f"{self.label}: {self.spent} of {self.whole} {self.unit} spent{held},"
            f" {self.left} {self.unit} left"
        )


def to_bar(limit: Limit) -> Bar:
    """
    Return a limit as a bar.
    """
    whole = to_decimal(limit.amount)
    spent, held, left = (to_decimal(text) for text in (limit.spent, limit.held, limit.remaining))

    def percent(part: Decimal) -> Decimal:
        return (
            round(min(max(part / whole, Decimal(0)), Decimal(1)) * 100, 2)
            if whole
            else Decimal(100)
        )

    spent_percent = percent(spent)
    return Bar(
        label=window_text(limit.per),
        spent=_figure(limit.spent),
        held=_figure(limit.held),
        left=_figure(limit.remaining),
        whole=_figure(limit.amount),
        unit=limit.unit,
        spent_percent=spent_percent,
        held_percent=min(percent(held), 100 - spent_percent),
        is_low=left * 10 < whole,
        resets_at=limit.resets_at,
    )


def share_text(share: str) -> str:
    """
    Return an exact share such as ``3/4`` as a percentage, rounded down to two decimals.
    """
    part, _, whole = share.partition("/")
    if not (part.isdigit() and whole.isdigit() and int(whole)):
        return share
    percent = Decimal(int(part) * 10_000 // int(whole)) / 100
    return f"{percent.normalize():f} %"


def part_of_receipt(path: str) -> int:
    """
    Return which part of a payment a receipt's path names.
    """
    query = parse_qs(urlsplit(path).query)
    ordinal = query.get("ordinal", ["0"])[0]
    return int(ordinal) if ordinal.isascii() and ordinal.isdigit() else 0


def plain_list(names: Iterable[str]) -> str:
    """
    Return names as a sentence has them; a long list is cut, and says so.
    """
    shown = list(names)
    more = len(shown) - _LIST_SHOWN_MAX
    if more > 0:
        return f"{', '.join(shown[:_LIST_SHOWN_MAX])} and {count_text(more)} more"
    return shown[0] if len(shown) == 1 else " and ".join([", ".join(shown[:-1]), shown[-1]])


def _figure(text: str) -> str:
    return price_text(text) if "." in text else f"{to_decimal(text):,f}"


def _money_of(currency: str) -> Callable[[str], str]:
    return lambda text: f"{price_text(text)} {currency}"


def _payments(count: int) -> str:
    return "1 payment" if count == 1 else f"{count_text(count)} payments"


def _amounts(terms: Terms) -> tuple[str, ...]:
    money = _money_of(terms.currency)
    match terms.amount_min, terms.amount_max:
        case None, None:
            return ()
        case None, str(most):
            return (f"Each payment at most {money(most)}.",)
        case str(least), None:
            return (f"Each payment at least {money(least)}.",)
        case least, most:
            return (f"Each payment between {money(str(least))} and {money(str(most))}.",)


def _lists(terms: Terms, names: Mapping[str, str]) -> tuple[str, ...]:
    payees = None if terms.payees is None else [names.get(each, each) for each in terms.payees]
    lists = (
        ("Pays", payees),
        ("Pays through the tools", terms.tools),
        ("Pays for the models", terms.models),
        ("Pays over the networks", terms.instruments),
        ("Pays through the services", terms.providers),
    )
    return tuple(
        f"{start} {plain_list(entries)} only." if entries else f"{start}: none, so nothing."
        for start, entries in lists
        if entries is not None
    )


def _times(terms: Terms) -> tuple[str, ...]:
    match terms.not_before, terms.not_after:
        case None, None:
            return ()
        case None, str(last):
            return (f"Until {day_and_clock_text(last)}.",)
        case str(first), None:
            return (f"From {day_and_clock_text(first)} on.",)
        case first, last:
            return (f"From {day_and_clock_text(first)} until {day_and_clock_text(last)}.",)


def _delegations(levels: int) -> str:
    if not levels:
        return "May be handed on to nobody."
    return f"May be handed on {levels} level{'' if levels == 1 else 's'} further down."
