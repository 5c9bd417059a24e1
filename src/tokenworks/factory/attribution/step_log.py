"""
Read an engine's step log from JSON lines or CSV, strictly; pure.

JSON lines, one step each::

    {
        "step": 7,
        "start": "2026-01-01T00:00:00.020Z",
        "end": "2026-01-01T00:00:00.045Z",
        "phase": "mixed",
        "calls": [
            {"call": "a", "prefill_tokens": 512, "context_tokens": 0},
            {"call": "b", "decode_tokens": 1, "context_tokens": 1041},
        ],
        "resident": ["c"],
    }

CSV has a row for each call of a step, with the step's columns repeated; a resident call is a row
without tokens and with ``state`` ``resident``. Checks, in this order: times, order, overlap,
phase, then each call: known, tokens, named once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Final, cast

from tokenworks.factory.attribution.model import Step, StepPhase, Work
from tokenworks.factory.table_reading import Row, fault, read_rows

_STEP: Final = ("step", "start", "end", "phase")
_COUNTS: Final = ("prefill_tokens", "decode_tokens", "context_tokens")
_JSON_ONLY: Final = ("calls", "resident")
_CSV_ONLY: Final = ("call", "state", *_COUNTS)
_WORKING: Final = "working"
_RESIDENT: Final = "resident"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """
    One call of a step as it was written, with the row that its faults name.
    """

    row: Row
    is_resident: bool


def read_step_log(lines: Iterable[str], file: str, *, is_continued: bool = False) -> list[Step]:
    """
    Return the steps of a log.

    Args:
        lines: Of the file.
        file: Its name, for messages.
        is_continued: Calls may have begun before the log does. Otherwise a call is known once it
            has read a prompt, and any other mention of it is refused.

    Raises:
        TableInvalidError: With row and column, for the first thing that is wrong.
    """
    steps: list[Step] = []
    names: set[str] = set()
    known: set[str] | None = None if is_continued else set()
    for head, entries in _read_groups(lines, file):
        step = _read_step(head, entries, steps[-1] if steps else None, known)
        if step.name in names:
            raise head.fault("step", f"{step.name} is there twice")
        names.add(step.name)
        steps.append(step)
    return steps


def read_step_line(line: str, file: str, row: int) -> Step:
    """
    Return the step of one JSON line by itself: its order among others is somebody else's.

    Raises:
        TableInvalidError: With row and column.
    """
    optional = (*_JSON_ONLY, *_CSV_ONLY)
    for head in read_rows([line], file, required=_STEP, optional=optional, first_row=row):
        if not head.is_json:
            break
        return _read_step(head, _read_json_entries(head), None, None)
    raise fault(file, row, "(line)", "is no JSON object, and a line is a step")


def read_step(cells: Mapping[str, object], file: str, row: int) -> Step:
    """
    Return a step that was read from JSON already, by itself.

    Raises:
        TableInvalidError: With row and column.
    """
    for column in cells:
        if column not in {*_STEP, *_JSON_ONLY}:
            known = ", ".join((*_STEP, *_JSON_ONLY))
            raise fault(file, row, column, f"is unknown; known: {known}")
    head = Row(file=file, number=row, cells=cells, is_json=True)
    return _read_step(head, _read_json_entries(head), None, None)


def to_json(step: Step) -> dict[str, object]:
    """
    Return a step as a JSON line has it; read again it is the same.
    """
    working = [one for one in step.work if one.prefill_tokens or one.decode_tokens]
    return {
        "step": step.name,
        "start": str(Decimal(step.start_us) / 1_000_000),
        "end": str(Decimal(step.end_us) / 1_000_000),
        "phase": step.phase.value,
        "calls": [
            {
                "call": one.call,
                "prefill_tokens": one.prefill_tokens,
                "decode_tokens": one.decode_tokens,
                "context_tokens": one.context_tokens,
            }
            for one in working
        ],
        "resident": [one.call for one in step.work if one not in working],
    }


def _read_groups(lines: Iterable[str], file: str) -> Iterator[tuple[Row, list[_Entry]]]:
    rows = read_rows(lines, file, required=_STEP, optional=(*_JSON_ONLY, *_CSV_ONLY))

    def name(row: Row) -> object:
        return row.number if row.is_json else row.text("step")

    for _, group in groupby(rows, key=name):
        members = list(group)
        head = members[0]
        if head.is_json:
            yield head, _read_json_entries(head)
            continue
        for row in members:
            for column in _STEP:
                if row.cells.get(column) != head.cells.get(column):
                    raise row.fault(column, f"differs from row {head.number} of the same step")
        yield head, [_Entry(row=row, is_resident=_is_resident(row)) for row in members]


def _read_json_entries(head: Row) -> list[_Entry]:
    for column in _CSV_ONLY:
        if column in head.cells:
            raise head.fault(column, "stands inside 'calls' in JSON lines")
    entries: list[_Entry] = []
    for place, value in enumerate(_list(head, "calls")):
        if not isinstance(value, dict):
            raise head.fault(f"calls[{place}]", "is no JSON object")
        cells = cast("dict[str, object]", value)
        for column in cells:
            if column not in {"call", *_COUNTS}:
                raise head.fault(f"calls[{place}].{column}", "is unknown")
        entries.append(_Entry(row=_inner(head, cells), is_resident=False))
    entries.extend(
        _Entry(row=_inner(head, {"call": value}), is_resident=True)
        for value in _list(head, "resident")
    )
    return entries


def _list(head: Row, column: str) -> list[object]:
    value = head.cells.get(column, [])
    if not isinstance(value, list):
        raise head.fault(column, "is no list")
    return cast("list[object]", value)


def _inner(head: Row, cells: dict[str, object]) -> Row:
    return Row(file=head.file, number=head.number, cells=cells, is_json=True)


def _is_resident(row: Row) -> bool:
    for column in _JSON_ONLY:
        if column in row.cells:
            raise row.fault(column, "is of JSON lines; CSV has a row for each call")
    state = str(row.cells.get("state") or _WORKING).strip()
    if state not in {_WORKING, _RESIDENT}:
        raise row.fault("state", f"is neither {_WORKING} nor {_RESIDENT}: {state[:60]!r}")
    return state == _RESIDENT


def _read_step(
    head: Row, entries: list[_Entry], before: Step | None, known: set[str] | None
) -> Step:
    name = head.text("step")
    start_us, end_us = head.time_us("start"), head.time_us("end")
    if end_us <= start_us:
        raise head.fault("end", "is not after the start")
    if before is not None and start_us < before.start_us:
        raise head.fault("start", f"is out of order: before step {before.name} began")
    if before is not None and start_us < before.end_us:
        raise head.fault("start", f"overlaps: step {before.name} (row {before.row}) had not ended")
    try:
        phase = StepPhase(head.text("phase"))
    except ValueError as error:
        raise head.fault("phase", f"is none of {', '.join(StepPhase)}") from error
    work: list[Work] = []
    named: set[str] = set()
    for entry in entries:
        one = _read_work(entry, phase, known)
        if one.call in named:
            raise entry.row.fault("call", f"{one.call} is there twice in step {name}")
        named.add(one.call)
        work.append(one)
    if not any(one.prefill_tokens or one.decode_tokens for one in work):
        raise head.fault("calls" if head.is_json else "call", f"step {name} works for no call")
    if phase is StepPhase.MIXED and not (
        any(one.prefill_tokens for one in work) and any(one.decode_tokens for one in work)
    ):
        raise head.fault("phase", "mixed needs a call with prefill and one with decode tokens")
    return Step(
        name=name, start_us=start_us, end_us=end_us, phase=phase, work=work, row=head.number
    )


def _read_work(entry: _Entry, phase: StepPhase, known: set[str] | None) -> Work:
    row = entry.row
    call = row.text("call")
    prefill, decode, context = (row.count(column, default=0) for column in _COUNTS)
    if known is not None and call not in known:
        if not prefill:
            raise row.fault("call", f"{call} is unknown: no step above read its prompt")
        known.add(call)
    if entry.is_resident and (prefill or decode):
        raise row.fault("state", f"{call} is resident and yet has tokens")
    if not entry.is_resident and not (prefill or decode):
        raise row.fault("decode_tokens", f"{call} has zero tokens: list it as resident")
    if prefill and phase is StepPhase.DECODE:
        raise row.fault("prefill_tokens", "are there in a step of phase decode")
    if decode and phase is StepPhase.PREFILL:
        raise row.fault("decode_tokens", "are there in a step of phase prefill")
    return Work(call=call, prefill_tokens=prefill, decode_tokens=decode, context_tokens=context)
