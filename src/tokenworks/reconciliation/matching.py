"""
Match the lines of a statement with attempts; pure.

Order, each step with what the steps before left over:

1. a line whose reference was seen before (in this file or an earlier one) is a duplicate;
2. lines with our call id meet the attempts of that call: equal amounts first, then the largest
   with the largest; a line that is left over is a duplicate;
3. other lines meet an attempt of the same model and token counts whose span is within the
   window of the line's time, where line and attempt have no other choice; else both are
   ambiguous.

Invariants: each line has one finding; each attempt is billed by at most one line, and never
again by a later statement; the order of lines and attempts changes nothing but which of two
equal lines is called the duplicate.

Known limit: a line with a call id that is not ours is never matched by time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from tokenworks.gateway.owed import OwedAttempt
from tokenworks.reconciliation.model import (
    AttemptFinding,
    LineFinding,
    Matching,
    StatementLine,
    Tolerance,
    Verdict,
)

_Key: TypeAlias = tuple[UUID, int]
_Look: TypeAlias = tuple[str, int, int]
"""Model, input tokens, output tokens: what an attempt looks like from outside."""

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_ENOUGH: Final = 2
"""More than one candidate is too many, however many more there are."""


def match(
    lines: Sequence[StatementLine],
    attempts: Sequence[OwedAttempt],
    *,
    since: datetime,
    until: datetime,
    tolerance: Tolerance,
    known_references: Collection[str] = (),
) -> Matching:
    """
    Return what each line is, and which attempts of the period are not billed.

    O(n log n) in lines and attempts.

    Args:
        lines: The statement.
        attempts: At least all of the period and of the calls that the lines name.
        since: Attempts that began from here on must be on the statement,
        until: up to here.
        tolerance: What counts as the same amount, and as the same time.
        known_references: References of lines in earlier statements of the supplier.
    """
    findings, fresh = _without_repeats(lines, set(known_references))
    named = [line for line in fresh if line.call_id is not None]
    unnamed = [line for line in fresh if line.call_id is None]
    by_call = _by_call(named, attempts, tolerance)
    findings += by_call
    used = _billed_in(by_call)
    free = [a for a in attempts if not a.is_billed and a.key not in used]
    by_look, unclear = _by_look(unnamed, free, tolerance)
    findings += by_look
    used |= _billed_in(by_look)
    left = [a for a in free if a.key not in used]
    matching = Matching(lines=findings, attempts=_unbilled(left, unclear, since, until))
    assert len(findings) == len(lines), "each line has one finding"
    assert len(used) == sum(f.attempt is not None for f in findings), "an attempt is billed once"
    return matching


def _without_repeats(
    lines: Sequence[StatementLine], known: set[str]
) -> tuple[list[LineFinding], list[StatementLine]]:
    seen = set(known)
    repeats: list[LineFinding] = []
    fresh: list[StatementLine] = []
    for line in sorted(lines, key=_content):
        if line.reference in seen:
            repeats.append(LineFinding(line=line, verdict=Verdict.DUPLICATE))
        else:
            seen.add(line.reference)
            fresh.append(line)
    return repeats, fresh


def _by_call(
    lines: Sequence[StatementLine], attempts: Sequence[OwedAttempt], tolerance: Tolerance
) -> list[LineFinding]:
    lines_of: defaultdict[UUID, list[StatementLine]] = defaultdict(list)
    for line in lines:
        assert line.call_id is not None, "only lines that name a call"
        lines_of[line.call_id].append(line)
    attempts_of: defaultdict[UUID, list[OwedAttempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.call_id in lines_of:
            attempts_of[attempt.call_id].append(attempt)
    found: list[LineFinding] = []
    for call_id, claims in lines_of.items():
        ours = attempts_of[call_id]
        pairs, rest = _pairs(claims, [a for a in ours if not a.is_billed])
        found += [_billing(line, attempt, tolerance) for line, attempt in pairs]
        verdict = Verdict.DUPLICATE if ours else Verdict.MISSING_HERE
        found += [LineFinding(line=line, verdict=verdict) for line in rest]
    return found


def _pairs(
    lines: Iterable[StatementLine], attempts: Iterable[OwedAttempt]
) -> tuple[list[tuple[StatementLine, OwedAttempt]], list[StatementLine]]:
    claims = sorted(lines, key=lambda line: (-line.quanta, _content(line)))
    owing = sorted(attempts, key=lambda attempt: (-attempt.owed_quanta, attempt.ordinal))
    pairs: list[tuple[StatementLine, OwedAttempt]] = []
    for attempt in list(owing):
        equal = next((line for line in claims if line.quanta == attempt.owed_quanta), None)
        if equal is not None:
            pairs.append((equal, attempt))
            claims.remove(equal)
            owing.remove(attempt)
    pairs += zip(claims, owing, strict=False)
    return pairs, claims[len(owing) :]


def _by_look(
    lines: Sequence[StatementLine], attempts: Sequence[OwedAttempt], tolerance: Tolerance
) -> tuple[list[LineFinding], set[_Key]]:
    window = timedelta(seconds=tolerance.window_s)
    there = _Spans(attempts, window)
    here = _Moments(lines, window)
    found: list[LineFinding] = []
    unclear: set[_Key] = set()
    for line in lines:
        candidates = there.around(line)
        if not candidates:
            found.append(LineFinding(line=line, verdict=Verdict.MISSING_HERE))
        elif len(candidates) < _ENOUGH and len(here.within(candidates[0])) < _ENOUGH:
            found.append(_billing(line, candidates[0], tolerance))
        else:
            found.append(LineFinding(line=line, verdict=Verdict.AMBIGUOUS))
    billed = _billed_in(found)
    for attempt in attempts:
        if attempt.key not in billed and here.within(attempt):
            unclear.add(attempt.key)
    return found, unclear


class _Spans:
    """
    Attempts by what they look like, in the order of their beginning.
    """

    def __init__(self, attempts: Sequence[OwedAttempt], window: timedelta) -> None:
        self._window = window
        self._by_look: defaultdict[_Look, list[OwedAttempt]] = defaultdict(list)
        self._longest: defaultdict[_Look, timedelta] = defaultdict(timedelta)
        for attempt in sorted(attempts, key=lambda a: (a.started_at, a.key)):
            for look in _looks(attempt):
                self._by_look[look].append(attempt)
                length = attempt.ended_at - attempt.started_at
                self._longest[look] = max(self._longest[look], length)

    def around(self, line: StatementLine) -> list[OwedAttempt]:
        """
        Return the attempts that a line may bill, at most ``_ENOUGH``.
        """
        look = _look(line)
        if look is None or line.occurred_at is None:
            return []
        moment, window = line.occurred_at, self._window
        ours = self._by_look.get(look, [])
        earliest = moment - window - self._longest[look]
        first = bisect_left(ours, earliest, key=lambda attempt: attempt.started_at)
        found: list[OwedAttempt] = []
        for index in range(first, len(ours)):
            attempt = ours[index]
            if attempt.started_at - window > moment or len(found) == _ENOUGH:
                break
            if attempt.ended_at + window >= moment:
                found.append(attempt)
        return found


class _Moments:
    """
    Lines by what they look like, in the order of their time.
    """

    def __init__(self, lines: Sequence[StatementLine], window: timedelta) -> None:
        self._window = window
        self._by_look: defaultdict[_Look, list[StatementLine]] = defaultdict(list)
        for line in sorted(lines, key=_content):
            look = _look(line)
            if look is not None and line.occurred_at is not None:
                self._by_look[look].append(line)
        for there in self._by_look.values():
            there.sort(key=_moment)

    def within(self, attempt: OwedAttempt) -> list[StatementLine]:
        """
        Return the lines that may bill an attempt, at most ``_ENOUGH``.
        """
        found: list[StatementLine] = []
        for look in _looks(attempt):
            there = self._by_look.get(look, [])
            first = bisect_left(there, attempt.started_at - self._window, key=_moment)
            latest = attempt.ended_at + self._window
            found += [line for line in there[first : first + _ENOUGH] if _moment(line) <= latest]
        return found[:_ENOUGH]


def _unbilled(
    attempts: Sequence[OwedAttempt], unclear: set[_Key], since: datetime, until: datetime
) -> list[AttemptFinding]:
    found: list[AttemptFinding] = []
    for attempt in attempts:
        if attempt.key in unclear:
            found.append(AttemptFinding(attempt=attempt, verdict=Verdict.AMBIGUOUS))
        elif attempt.owed_quanta > 0 and since <= attempt.started_at < until:
            found.append(AttemptFinding(attempt=attempt, verdict=Verdict.MISSING_AT_SUPPLIER))
    return found


def _billing(line: StatementLine, attempt: OwedAttempt, tolerance: Tolerance) -> LineFinding:
    is_same = tolerance.covers(billed_quanta=line.quanta, owed_quanta=attempt.owed_quanta)
    verdict = Verdict.MATCHED if is_same else Verdict.AMOUNT_DIFFERS
    return LineFinding(line=line, verdict=verdict, attempt=attempt)


def _billed_in(findings: Iterable[LineFinding]) -> set[_Key]:
    return {finding.attempt.key for finding in findings if finding.attempt is not None}


def _look(line: StatementLine) -> _Look | None:
    if line.model is None or line.input_tokens is None or line.output_tokens is None:
        return None
    return line.model, line.input_tokens, line.output_tokens


def _looks(attempt: OwedAttempt) -> list[_Look]:
    if attempt.input_tokens is None or attempt.output_tokens is None:
        return []
    return [(model, attempt.input_tokens, attempt.output_tokens) for model in attempt.models]


def _moment(line: StatementLine) -> datetime:
    assert line.occurred_at is not None, "only lines with a time"
    return line.occurred_at


def _content(line: StatementLine) -> tuple[object, ...]:
    """
    Order lines by what they say; the place in the file only tells equal ones apart.
    """
    return (
        line.reference,
        line.quanta,
        str(line.call_id or ""),
        line.occurred_at or _EARLIEST,
        line.model or "",
        -1 if line.input_tokens is None else line.input_tokens,
        -1 if line.output_tokens is None else line.output_tokens,
        line.number,
    )
