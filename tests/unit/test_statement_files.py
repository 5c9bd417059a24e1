"""
Statements as files: what is read, and what is refused with its line.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from tokenworks.foundation.errors import InvalidError, TooLargeError
from tokenworks.foundation.limits import STATEMENT_BYTES_MAX
from tokenworks.foundation.money import USD
from tokenworks.reconciliation import statements
from tokenworks.reconciliation.errors import StatementInvalidError
from tokenworks.reconciliation.model import StatementLine
from tokenworks.reconciliation.statements import Reading, period_of, read_statement

CALL = UUID(int=7)
HEADER = "reference,amount,currency,call_id,time,model,input_tokens,output_tokens\n"


def _read(text: str | bytes, **options: object) -> list[StatementLine]:
    content = text.encode() if isinstance(text, str) else text
    wanted: dict[str, object] = {"asset": USD, "columns": {}, "has_currency": False}
    return read_statement(content, Reading(**(wanted | options)))  # pyright: ignore[reportArgumentType] - as given


def test_every_column_is_read() -> None:
    """
    Amounts are exact, times are UTC, what is empty is absent.
    """
    full, bare = _read(
        HEADER
        + f"l-1,0.000000001,USD,{CALL},2026-11-03T13:00:00+01:00,tiny,10,20\r\n"
        + 'l-2,"12.50",USD,,,,,\n'
    )
    assert full == StatementLine(
        number=2,
        reference="l-1",
        quanta=1,
        call_id=CALL,
        occurred_at=datetime(2026, 11, 3, 12, tzinfo=UTC),
        model="tiny",
        input_tokens=10,
        output_tokens=20,
    )
    assert bare == StatementLine(number=3, reference="l-2", quanta=12_500_000_000)


def test_columns_go_by_the_names_that_the_supplier_gave_them() -> None:
    """
    A byte order mark, foreign columns and spaces around names do no harm.
    """
    lines = _read(
        "\ufeffRow, Total cost ,Note\na,1,hello\n",
        columns={"reference": "Row", "amount": "Total cost"},
        has_currency=True,
    )
    assert [(line.reference, line.quanta) for line in lines] == [("a", 10**9)]


def test_quoted_newline_keeps_line_numbers_right() -> None:
    """
    A fault is reported on the line where its row begins; empty rows are passed over.
    """
    text = 'reference,amount,note\na,1,"two\nlines"\n\n\nb,x,\n'
    with pytest.raises(StatementInvalidError) as refused:
        _read(text, has_currency=True)
    assert refused.value.details["rows"] == [
        {
            "line": 6,
            "column": "amount",
            "message": "'x' is not a plain decimal number such as 12.50.",
        }
    ]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("a,-1,USD,,,,,", "amount"),
        ("a,1e3,USD,,,,,", "amount"),
        ('a,"1,000.00",USD,,,,,', "amount"),
        ("a,0.0000000001,USD,,,,,", "amount"),
        ("a,9999999999999,USD,,,,,", "amount"),
        ("a,,USD,,,,,", "amount"),
        ("a,NaN,USD,,,,,", "amount"),
        ("a,1,EUR,,,,,", "currency"),
        ("a,1,,,,,,", "currency"),
        (",1,USD,,,,,", "reference"),
        (f"{'x' * 201},1,USD,,,,,", "reference"),
        ("a\x07,1,USD,,,,,", "reference"),
        ("a,1,USD,seven,,,,", "call_id"),
        ("a,1,USD,,yesterday,,,", "time"),
        ("a,1,USD,,2026-11-03T12:00:00,,,", "time"),
        ("a,1,USD,,0001-01-01T00:00:00+14:00,,,", "time"),
        ("a,1,USD,,9999-12-31T12:00:00Z,,,", "time"),
        ("a,1,USD,,1969-12-31T12:00:00Z,,,", "time"),
        ("a,1,USD,,,,-1,", "input_tokens"),
        ("a,1,USD,,,,,1.5", "output_tokens"),
        ("a,1,USD,,,,,99999999999999", "output_tokens"),
        ("a,1,USD", "row"),
        ("a,1,USD,,,,,,surplus", "row"),
    ],
)
def test_faulty_row_stops_the_import_and_is_named(row: str, column: str) -> None:
    """
    Good rows around it are not imported either.
    """
    with pytest.raises(StatementInvalidError, match="nothing was imported") as refused:
        _read(HEADER + "good,1,USD,,,,,\n" + row + "\nfine,1,USD,,,,,\n")
    rows = refused.value.details["rows"]
    assert isinstance(rows, list)
    assert [(fault["line"], fault["column"]) for fault in rows] == [(3, column)]


def test_all_faults_are_counted_and_the_first_hundred_named() -> None:
    """
    Whoever mends a file wants to mend it once.
    """
    with pytest.raises(StatementInvalidError) as refused:
        _read("reference,amount\n" + "a,x\n" * 150, has_currency=True)
    assert refused.value.details["count"] == 150
    rows = refused.value.details["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 100


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"reference,amount,currency\n", "no line"),
        (b"reference,price\na,1\n", "no column 'amount'"),
        (b"reference,amount\na,1\n", "no column 'currency'"),
        (b"reference,amount,amount\na,1,2\n", "twice"),
        (b"reference;amount;currency\na;1;USD\n", "no column 'reference'"),
        (b"\xff\xfereference", "not UTF-8"),
        (b"PK\x03\x04\x00\x00", "byte of zero"),
        (b'reference,amount,currency\n"a,1,USD\n', "Line 2"),
    ],
)
def test_file_that_is_no_statement_is_refused(content: bytes, says: str) -> None:
    """
    Each with what is wrong with it.
    """
    with pytest.raises(StatementInvalidError, match=says):
        _read(content)


def test_unknown_name_of_a_column_is_refused() -> None:
    """
    A typing mistake must not silently be the default.
    """
    with pytest.raises(StatementInvalidError, match="no column 'amonut'"):
        _read(HEADER + "a,1,USD,,,,,\n", columns={"amonut": "Total"})
    with pytest.raises(StatementInvalidError, match="no column 'Model'"):
        _read("reference,amount,currency\na,1,USD\n", columns={"model": "Model"})


def test_time_without_offset_needs_a_zone_and_a_clear_hour() -> None:
    """
    The hour that the clocks repeat or leave out is not guessed.
    """
    row = HEADER + "a,1,USD,,{},,,\n"
    [line] = _read(row.format("2026-07-01T12:00:00"), time_zone="Europe/Berlin")
    assert line.occurred_at == datetime(2026, 7, 1, 10, tzinfo=UTC)
    for unclear in ("2026-10-25T02:30:00", "2026-03-29T02:30:00"):
        with pytest.raises(StatementInvalidError, match="clocks"):
            _read(row.format(unclear), time_zone="Europe/Berlin")
    with pytest.raises(InvalidError) as refused:
        _read(row.format("2026-07-01T12:00:00"), time_zone="Mars/Olympus")
    assert refused.value.code == "time_zone_unknown"


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Bytes before anything is read, lines while it is.
    """
    with pytest.raises(TooLargeError):
        _read(b"x" * (STATEMENT_BYTES_MAX + 1))
    monkeypatch.setattr(statements, "STATEMENT_LINES_MAX", 2)
    with pytest.raises(TooLargeError):
        _read("reference,amount\n" + "a,1\n" * 3, has_currency=True)
    assert len(_read("reference,amount\n" + "a,1\n" * 2, has_currency=True)) == 2


def test_period_is_the_lines_days_unless_said() -> None:
    """
    From the first line's midnight to that after the last, in UTC.
    """
    moments = [datetime(2026, 11, day, 5, tzinfo=UTC) for day in (4, 2, 3)]
    lines = [
        StatementLine(number=n, reference=str(n), quanta=1, occurred_at=moment)
        for n, moment in enumerate(moments)
    ]
    starts, ends = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 5, tzinfo=UTC)
    assert period_of(lines, since=None, until=None) == (starts, ends)
    assert period_of(lines, since=moments[2], until=None) == (moments[2], ends)
    timeless = [StatementLine(number=2, reference="a", quanta=1)]
    assert period_of(timeless, since=None, until=ends) is None
    assert period_of(timeless, since=starts, until=ends) == (starts, ends)
