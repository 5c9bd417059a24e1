"""
The tree of agents, and what its words say.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.web.console.agents.model import (
    AgentTree,
    CountLimit,
    Escrow,
    Limit,
    Milestone,
    MoneyLimit,
    Payment,
    Terms,
    TreeMandate,
    TreeParty,
)
from tokenworks.web.console.agents.progress import in_group, to_progress
from tokenworks.web.console.agents.tree import counts, matching, newest_by_mandate, to_rows
from tokenworks.web.console.agents.wording import (
    ago_text,
    lasting_text,
    left_text,
    plain_list,
    terms_in_words,
    to_bar,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def in_s(seconds: float) -> str:
    """
    Return a moment that far from now.
    """
    return (NOW + timedelta(seconds=seconds)).isoformat()


def party(name: str, level: str, parent: str | None = None, *, state: str = "active") -> TreeParty:
    """
    Return a party whose id is its name.
    """
    return TreeParty(party_id=name, name=name, level=level, parent_id=parent, state=state)


def mandate(
    name: str,
    agent: str,
    parent: str | None = None,
    *,
    state: str = "active",
    expires_s: float | None = None,
) -> TreeMandate:
    """
    Return a mandate whose id is its name.
    """
    return TreeMandate(
        mandate_id=name,
        agent_id=agent,
        label=name,
        parent_id=parent,
        state=state,
        expires_at=None if expires_s is None else in_s(expires_s),
    )


PARTIES = (
    party("acme", "organisation"),
    party("research", "team", "acme"),
    party("chief", "agent", "research"),
    party("scout", "agent", "acme"),
)
MANDATES = (
    mandate("budget", "chief"),
    mandate("part", "chief", "budget"),
    mandate("errand", "scout", "budget"),
    mandate("old", "scout", expires_s=-1),
)


def lines(*, parties: tuple[TreeParty, ...] = PARTIES, **changed: TreeMandate) -> list[str]:
    """
    Return the rows as indented text, with states.
    """
    mandates = tuple(changed.get(each.mandate_id, each) for each in MANDATES)
    rows = to_rows(AgentTree(parties=parties, mandates=mandates), NOW, last_payments={})
    return [f"{'  ' * row.depth}{row.name} {row.state} {row.stopped_by}".rstrip() for row in rows]


def test_tree_is_owner_team_agent_mandates() -> None:
    """
    A mandate stands below its agent, or below the parent that the same agent has.
    """
    assert lines() == [
        "acme active",
        "  research active",
        "    chief active",
        "      budget active",
        "        part active",
        "  scout active",
        "    errand active",
        "    old expired",
    ]


def test_frozen_owner_stops_everything_below() -> None:
    """
    Whoever is frozen is named at everything it stops.
    """
    frozen = tuple(
        party("research", "team", "acme", state="frozen") if each.name == "research" else each
        for each in PARTIES
    )
    shown = lines(parties=frozen)

    assert "      budget frozen research" in shown
    assert "        part frozen research" in shown


def test_frozen_agent_stops_what_it_delegated() -> None:
    """
    A delegation to another agent stops with the agent that delegated, wherever it stands.
    """
    frozen = tuple(
        party("chief", "agent", "research", state="frozen") if each.name == "chief" else each
        for each in PARTIES
    )

    assert "    errand frozen chief" in lines(parties=frozen)
    assert "  scout active" in lines(parties=frozen)


@pytest.mark.parametrize(("state", "stays"), [("frozen", "frozen"), ("revoked", "frozen")])
def test_mandate_that_stops_takes_its_delegations_along(state: str, stays: str) -> None:
    """
    A frozen or revoked mandate is named at what was delegated below it.
    """
    shown = lines(budget=mandate("budget", "chief", state=state))

    assert f"      budget {state}" in shown
    assert f"        part {stays} budget" in shown
    assert f"    errand {stays} budget" in shown


def test_freeze_names_all_it_stops() -> None:
    """
    What a freeze stops counts delegations to agents elsewhere, and no mandate that is over.
    """
    rows = to_rows(AgentTree(parties=PARTIES, mandates=MANDATES), NOW, last_payments={})
    below = {row.name: (row.below.agents, row.below.mandates) for row in rows}

    assert below["acme"] == (("chief", "scout"), 3)
    assert below["chief"] == (("chief", "scout"), 3)
    assert below["scout"] == (("scout",), 1)
    assert below["budget"] == (("chief", "scout"), 3)
    assert below["part"] == (("chief",), 1)
    assert counts(rows) == {"agents": 2, "active": 3, "frozen": 0}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["acme", "research", "chief", "budget", "part", "scout", "errand", "old"]),
        ("errand", ["acme", "scout", "errand"]),
        ("CHIEF", ["acme", "research", "chief", "budget", "part"]),
        ("expired", ["acme", "scout", "old"]),
        ("nobody", []),
    ],
)
def test_finding_keeps_what_stands_above_and_below(words: str, names: list[str]) -> None:
    """
    What is found is shown in its place.
    """
    rows = to_rows(AgentTree(parties=PARTIES, mandates=MANDATES), NOW, last_payments={})

    assert [row.name for row in matching(rows, words)] == names


def test_last_payment_is_the_newest_of_the_mandate() -> None:
    """
    Of a page of payments, newest first, each mandate has its first.
    """
    payments = [
        Payment(payment_id=str(index), state="captured", mandate_id=name)
        for index, name in enumerate(["budget", "errand", "budget"])
    ]

    found = newest_by_mandate(payments)

    assert {name: payment.payment_id for name, payment in found.items()} == {
        "budget": "0",
        "errand": "1",
    }


def test_terms_are_sentences() -> None:
    """
    Each narrowing is one sentence; payees have their names.
    """
    terms = Terms(
        amount_min="0.0001",
        amount_max="0.5",
        budgets=(MoneyLimit(window="day", amount="5"), MoneyLimit(window="ever", amount="50")),
        counts=(CountLimit(window="hour", payments=600),),
        payee_budgets=(MoneyLimit(window="day", amount="1"),),
        payees=("a", "b"),
        tools=(),
        models=("smollm2@standard",),
        not_after="2026-04-01T00:00:00Z",
        reference="report-17",
        delegations_max=1,
    )

    assert terms_in_words(terms, {"a": "maps", "b": "data"}) == (
        "Each payment between 0.0001 USD and 0.50 USD.",
        "At most 5.00 USD a day.",
        "At most 50.00 USD in all.",
        "At most 600 payments an hour.",
        "At most 1.00 USD a day to each payee.",
        "Pays maps and data only.",
        "Pays through the tools: none, so nothing.",
        "Pays for the models smollm2@standard only.",
        "Until 2026-04-01 00:00:00 UTC.",
        "Only for the transaction report-17.",
        "May be handed on 1 level further down.",
    )


def test_terms_without_bounds_say_that_nothing_is_handed_on() -> None:
    """
    What is not narrowed is not mentioned.
    """
    assert terms_in_words(Terms(), {}) == ("May be handed on to nobody.",)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "time is over"),
        (0, "time is over"),
        (9, "0:09 left"),
        (754, "12:34 left"),
        (3_600, "1 h 0 min left"),
        (100_000, "1 d 3 h left"),
    ],
)
def test_time_left_counts_down(seconds: float, text: str) -> None:
    """
    Minutes and seconds when it is urgent, days when it is not.
    """
    assert left_text(in_s(seconds), NOW) == text


def test_other_spans_are_words() -> None:
    """
    Times ago and windows are rough; what is missing says so.
    """
    assert [ago_text(in_s(-s), NOW) for s in (5, 61, 7_300, 200_000)] == [
        "just now",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert (ago_text(None, NOW), left_text(None, NOW)) == ("never", "no end")
    assert [lasting_text(s) for s in (60, 600, 86_400, 90, 0)] == [
        "1 minute",
        "10 minutes",
        "1 day",
        "90 seconds",
        "0 seconds",
    ]
    assert plain_list([str(n) for n in range(11)]).endswith("7 and 3 more")


AMOUNTS = st.integers(min_value=0, max_value=10**12)


@given(spent=AMOUNTS, held=AMOUNTS, remaining=AMOUNTS, whole=AMOUNTS)
def test_bar_never_leaves_its_track(spent: int, held: int, remaining: int, whole: int) -> None:
    """
    Whatever a hub says, spent and held together fill the track at most.
    """
    limit = Limit(
        unit="USD",
        per="day",
        amount=str(whole),
        spent=str(spent),
        held=str(held),
        remaining=str(remaining),
    )
    bar = to_bar(limit)

    assert 0 <= bar.spent_percent <= 100
    assert 0 <= bar.held_percent <= 100 - bar.spent_percent


def test_bar_says_what_it_shows() -> None:
    """
    A reader who sees no bar hears the same, and the colour changes below a tenth.
    """
    limit = Limit(
        unit="USD", per="day", amount="5", spent="4.5", held="0.1", remaining="0.4", resets_at=None
    )

    assert to_bar(limit).says == "a day: 4.50 of 5 USD spent, 0.10 USD held, 0.40 USD left"
    assert to_bar(limit).is_low


def escrow(state: str, *milestones: str) -> Escrow:
    """
    Return an escrow of milestones in some states.
    """
    return Escrow(
        escrow_id="e",
        state=state,
        payer_agent="chief",
        organisation="acme",
        mandate="budget",
        payee="scout",
        currency="USD",
        amount="4",
        captured="3",
        milestones=tuple(
            Milestone(name=str(index), amount="1", state=each)
            for index, each in enumerate(milestones)
        ),
    )


def test_progress_counts_decided_milestones_and_money() -> None:
    """
    How far an escrow is: milestones decided, captured and returned parts.
    """
    running = to_progress(escrow("funded", "decided", "open"))
    over = to_progress(escrow("settled", "decided", "decided"))

    assert (running.decided, running.milestones) == (1, 2)
    assert (running.captured_percent, running.returned_percent) == (Decimal(75), Decimal(0))
    assert (over.returned, over.returned_percent) == (Decimal(1), Decimal(25))


@pytest.mark.parametrize(
    ("state", "groups"),
    [
        ("funded", {"all", "running"}),
        ("disputed", {"all", "running", "disputed"}),
        ("refunded", {"all", "over"}),
    ],
)
def test_escrows_stand_in_groups(state: str, groups: set[str]) -> None:
    """
    Every escrow is running or over.
    """
    found = {
        name for name in ("all", "running", "disputed", "over") if in_group(escrow(state), name)
    }

    assert found == groups
