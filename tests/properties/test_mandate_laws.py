"""
Laws of mandates: whatever a chain allows, each mandate of it allows; terms survive writing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenworks.agents.mandates.ap2 import from_ap2, to_ap2
from tokenworks.agents.mandates.attenuation import (
    CONTAINED_IN,
    check_attenuated,
    least_containing,
)
from tokenworks.agents.mandates.errors import MandateNotAttenuatedError
from tokenworks.agents.mandates.judging import judge_chain, refusal_of_terms
from tokenworks.agents.mandates.merging import merge_chain
from tokenworks.agents.mandates.model import (
    CountLimit,
    Mandate,
    MandateState,
    MoneyLimit,
    Purchase,
    Terms,
    Window,
)
from tokenworks.agents.mandates.terms import check_terms, terms_from_json, terms_to_json
from tokenworks.foundation.errors import ForbiddenError, TokenworksError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CENT = 10**7
EXAMPLES = 40

Entry = TypeVar("Entry", bound=Hashable)

parties = st.integers(1, 4).map(lambda n: UUID(int=n))
words = st.sampled_from(("a", "b", "c"))
models = st.sampled_from(("m", "m@fast", "m@slow", "n", "n@fast"))
quanta = st.integers(1, 6).map(lambda n: n * CENT)
moments = st.integers(-3, 3).map(lambda n: NOW + timedelta(days=n))


def _some(entries: st.SearchStrategy[Entry]) -> st.SearchStrategy[frozenset[Entry] | None]:
    return st.none() | st.frozensets(entries, min_size=1, max_size=3)


def _limits() -> st.SearchStrategy[tuple[MoneyLimit, ...]]:
    return st.dictionaries(st.sampled_from(Window), quanta, max_size=3).map(
        lambda limits: tuple(MoneyLimit(window=w, quanta=q) for w, q in limits.items())
    )


@st.composite
def many_terms(draw: st.DrawFn, delegations_max: int = 0) -> Terms:
    """
    Terms of every shape, few enough values that they often meet.
    """
    terms = Terms(
        amount_min=draw(st.none() | quanta),
        amount_max=draw(st.none() | quanta),
        budgets=draw(_limits()),
        counts=draw(
            st.dictionaries(st.sampled_from(Window), st.integers(1, 5), max_size=3).map(
                lambda counts: tuple(CountLimit(window=w, payments=n) for w, n in counts.items())
            )
        ),
        payee_budgets=draw(_limits()),
        payees=draw(_some(parties)),
        instruments=draw(_some(words)),
        providers=draw(_some(words)),
        not_before=draw(st.none() | moments),
        not_after=draw(st.none() | moments),
        reference=draw(st.none() | words),
        tools=draw(_some(words)),
        models=draw(_some(models)),
        delegations_max=delegations_max,
    )
    try:
        check_terms(terms)
    except TokenworksError:
        assume(False)
    return terms


purchases = st.builds(
    Purchase,
    payee_id=parties,
    quanta=quanta,
    currency=st.just("USD"),
    instrument=words,
    provider=st.none() | words,
    reference=st.none() | words,
    tool=st.none() | words,
    model=st.none() | st.sampled_from(("m@fast", "m@slow", "n@fast", "o@fast")),
)


def _mandate(number: int, terms: Terms) -> Mandate:
    return Mandate(
        mandate_id=UUID(int=number),
        agent_id=UUID(int=9),
        issuer_id=UUID(int=8),
        organisation_id=UUID(int=7),
        parent_id=None,
        depth=number,
        terms=terms,
        state=MandateState.ACTIVE,
        label="",
        jws="",
        created_at=NOW,
        expires_at=None,
        revoked_at=None,
    )


@settings(max_examples=EXAMPLES)
@given(st.lists(many_terms(), min_size=1, max_size=4), purchases)
def test_what_a_chain_allows_each_of_its_mandates_allows(
    chain: list[Terms], purchase: Purchase
) -> None:
    """
    A chain is the intersection of its mandates, whatever they say.
    """
    mandates = [_mandate(n + 1, terms) for n, terms in enumerate(chain)]
    singly: list[bool] = []
    for mandate in mandates:
        try:
            judge_chain([mandate], purchase, now=NOW)
            singly.append(True)
        except ForbiddenError:
            singly.append(False)
    try:
        judge_chain(mandates, purchase, now=NOW)
        together = True
    except ForbiddenError as error:
        together = False
        refused = UUID(str(error.details["mandate_id"]))
        assert not singly[refused.int - 1], "it names the mandate that refused"
    assert together == all(singly)
    try:
        merge_chain(mandates).judge(purchase, now=NOW)
        merged = True
    except ForbiddenError:
        merged = False
    assert merged == together, "asked once or one by one, the answer is the same"


@settings(max_examples=EXAMPLES)
@given(many_terms(delegations_max=2), many_terms(delegations_max=1), purchases)
def test_attenuated_terms_that_state_everything_allow_nothing_more(
    parent: Terms, child: Terms, purchase: Purchase
) -> None:
    """
    A child that passes and states each field that its parent narrows is a subset by itself:
    what it alone allows, its parent allows too.
    """
    # Where the child says nothing, the parent's words are its own.
    child = replace(
        child,
        **{
            field: getattr(parent, field)
            for field in (
                *("amount_min", "amount_max", "payees", "instruments", "providers"),
                *("not_before", "not_after", "reference", "tools", "models"),
            )
            if getattr(child, field) is None
        },
    )
    try:
        check_attenuated(child, parent)
    except MandateNotAttenuatedError:
        return
    if refusal_of_terms(child, purchase) is None:
        assert refusal_of_terms(parent, purchase) is None
    ours = [(limit.window, limit.quanta) for limit in child.budgets]
    for bound in parent.budgets:
        for window, _ in ours:
            if bound.window in CONTAINED_IN[window]:
                least = least_containing(window, ours)
                assert least is not None
                assert least[1] <= bound.quanta


@settings(max_examples=EXAMPLES)
@given(many_terms(delegations_max=1))
def test_terms_are_within_themselves_except_that_a_level_is_used(terms: Terms) -> None:
    """
    The same terms one level down pass; with as many levels left they do not.
    """
    check_attenuated(replace(terms, delegations_max=0), terms)
    with pytest.raises(MandateNotAttenuatedError) as caught:
        check_attenuated(terms, terms)
    assert caught.value.param == "delegations_max"


@settings(max_examples=EXAMPLES)
@given(many_terms(delegations_max=2), many_terms(delegations_max=1), many_terms(delegations_max=0))
def test_attenuation_is_transitive_for_what_is_stated(
    top: Terms, middle: Terms, bottom: Terms
) -> None:
    """
    Within the middle one that states all the top one states: within the top one too.
    """
    middle = replace(
        middle,
        **{
            field: getattr(middle, field) if getattr(middle, field) is not None else theirs
            for field in (
                "amount_min",
                "amount_max",
                "payees",
                "instruments",
                "providers",
                "models",
            )
            if (theirs := getattr(top, field)) is not None
        },
        budgets=top.budgets,
        counts=top.counts,
        payee_budgets=top.payee_budgets,
        not_before=middle.not_before or top.not_before,
        not_after=middle.not_after or top.not_after,
        reference=middle.reference or top.reference,
        tools=middle.tools or top.tools,
    )
    try:
        check_attenuated(middle, top)
        check_attenuated(bottom, middle)
    except MandateNotAttenuatedError:
        return
    check_attenuated(bottom, top)


@settings(max_examples=EXAMPLES)
@given(many_terms(delegations_max=3))
def test_terms_survive_writing_and_reading(terms: Terms) -> None:
    """
    What is signed is what was meant, and equal terms are written alike.
    """
    text = terms_to_json(terms)
    assert terms_from_json(text) == terms
    assert terms_to_json(terms_from_json(text)) == text


@settings(max_examples=EXAMPLES)
@given(many_terms())
def test_ap2_says_back_what_it_can_say(terms: Terms) -> None:
    """
    Exported and imported again, every field that is not named as lost is the same.
    """
    exported = to_ap2(terms, issued_at=NOW, expires_at=None, names={})
    payees = {str(payee): payee for payee in terms.payees or ()}
    again = from_ap2(exported.document, payees=payees)
    for field in Terms.__dataclass_fields__:
        if field not in exported.not_expressed:
            assert getattr(again.terms, field) == getattr(terms, field), field
