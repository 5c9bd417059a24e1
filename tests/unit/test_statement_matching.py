"""
Which line of a statement bills which attempt, as tables.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tokenworks.gateway.owed import OwedAttempt
from tokenworks.reconciliation.matching import match
from tokenworks.reconciliation.model import Matching, StatementLine, Tolerance, Verdict

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
SINCE, UNTIL = NOON - timedelta(hours=12), NOON + timedelta(hours=12)


def _attempt(
    call: int,
    owed: int,
    *,
    ordinal: int = 1,
    at_s: int = 0,
    tokens: tuple[int, int] | None = (10, 20),
    models: tuple[str, ...] = ("tiny", "vendor/tiny"),
    is_billed: bool = False,
) -> OwedAttempt:
    started = NOON + timedelta(seconds=at_s)
    return OwedAttempt(
        call_id=UUID(int=call),
        ordinal=ordinal,
        models=models,
        started_at=started,
        ended_at=started + timedelta(seconds=2),
        input_tokens=None if tokens is None else tokens[0],
        output_tokens=None if tokens is None else tokens[1],
        owed_quanta=owed,
        is_billed=is_billed,
    )


def _named(reference: str, call: int, quanta: int) -> StatementLine:
    return StatementLine(
        number=2, reference=reference, call_id=UUID(int=call), quanta=quanta, occurred_at=NOON
    )


def _looks(
    reference: str,
    quanta: int,
    *,
    at_s: int = 0,
    model: str = "vendor/tiny",
    tokens: tuple[int, int] = (10, 20),
) -> StatementLine:
    return StatementLine(
        number=2,
        reference=reference,
        quanta=quanta,
        occurred_at=NOON + timedelta(seconds=at_s),
        model=model,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )


def _match(lines: list[StatementLine], attempts: list[OwedAttempt], **options: object) -> Matching:
    tolerance = Tolerance(quanta=0, ppm=0, window_s=60)
    wanted = {"since": SINCE, "until": UNTIL, "tolerance": tolerance} | options
    return match(lines, attempts, **wanted)  # pyright: ignore[reportArgumentType] - as given


def _verdicts(matching: Matching) -> dict[str, str]:
    found = {finding.line.reference: finding.verdict.value for finding in matching.lines}
    found |= {
        f"call {finding.attempt.call_id.int}.{finding.attempt.ordinal}": finding.verdict.value
        for finding in matching.attempts
    }
    return found


def test_line_with_our_call_id_meets_its_attempt() -> None:
    """
    Equal amounts match, others differ; who stands alone is missing on the other side.
    """
    lines = [_named("a", 1, 100), _named("b", 2, 90), _named("c", 9, 5)]
    attempts = [_attempt(1, 100), _attempt(2, 100), _attempt(3, 70)]
    assert _verdicts(_match(lines, attempts)) == {
        "a": "matched",
        "b": "amount_differs",
        "c": "missing_here",
        "call 3.1": "missing_at_supplier",
    }


def test_correction_is_the_difference_of_what_is_certain() -> None:
    """
    What only one side knows is asked about, not booked.
    """
    lines = [_named("a", 1, 103), _named("b", 2, 90), _named("c", 9, 5)]
    attempts = [_attempt(1, 100), _attempt(2, 100), _attempt(3, 70)]
    matching = _match(lines, attempts, tolerance=Tolerance(quanta=5))
    assert _verdicts(matching)["a"] == "matched"
    assert matching.correction_quanta == 3 - 10


@pytest.mark.parametrize(
    ("billed", "quanta", "ppm", "verdict"),
    [
        (1_000_000, 0, 0, Verdict.MATCHED),
        (1_000_001, 0, 0, Verdict.AMOUNT_DIFFERS),
        (1_000_005, 5, 0, Verdict.MATCHED),
        (1_000_006, 5, 0, Verdict.AMOUNT_DIFFERS),
        (999_000, 0, 1_000, Verdict.MATCHED),
        (998_999, 0, 1_000, Verdict.AMOUNT_DIFFERS),
        (998_999, 1_001, 1_000, Verdict.MATCHED),
        (0, 0, 999_999, Verdict.AMOUNT_DIFFERS),
    ],
)
def test_tolerance_is_absolute_or_a_part_of_what_is_owed(
    billed: int, quanta: int, ppm: int, verdict: Verdict
) -> None:
    """
    The larger of both counts, to the quantum.
    """
    tolerance = Tolerance(quanta=quanta, ppm=ppm)
    matching = _match([_named("a", 1, billed)], [_attempt(1, 1_000_000)], tolerance=tolerance)
    assert [finding.verdict for finding in matching.lines] == [verdict]


def test_reference_is_billed_once() -> None:
    """
    Within the file, and over all statements of the supplier.
    """
    lines = [_named("a", 1, 100), _named("a", 2, 100), _named("old", 3, 100)]
    attempts = [_attempt(1, 100), _attempt(2, 100), _attempt(3, 100)]
    matching = _match(lines, attempts, known_references={"old"})
    assert sorted(finding.verdict.value for finding in matching.lines) == [
        "duplicate",
        "duplicate",
        "matched",
    ]
    assert len(matching.attempts) == 2


def test_call_is_billed_once() -> None:
    """
    A second line for a call is a duplicate, the one nearest to what is owed is not; so is a
    line for an attempt that an earlier statement billed.
    """
    lines = [_named("a", 1, 90), _named("b", 1, 100), _named("c", 2, 7)]
    attempts = [_attempt(1, 100), _attempt(2, 7, is_billed=True)]
    assert _verdicts(_match(lines, attempts)) == {
        "a": "duplicate",
        "b": "matched",
        "c": "duplicate",
    }


def test_billed_failure_is_a_difference_to_nothing() -> None:
    """
    A supplier that bills an attempt which failed is owed nothing for it.
    """
    lines = [_named("a", 1, 100), _named("b", 1, 4)]
    attempts = [_attempt(1, 0, ordinal=1, tokens=None), _attempt(1, 100, ordinal=2)]
    matching = _match(lines, attempts)
    assert _verdicts(matching) == {"a": "matched", "b": "amount_differs"}
    assert matching.correction_quanta == 4


def test_failure_that_is_not_billed_is_no_difference() -> None:
    """
    Nothing is owed for it, so nothing is missing.
    """
    assert _verdicts(_match([], [_attempt(1, 0, tokens=None)])) == {}


def test_line_without_call_id_meets_what_looks_like_it() -> None:
    """
    Same model (either name), same tokens, near in time: one-to-one.
    """
    lines = [
        _looks("a", 100, at_s=1),
        _looks("b", 100, at_s=500, model="tiny"),
        _looks("c", 100, tokens=(10, 21)),
        _looks("d", 100, model="other"),
        _looks("e", 100, at_s=-3_000),
    ]
    attempts = [_attempt(1, 100), _attempt(2, 100, at_s=500)]
    assert _verdicts(_match(lines, attempts)) == {
        "a": "matched",
        "b": "matched",
        "c": "missing_here",
        "d": "missing_here",
        "e": "missing_here",
    }


@pytest.mark.parametrize(
    ("at_s", "verdict"),
    [(-60, "matched"), (-61, "missing_here"), (62, "matched"), (63, "missing_here")],
)
def test_window_reaches_from_the_attempts_beginning_to_its_end(at_s: int, verdict: str) -> None:
    """
    Suppliers note either; both bounds are within.
    """
    assert _verdicts(_match([_looks("a", 1, at_s=at_s)], [_attempt(1, 1)]))["a"] == verdict


def test_lookalikes_are_ambiguous_on_both_sides() -> None:
    """
    Two attempts for one line, or two lines for one attempt: nobody guesses.
    """
    two_attempts = _match([_looks("a", 100)], [_attempt(1, 100), _attempt(2, 100, at_s=5)])
    assert _verdicts(two_attempts) == {
        "a": "ambiguous",
        "call 1.1": "ambiguous",
        "call 2.1": "ambiguous",
    }
    two_lines = _match([_looks("a", 100), _looks("b", 70)], [_attempt(1, 100)])
    assert _verdicts(two_lines) == {"a": "ambiguous", "b": "ambiguous", "call 1.1": "ambiguous"}


def test_attempt_that_a_call_id_took_is_no_candidate() -> None:
    """
    What is certain is taken first, and makes the rest clear.
    """
    lines = [_named("a", 1, 100), _looks("b", 100)]
    attempts = [_attempt(1, 100), _attempt(2, 100)]
    assert _verdicts(_match(lines, attempts)) == {"a": "matched", "b": "matched"}


def test_foreign_call_id_is_never_matched_by_time() -> None:
    """
    A call id that is not ours contradicts us, however alike the rest is.
    """
    line = StatementLine(
        number=2,
        reference="a",
        quanta=100,
        call_id=UUID(int=99),
        occurred_at=NOON,
        model="tiny",
        input_tokens=10,
        output_tokens=20,
    )
    assert _verdicts(_match([line], [_attempt(1, 100)])) == {
        "a": "missing_here",
        "call 1.1": "missing_at_supplier",
    }


def test_attempts_outside_the_period_are_not_missing() -> None:
    """
    They may be billed by this statement, but need not be.
    """
    early = _attempt(1, 100, at_s=-13 * 3_600)
    late = _attempt(2, 100, at_s=12 * 3_600)
    assert _verdicts(_match([], [early, late])) == {}
    assert _verdicts(_match([_named("a", 1, 100)], [early])) == {"a": "matched"}


def test_line_without_anything_to_go_by_is_missing_here() -> None:
    """
    A fee, for example: it has neither call nor tokens.
    """
    fee = StatementLine(number=2, reference="fee", quanta=500)
    assert _verdicts(_match([fee], [])) == {"fee": "missing_here"}


def test_many_lookalikes_are_no_long_work() -> None:
    """
    Ten thousand equal lines and attempts at one moment are all ambiguous.
    """
    lines = [_looks(f"l{n}", 1) for n in range(10_000)]
    matching = _match(lines, [_attempt(n + 1, 1) for n in range(10_000)])
    assert {finding.verdict for finding in matching.lines} == {Verdict.AMBIGUOUS}
    assert len(matching.attempts) == 10_000
