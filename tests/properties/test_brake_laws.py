"""
Laws of the brake: the score never lowers scrutiny, rules below never loosen, profiles stay
small and come back as they were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_brake_rules import QUIET, SUBJECT
from tokenworks.agents.brake.deciding import decide
from tokenworks.agents.brake.errors import RulesLooserError
from tokenworks.agents.brake.model import Action
from tokenworks.agents.brake.profile import RECENT_MAX, STATE_BYTES_MAX, Profile, mark_of
from tokenworks.agents.brake.rule_documents import default_rules, parse_rules, to_document
from tokenworks.agents.brake.rule_sets import RuleSet, compose_chain, refuse_looser
from tokenworks.agents.brake.rules import RANKS, Budget, Picture, judge_rules, strictest
from tokenworks.agents.brake.scoring import (
    FEATURES,
    FLOORS,
    LEARN_FIRST,
    RATES,
    C,
    K,
    Score,
    ScoreState,
    features_of,
    learn,
    score_of,
)

ACTIONS = st.sampled_from(["off", "hold", "deny"])
AMOUNTS = st.integers(0, 10**6).map(str)
COUNTS = st.integers(0, 1_000)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """
    Any of these fields.
    """
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """
    Any rule set that fits the schema.
    """
    bounds = st.fixed_dictionaries(
        {"payments_per_minute": COUNTS},
        optional={"payments_per_hour": COUNTS, "amount_per_hour": AMOUNTS},
    )
    rules = {
        "velocity": draw(bounds),
        "new_payee": draw(optional(above=AMOUNTS, new_payees_per_hour=COUNTS)),
        "price_jump": {
            "times": draw(st.integers(2, 100)),
            "after_payments": draw(st.integers(1, 9)),
        },
        "loop": {"times": draw(st.integers(2, 80)), "within_s": draw(st.integers(1, 600))},
        "night": {
            "from": f"{draw(st.integers(0, 23)):02}:00",
            "until": f"{draw(st.integers(0, 23)):02}:00",
            "time_zone": draw(st.sampled_from(["UTC", "Asia/Shanghai"])),
        },
        "burn_rate": {
            "spent_percent": draw(st.integers(1, 100)),
            "window_percent": draw(st.integers(1, 100)),
        },
        "score": {"above_ppm": draw(st.integers(100_000, 5_000_000))},
    }
    for name in ("velocity", "new_payee", "loop"):
        if draw(st.booleans()):
            rules[name] = {**rules[name], "scope": draw(st.sampled_from(["agent", "tree"]))}
    named = draw(st.sets(st.sampled_from(sorted(rules))))
    document: dict[str, Any] = {"rules": {}}
    for name in sorted(named):
        action = draw(ACTIONS if name != "score" else st.sampled_from(["off", "hold"]))
        document["rules"][name] = {"action": action, **rules[name]}
    if draw(st.booleans()):
        document["two_persons_above"] = draw(AMOUNTS)
    return document


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """
    Anything that may be known about an agent.
    """
    budget = Budget(
        window="day",
        quanta=draw(st.integers(0, 10**12)),
        spent_quanta=draw(st.integers(0, 10**12)),
        elapsed_ppm=draw(st.integers(0, 1_000_000)),
    )
    return replace(
        QUIET,
        now=QUIET.now.replace(hour=draw(st.integers(0, 23))),
        payments_minute=draw(st.integers(1, 2_000)),
        payments_hour=draw(st.integers(1, 2_000)),
        quanta_hour=draw(st.integers(0, 10**13)),
        new_payees_hour=draw(COUNTS),
        equal_calls_us=draw(st.lists(st.integers(0, 10**9), max_size=20)),
        is_known_payee=draw(st.booleans()),
        usual_quanta=draw(st.none() | st.integers(1, 10**12)),
        usual_count=draw(st.integers(0, 9)),
        budgets=[budget],
    )


SETS = documents().map(parse_rules)
SCORES = st.builds(
    Score,
    ppm=st.integers(0, 10**9),
    feature=st.sampled_from(FEATURES),
    z_milli=st.integers(0, 10**6),
)


@settings(max_examples=60)
@given(pictures(), st.lists(SETS, max_size=4), SCORES)
def test_decision_is_never_below_the_rules(
    picture: Picture, chain: list[RuleSet], score: Score
) -> None:
    """
    The score may raise allow to hold and nothing else: never lower, never deny by itself.
    """
    reasons = judge_rules(SUBJECT, picture, chain)
    rules = strictest([reason.action for reason in reasons])

    decision = decide(reasons, score, chain, rules_version=7)

    assert RANKS[decision.action] >= RANKS[rules]
    if decision.action is not rules:
        assert (rules, decision.action) == (Action.ALLOW, Action.HOLD)
        assert decision.reasons[-1].rule == "score"
    assert decision.reasons[: len(reasons)] == reasons
    assert (decision.action is Action.ALLOW) == (not decision.reasons)


@settings(max_examples=60)
@given(pictures(), st.lists(SETS, max_size=3), SETS, st.none() | SETS)
def test_rules_below_only_add_scrutiny(
    picture: Picture, above: list[RuleSet], below: RuleSet, operator: RuleSet | None
) -> None:
    """
    A set at a lower party never lowers what those above it say.
    """
    organisation = above[0] if above else None
    upper = compose_chain([organisation, *above[1:]], operator=operator, defaults=default_rules())
    lower = compose_chain(
        [organisation, *above[1:], below], operator=operator, defaults=default_rules()
    )

    def action(chain: tuple[RuleSet, ...]) -> int:
        reasons = judge_rules(SUBJECT, picture, chain)
        return RANKS[strictest([reason.action for reason in reasons])]

    assert action(lower) >= action(upper)


@settings(max_examples=60)
@given(SETS, SETS, pictures())
def test_refused_rules_had_no_effect(upper: RuleSet, lower: RuleSet, picture: Picture) -> None:
    """
    What is refused as looser could never have changed an answer.
    """
    for rule in lower.rules:
        alone = replace(RuleSet(), **{rule.name: rule})
        try:
            refuse_looser(alone, [upper])
        except RulesLooserError:
            both = judge_rules(SUBJECT, picture, [upper, alone])
            one = judge_rules(SUBJECT, picture, [upper])
            assert strictest([r.action for r in both]) is strictest([r.action for r in one])


@given(documents())
def test_rules_survive_being_written_out(document: dict[str, Any]) -> None:
    """
    What is shown is what is in force.
    """
    rules = parse_rules(document)
    again = parse_rules(to_document(rules))
    for rule in rules.rules:
        other = getattr(again, rule.name)
        assert (other.is_on, other.action) == (rule.is_on, rule.action)
        assert not rule.is_on or other == rule


PAYMENTS = st.lists(
    st.tuples(
        st.integers(0, 200),  # which payment
        st.integers(0, 30),  # which request
        st.integers(0, 10**9),  # microseconds since the one before
        st.integers(0, 2**62),
        st.booleans(),
        st.sampled_from(Action),
    ),
    max_size=150,
)


@settings(max_examples=30)
@given(PAYMENTS)
def test_profile_is_bounded_and_comes_back(
    payments: list[tuple[int, int, int, int, bool, Action]],
) -> None:
    """
    Whatever an agent pays: at most 4 KiB, the same after writing and reading, loops counted.
    """
    profile = Profile()
    now_us = 1_800_000_000_000_000
    seen: list[tuple[int, int]] = []
    for number, request, pause_us, quanta, is_new, action in payments:
        now_us += pause_us
        payment_id = UUID(int=number)
        request_digest = request.to_bytes(8, "little") * 4
        subject = replace(
            SUBJECT, payment_id=payment_id, request_digest=request_digest, quanta=quanta
        )
        mark = mark_of(subject, b"key")
        if profile.find(mark) is not None:
            continue
        same = [now_us - at for other, at in seen[-RECENT_MAX:] if other == request]
        assert sorted(profile.equal_calls(request_digest, now_us=now_us)) == sorted(same)
        profile.add(
            subject,
            mark=mark,
            now_us=now_us,
            is_new_payee=is_new,
            action=action,
            score_ppm=quanta % 10**8,
            rules_version=number,
        )
        seen.append((request, now_us))
        profile.learn_price(request, quanta)
        found = profile.find(mark)
        assert found is not None
        assert (found.action, found.rules_version) == (action, number)
        assert profile.times_before(found.index, 5)[-1] == now_us
        profile.mark_learned(found.index)
        content = profile.encode()
        assert len(content) <= STATE_BYTES_MAX
        profile = Profile.decode(content)
        assert profile.encode() == content
    assert profile.recent_times(RECENT_MAX) == [at for _, at in seen[-RECENT_MAX:]]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 10**15), st.booleans()), min_size=LEARN_FIRST, max_size=80)
)
def test_one_payment_moves_what_is_usual_only_a_little(values: list[tuple[int, bool]]) -> None:
    """
    However large a payment is, it cannot teach the score by itself.
    """
    state, now_us = ScoreState(), 1_800_000_000_000_000
    times = [now_us]
    for quanta, is_new in values:
        now_us += quanta % 10**7
        times.append(now_us)
        features = features_of(
            quanta=quanta, times_us=times, is_new_payee=is_new, payee_payments=0, state=state
        )
        before = [
            (line.location, max(line.scale, FLOORS[i])) for i, line in enumerate(state.baselines)
        ]
        assert score_of(features, state, is_new_payee=is_new).ppm >= 0
        learn(features, state, is_new_payee=is_new)
        if state.count == 1:
            continue  # the first one is all that is known
        rows = zip(before, state.baselines, RATES, strict=True)
        for (location, scale), line, rate in rows:
            step, widening = max(rate, 1 / state.count), max(rate, min(1 / state.count, 0.1))
            assert abs(line.location - location) <= step * K * scale * 1.000001
            assert line.scale <= scale * (1 + widening * (C - 1)) ** 0.5 * 1.000001
