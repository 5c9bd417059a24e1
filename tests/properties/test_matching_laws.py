"""
Laws of matching: nothing is used twice, nothing is lost, order does not matter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.gateway.owed import OwedAttempt
from tokenworks.reconciliation.matching import match
from tokenworks.reconciliation.model import Matching, StatementLine, Tolerance, Verdict

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
MODELS = st.sampled_from(["tiny", "vendor/tiny"])
TOKENS = st.integers(1, 2)
SECONDS = st.integers(0, 400)
MONEY = st.integers(0, 12)


@st.composite
def _attempts(draw: st.DrawFn) -> list[OwedAttempt]:
    keys = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 2)), unique=True, max_size=9))
    found: list[OwedAttempt] = []
    for call, ordinal in keys:
        started = NOON + timedelta(seconds=draw(SECONDS))
        has_tokens = draw(st.booleans())
        found.append(
            OwedAttempt(
                call_id=UUID(int=call),
                ordinal=ordinal,
                models=draw(st.sampled_from([("tiny",), ("tiny", "vendor/tiny")])),
                started_at=started,
                ended_at=started + timedelta(seconds=draw(st.integers(0, 30))),
                input_tokens=draw(TOKENS) if has_tokens else None,
                output_tokens=draw(TOKENS) if has_tokens else None,
                owed_quanta=draw(MONEY),
                is_billed=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return found


@st.composite
def _lines(draw: st.DrawFn) -> list[StatementLine]:
    count = draw(st.integers(0, 9))
    return [
        StatementLine(
            number=number + 2,
            reference=draw(st.sampled_from([f"r{number}", "r0", "r1", "old"])),
            quanta=draw(MONEY),
            call_id=draw(st.none() | st.integers(1, 7).map(lambda call: UUID(int=call))),
            occurred_at=draw(
                st.none() | SECONDS.map(lambda seconds: NOON + timedelta(seconds=seconds))
            ),
            model=draw(st.none() | MODELS),
            input_tokens=draw(TOKENS),
            output_tokens=draw(TOKENS),
        )
        for number in range(count)
    ]


def _match(lines: list[StatementLine], attempts: list[OwedAttempt]) -> Matching:
    return match(
        lines,
        attempts,
        since=NOON + timedelta(seconds=50),
        until=NOON + timedelta(seconds=350),
        tolerance=Tolerance(quanta=1, ppm=100_000, window_s=20),
        known_references={"old"},
    )


@given(_lines(), _attempts())
def test_each_line_and_attempt_is_used_at_most_once(
    lines: list[StatementLine], attempts: list[OwedAttempt]
) -> None:
    """
    Every line has one finding; an attempt is billed once, and then not also missing.
    """
    matching = _match(lines, attempts)
    assert sorted(f.line.number for f in matching.lines) == [line.number for line in lines]
    billed = [f.attempt.key for f in matching.lines if f.attempt is not None]
    left = [f.attempt.key for f in matching.attempts]
    assert len(set(billed)) == len(billed)
    assert len(set(left)) == len(left)
    assert not set(billed) & set(left)
    assert not {a.key for a in attempts if a.is_billed} & {*billed, *left}


@given(_lines(), _attempts())
def test_totals_add_up(lines: list[StatementLine], attempts: list[OwedAttempt]) -> None:
    """
    The statement is its verdicts' sums; the correction turns what is owed into what is billed.
    """
    matching = _match(lines, attempts)
    by_verdict: Counter[Verdict] = Counter()
    owed = 0
    for finding in matching.lines:
        by_verdict[finding.verdict] += finding.line.quanta
        is_billing = finding.verdict in {Verdict.MATCHED, Verdict.AMOUNT_DIFFERS}
        assert is_billing == (finding.attempt is not None)
        owed += 0 if finding.attempt is None else finding.attempt.owed_quanta
    assert matching.total_quanta == sum(line.quanta for line in lines) == sum(by_verdict.values())
    certain = by_verdict[Verdict.MATCHED] + by_verdict[Verdict.AMOUNT_DIFFERS]
    assert owed + matching.correction_quanta == certain


@given(_lines(), _attempts())
def test_what_is_owed_in_the_period_is_billed_or_reported(
    lines: list[StatementLine], attempts: list[OwedAttempt]
) -> None:
    """
    No attempt that the supplier is owed for falls out of the report.
    """
    matching = _match(lines, attempts)
    seen = {f.attempt.key for f in matching.lines if f.attempt is not None}
    seen |= {f.attempt.key for f in matching.attempts}
    for attempt in attempts:
        begins = (attempt.started_at - NOON).total_seconds()
        if attempt.owed_quanta and not attempt.is_billed and 50 <= begins < 350:
            assert attempt.key in seen


@given(_lines(), _attempts(), st.randoms(use_true_random=False))
def test_order_of_the_file_changes_nothing(
    lines: list[StatementLine], attempts: list[OwedAttempt], random: Random
) -> None:
    """
    The same lines in another order, with other numbers, get the same verdicts and attempts.
    """
    shuffled, other = list(lines), list(attempts)
    random.shuffle(shuffled)
    random.shuffle(other)
    renumbered = [replace(line, number=n + 2) for n, line in enumerate(shuffled)]
    first, second = _match(lines, attempts), _match(renumbered, other)
    assert _findings(first) == _findings(second)


def _findings(matching: Matching) -> Counter[object]:
    found: Counter[object] = Counter(
        (replace(f.line, number=0), f.verdict, None if f.attempt is None else f.attempt.key)
        for f in matching.lines
    )
    found.update((f.attempt.key, f.verdict) for f in matching.attempts)
    return found
