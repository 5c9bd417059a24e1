"""
Read spans of calls from JSON lines or CSV, strictly; pure.

Columns: ``call``, ``start``, ``end``, then perhaps ``prefill_tokens`` and ``decode_tokens``.
Spans may overlap, and stand in the order of their starts.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenworks.factory.attribution.model import Span
from tokenworks.factory.table_reading import read_rows


def read_span_log(lines: Iterable[str], file: str) -> list[Span]:
    """
    Return the spans of a log.

    Raises:
        TableInvalidError: With row and column, for the first thing that is wrong.
    """
    spans: list[Span] = []
    rows_by_call: dict[str, int] = {}
    counts = ("prefill_tokens", "decode_tokens")
    for row in read_rows(lines, file, required=("call", "start", "end"), optional=counts):
        call = row.text("call")
        start_us, end_us = row.time_us("start"), row.time_us("end")
        if end_us <= start_us:
            raise row.fault("end", "is not after the start")
        if spans and start_us < spans[-1].start_us:
            raise row.fault("start", f"is out of order: before the start in row {spans[-1].row}")
        if rows_by_call.setdefault(call, row.number) != row.number:
            raise row.fault("call", f"{call} is there twice, first in row {rows_by_call[call]}")
        prefill, decode = (row.count(column, default=0) for column in counts)
        if not prefill + decode and any(row.cells.get(column) is not None for column in counts):
            raise row.fault("decode_tokens", f"{call} has zero tokens")
        spans.append(
            Span(
                call=call,
                start_us=start_us,
                end_us=end_us,
                prefill_tokens=prefill,
                decode_tokens=decode,
                row=row.number,
            )
        )
    return spans
