"""
Each rule of the brake by itself: when it speaks, and what it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tokenworks.agents.brake.budgets import Budgets, window_start
from tokenworks.agents.brake.errors import InvalidRulesError, RulesLooserError
from tokenworks.agents.brake.model import Action, Subject
from tokenworks.agents.brake.rule_documents import (
    default_document,
    default_rules,
    parse_rules,
    to_document,
)
from tokenworks.agents.brake.rule_sets import compose_chain, refuse_looser, two_persons_above
from tokenworks.agents.brake.rules import Budget, Picture, judge_rules
from tokenworks.foundation.clock import FakeClock
from tokenworks.ledger.model import LimitView

DOLLAR = 10**9
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
SUBJECT = Subject(
    payment_id=UUID(int=1),
    digest=bytes(32),
    agent_id=UUID(int=2),
    mandate_id=UUID(int=3),
    organisation_id=UUID(int=4),
    party_chain=(UUID(int=4), UUID(int=2)),
    payee_id=UUID(int=5),
    quanta=DOLLAR,
    currency="USD",
    resource="GET https://shop.example/",
    request_digest=bytes(32),
)
QUIET = Picture(
    now=NOON,
    payments_minute=1,
    payments_hour=1,
    quanta_minute=DOLLAR,
    quanta_hour=DOLLAR,
    new_payees_hour=0,
    equal_calls_us=(),
    is_known_payee=True,
    usual_quanta=None,
    usual_count=0,
    usual_of="resource",
    budgets=(),
)


def budget(*, spent_percent: int, elapsed_percent: int) -> Budget:
    """
    A day's budget of 100 dollars.
    """
    return Budget(
        window="day",
        quanta=100 * DOLLAR,
        spent_quanta=spent_percent * DOLLAR,
        elapsed_ppm=elapsed_percent * 10_000,
    )


VELOCITY = {"payments_per_minute": 10, "amount_per_hour": "5"}
NIGHT = {"from": "22:00", "until": "06:00", "time_zone": "Europe/Berlin", "above": "0.5"}
BURN = {"spent_percent": 50, "window_percent": 20}
SECONDS = 1_000_000


@pytest.mark.parametrize(
    ("rule", "figures", "changes", "says"),
    [
        ("velocity", VELOCITY, {"payments_minute": 10}, None),
        ("velocity", VELOCITY, {"payments_minute": 11}, "11 payments within the last minute"),
        ("velocity", VELOCITY, {"quanta_hour": 5 * DOLLAR}, None),
        ("velocity", VELOCITY, {"quanta_hour": 5 * DOLLAR + 1}, "5.000000001 USD within the last"),
        ("velocity", {"payments_per_hour": 0}, {}, "1 payments within the last hour"),
        ("new_payee", {"above": "1"}, {"is_known_payee": False}, None),
        ("new_payee", {"above": "0.999"}, {"is_known_payee": False}, "The first payment to this"),
        ("new_payee", {"above": "0"}, {"is_known_payee": True}, None),
        (
            "new_payee",
            {"above": "9", "new_payees_per_hour": 3},
            {"is_known_payee": False, "new_payees_hour": 4},
            "4 new payees within the last hour",
        ),
        (
            "new_payee",
            {"above": "9", "new_payees_per_hour": 3},
            {"is_known_payee": False, "new_payees_hour": 3},
            None,
        ),
        (
            "price_jump",
            {"times": 4, "after_payments": 3},
            {"usual_quanta": DOLLAR // 4, "usual_count": 3},
            None,
        ),
        (
            "price_jump",
            {"times": 4, "after_payments": 3},
            {"usual_quanta": DOLLAR // 4 - 1, "usual_count": 3},
            "more than 4 times the usual",
        ),
        (
            "price_jump",
            {"times": 4, "after_payments": 3},
            {"usual_quanta": 1, "usual_count": 2},
            None,
        ),
        ("loop", {"times": 3, "within_s": 60}, {"equal_calls_us": [60 * SECONDS]}, None),
        (
            "loop",
            {"times": 3, "within_s": 60},
            {"equal_calls_us": [60 * SECONDS, 0]},
            "The same request 3 times within 60 seconds",
        ),
        (
            "loop",
            {"times": 3, "within_s": 60},
            {"equal_calls_us": [60 * SECONDS + 1, 0]},
            None,
        ),
        # 22:00 in Berlin is 20:00 UTC in summer and 21:00 in winter.
        ("night", NIGHT, {"now": NOON.replace(hour=19, minute=59)}, None),
        ("night", NIGHT, {"now": NOON.replace(hour=20)}, "at 22:00 in Europe/Berlin"),
        ("night", NIGHT, {"now": datetime(2026, 1, 7, 20, tzinfo=UTC)}, None),
        ("night", NIGHT, {"now": datetime(2026, 1, 7, 4, 59, tzinfo=UTC)}, "at 05:59"),
        ("night", NIGHT, {"now": datetime(2026, 1, 7, 5, tzinfo=UTC)}, None),
        ("night", {**NIGHT, "above": "1"}, {"now": NOON.replace(hour=20)}, None),
        (
            "night",
            {**NIGHT, "from": "11:00", "until": "15:00", "time_zone": "UTC"},
            {},
            "at 12:00 in UTC",
        ),
        ("burn_rate", BURN, {"budgets": [budget(spent_percent=49, elapsed_percent=19)]}, None),
        (
            "burn_rate",
            BURN,
            {"budgets": [budget(spent_percent=50, elapsed_percent=19)]},
            "51 % of the budget of the day is spent after 19 % of it",
        ),
        ("burn_rate", BURN, {"budgets": [budget(spent_percent=99, elapsed_percent=20)]}, None),
    ],
)
@pytest.mark.parametrize("action", ["hold", "deny", "off"])
def test_rule(
    rule: str, figures: Mapping[str, Any], changes: Mapping[str, Any], says: str | None, action: str
) -> None:
    """
    A rule speaks beyond its figure and not at it, with the action its owner chose.
    """
    document = {"rules": {rule: {"action": action, **figures}}}
    reasons = judge_rules(SUBJECT, replace(QUIET, **changes), [parse_rules(document)])

    if says is None or action == "off":
        assert reasons == ()
    else:
        [reason] = reasons
        assert (reason.rule, reason.action) == (rule, Action(action))
        assert says in reason.text


def test_amounts_in_another_currency_are_not_compared() -> None:
    """
    Rules in dollars hold a payment in yuan, because nobody can say that it is small.
    """
    rules = parse_rules({"rules": {"new_payee": {"action": "deny", "above": "100"}}})
    foreign = replace(SUBJECT, currency="CNY")

    [reason] = judge_rules(foreign, replace(QUIET, is_known_payee=False), [rules])

    assert (reason.rule, reason.action) == ("currency", Action.HOLD)
    counts = parse_rules({"rules": {"loop": {"action": "deny", "times": 2, "within_s": 9}}})
    assert judge_rules(foreign, QUIET, [counts]) == ()
    assert two_persons_above([parse_rules({"rules": {}, "two_persons_above": "5"})], "CNY") == -1


def test_organisation_replaces_defaults_and_nobody_loosens_the_operator() -> None:
    """
    From the operator down: the catalogue fills what the organisation has not set.
    """
    loose = parse_rules({"rules": {"new_payee": {"action": "off"}}})
    floor = parse_rules({"rules": {"new_payee": {"action": "hold", "above": "1"}}})
    defaults = default_rules()

    assert compose_chain([None, None], operator=None, defaults=defaults) == (defaults,)
    first, second = compose_chain([loose, None], operator=floor, defaults=defaults)
    assert first == floor
    assert second.new_payee == loose.new_payee
    assert second.velocity == defaults.velocity
    assert second.two_persons_above == defaults.two_persons_above
    yuan = parse_rules({"currency": "CNY", "rules": {}})
    [completed] = compose_chain([yuan], operator=None, defaults=defaults)
    assert (completed.new_payee, completed.two_persons_above) == (None, None)
    assert completed.loop == defaults.loop


@pytest.mark.parametrize(
    ("above", "below", "is_refused"),
    [
        (
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            {"loop": {"action": "off"}},
            True,
        ),
        (
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            {"loop": {"action": "hold", "times": 6, "within_s": 60}},
            True,
        ),
        (
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            False,
        ),
        (
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            {"loop": {"action": "hold", "times": 9, "within_s": 600}},
            False,
        ),
        (
            {"loop": {"action": "hold", "times": 5, "within_s": 60}},
            {"loop": {"action": "deny", "times": 9, "within_s": 60}},
            False,
        ),
        (
            {"velocity": {"action": "deny", "payments_per_hour": 5}},
            {"velocity": {"action": "deny", "payments_per_minute": 5}},
            False,
        ),
        (
            {"velocity": {"action": "deny", "payments_per_hour": 5, "payments_per_minute": 5}},
            {"velocity": {"action": "deny", "payments_per_minute": 5}},
            True,
        ),
        ({"loop": {"action": "off"}}, {"loop": {"action": "off"}}, False),
        ({"score": {"action": "hold"}}, {"score": {"action": "hold", "above_ppm": 2000000}}, True),
    ],
)
def test_rule_without_effect_is_refused(
    above: Mapping[str, Any], below: Mapping[str, Any], is_refused: bool
) -> None:
    """
    A rule that one above is stricter than in every way would only look as if it were in force.
    """
    upper, lower = parse_rules({"rules": above}), parse_rules({"rules": below})
    if is_refused:
        with pytest.raises(RulesLooserError):
            refuse_looser(lower, [upper])
    else:
        refuse_looser(lower, [upper])


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"rules": None},
        {"rules": {}, "more": 1},
        {"rules": {"loop": {"times": 3}}},
        {"rules": {"loop": {"action": "hold"}}},
        {"rules": {"loop": {"action": "hold", "times": 1, "within_s": 60}}},
        {"rules": {"loop": {"action": "hold", "times": 81, "within_s": 60}}},
        {"rules": {"velocity": {"action": "hold"}}},
        {"rules": {"velocity": {"action": "hold", "payments_per_minute": True}}},
        {"rules": {"velocity": {"action": "hold", "payments_per_minute": 1.5}}},
        {"rules": {"velocity": {"action": "hold", "amount_per_hour": 5}}},
        {"rules": {"new_payee": {"action": "hold", "above": "1e3"}}},
        {"rules": {"new_payee": {"action": "hold", "above": "9" * 25}}},
        {"rules": {"burn_rate": {"action": "hold", "spent_percent": 101, "window_percent": 5}}},
        {"rules": {"score": {"action": "deny"}}},
        {"currency": "XXX", "rules": {}},
    ],
)
def test_bad_document_is_refused(document: object) -> None:
    """
    Whatever breaks the schema is refused with a sentence.
    """
    with pytest.raises(InvalidRulesError) as caught:
        parse_rules(document)
    assert len(caught.value.message) > 10


def test_document_comes_back_as_it_was() -> None:
    """
    Rules written out and read again are the same rules.
    """
    for document in (default_document(), {"currency": "CNY", "rules": {"loop": {"action": "off"}}}):
        rules = parse_rules(document)
        assert parse_rules(to_document(rules)) == rules


class _Ledger:
    def __init__(self, views: list[LimitView]) -> None:
        self.views = views
        self.asked = 0

    async def limits(self, _scope_ids: object, /) -> list[LimitView]:
        self.asked += 1
        return self.views


async def test_budgets_are_read_from_the_ledger_and_remembered_briefly() -> None:
    """
    What is held counts as spent; other assets, minutes and hours do not count; 5 s are fresh.
    """

    def view(asset: str, window: str, ends_at: datetime | None) -> LimitView:
        return LimitView(
            limit_id=1,
            scope_id=UUID(int=1),
            asset=asset,
            quanta=100,
            window=window,
            time_zone="Europe/Berlin",
            remaining=40,
            held=30,
            resets_at=ends_at,
        )

    ends = datetime(2026, 7, 1, 22, tzinfo=UTC)
    ledger = _Ledger(
        [
            view("LIMIT.USD", "day", ends),
            view("LIMIT.USD", "hour", ends),
            view("LIMIT.USD", "ever", None),
            view("LIMIT.PAYMENTS", "day", ends),
        ]
    )
    clock = FakeClock(NOON - timedelta(hours=2))
    budgets = Budgets(ledger, clock)

    [found] = await budgets.of((UUID(int=1),), "USD")
    await budgets.of((UUID(int=1),), "USD")
    clock.advance(timedelta(seconds=5))
    await budgets.of((UUID(int=1),), "USD")

    assert (found.quanta, found.spent_quanta, found.elapsed_ppm) == (100, 60, 500_000)
    assert ledger.asked == 2


async def test_budgets_of_many_chains_are_read_together() -> None:
    """
    Who asks while others are read waits for one statement; each chain gets its own limits.
    """
    ends = datetime(2026, 7, 1, 22, tzinfo=UTC)
    ledger = _Ledger(
        [
            LimitView(
                limit_id=number,
                scope_id=UUID(int=number),
                asset="LIMIT.USD",
                quanta=number,
                window="day",
                time_zone="UTC",
                remaining=number,
                held=0,
                resets_at=ends,
            )
            for number in range(6)
        ]
    )
    budgets = Budgets(ledger, FakeClock(NOON))
    chains = [(UUID(int=number), UUID(int=0)) for number in range(6)]

    found = await asyncio.gather(*(budgets.of(chain, "USD") for chain in chains[1:]))

    assert [[budget.quanta for budget in each] for each in found] == [[n, 0] for n in range(1, 6)]
    assert ledger.asked == 1


async def test_budgets_that_cannot_be_read_are_an_error_for_all_who_asked() -> None:
    """
    Nobody is let pass without them, and the next one asks again.
    """

    class Broken(_Ledger):
        async def limits(self, _scope_ids: object, /) -> list[LimitView]:
            self.asked += 1
            raise OSError

    ledger = Broken([])
    budgets = Budgets(ledger, FakeClock(NOON))

    answers = await asyncio.gather(
        *(budgets.of((UUID(int=number),), "USD") for number in range(3)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [OSError] * 3
    with pytest.raises(OSError):
        await budgets.of((UUID(int=0),), "USD")
    assert ledger.asked == 2


@pytest.mark.parametrize(
    ("window", "ends", "starts"),
    [
        ("day", (2026, 3, 30), (2026, 3, 29)),
        ("week", (2026, 1, 5), (2025, 12, 29)),
        ("month", (2026, 3, 31), (2026, 2, 28)),
        ("quarter", (2026, 1, 1), (2025, 10, 1)),
        ("year", (2024, 2, 29), (2023, 2, 28)),
    ],
)
def test_window_begins_a_calendar_unit_before_it_ends(
    window: str, ends: tuple[int, int, int], starts: tuple[int, int, int]
) -> None:
    """
    By the calendar, over the end of a year and short months.
    """
    assert window_start(window, datetime(*ends, tzinfo=UTC), "UTC") == datetime(*starts, tzinfo=UTC)
