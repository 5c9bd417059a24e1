"""
What a condition may say is decided by its text, before anybody evaluates it.
"""

from __future__ import annotations

import pytest

from tokenworks.agents.escrow.condition import (
    check_condition,
    presence_asked,
    tokens_of,
)
from tokenworks.agents.escrow.errors import ConditionInvalidError
from tokenworks.agents.escrow.model import CONDITION_BYTES_MAX

GOOD = (
    ("true", set()),
    ("result.http_status == 200 && result.latency_ms <= 800", set()),
    ("[result.passed, result.total]", set()),
    ("result.score >= 0.9", set()),
    ("result.share", set()),
    ("result.rows.all(row, row.price > 0) && result.rows.exists(r, r.id == 'a')", set()),
    ("result.rows.filter(r, r.ok).map(r, r.id).size() == 3", set()),
    ("result.attested.tests.passed >= 40 && result.attested.tests.failed == 0", {"tests"}),
    ("has(result.attested.a.x) || result.attested.b.y == 1", {"a", "b"}),
    ("timestamp(result.done_at) < timestamp('2026-12-01T00:00:00Z')", set()),
    ("type(result.count) == int // a comment ((((", set()),
    ('result.text == """it\'s ("quoted"\n)"""', set()),
    ("result.names.all(n, n.matches('^[a-z]+$') && n in ['a', 'b'])", set()),
)

BAD = (
    ("", "says something"),
    ("x" * (CONDITION_BYTES_MAX + 1), "at most 4096 bytes"),
    ("result.a.all(x, result.b.exists(y, y == x))", "within another"),
    ("result.a.map(x, result.b.map(y, x * y)).size() > 0", "within another"),
    (" && ".join(["result.a.all(x, x > 0)"] * 9), "at most 8 comprehensions"),
    ("(" * 33 + "1" + ")" * 33, "nested at most 32"),
    ("[int(result.score * 100.0), 100]", "no function 'int'"),
    ("string(result.score)", "no function 'string'"),
    ("double(result.a) > 1.0", "no function 'double'"),
    ("result.a.unknown()", "no function 'unknown'"),
    ("all(result.a, 1)", "no function 'all'"),
    ("now > 1", "no 'now'"),
    ("os.system == 1", "no 'os'"),
    ("result.a.all(result, true)", "may not call its variable"),
    ("result['attested']", "written result.<field>"),
    ("result['\\x61ttested'].tests", "written result.<field>"),
    ("size(result.attested) > 0", "comes the name of a verifier"),
    ("result.attested['tests'].ok", "comes the name of a verifier"),
    ("result.attested.nobody.ok", "no verifier 'nobody'"),
    ("(result.a", "')' is missing"),
    ("result.a)", "closes nothing"),
    ("[result.a)", "closes nothing"),
    ("result.a # b", "cannot have '#'"),
    ("result.a == 'open", "cannot have"),
    ("result.\u0430 == 1", "cannot have"),
)


@pytest.mark.parametrize(("condition", "named"), GOOD)
def test_condition_within_the_rules_names_its_verifiers(condition: str, named: set[str]) -> None:
    """
    What passes says which verifiers it waits for.
    """
    assert check_condition(condition, {"tests", "a", "b"}) == named


@pytest.mark.parametrize(("condition", "says"), BAD)
def test_condition_beyond_the_rules_is_refused_with_the_rule(condition: str, says: str) -> None:
    """
    The refusal says which rule was broken.
    """
    with pytest.raises(ConditionInvalidError) as refused:
        check_condition(condition, {"tests"})
    assert says in refused.value.message


def test_texts_and_comments_are_no_code() -> None:
    """
    Brackets, names and functions within texts and comments count for nothing.
    """
    condition = "result.a == 'all(x, exists(' // int( result.attested"
    assert [token.text for token in tokens_of(condition)][-1] == "'all(x, exists('"
    assert check_condition(condition, set()) == frozenset()


def test_asking_whether_a_verifier_spoke_is_seen() -> None:
    """
    Only ``has(result.attested..)`` can turn silence into a plain no.
    """
    assert presence_asked("has(result.attested.tests) && result.attested.tests.ok")
    assert not presence_asked("result.attested.tests.ok && has(result.a)")
