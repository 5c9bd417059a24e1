"""
Read the canonical records that the ledger's functions write; pure.

A reader of its own, on purpose: ``check`` rebuilds the books from what stands in these
bytes and trusts nothing else. Version 1; a later version is added, never changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec

VERSION: Final = 1

Operation: TypeAlias = Literal["grant", "place", "extend", "post", "capture", "void", "expire"]
Movement: TypeAlias = tuple[int, int, int]
"""Debited account, credited account, quanta."""
Share: TypeAlias = tuple[int, int]
"""Account, quanta."""

ENDINGS: Final = frozenset({"capture", "void", "expire"})
"""Operations that take from a hold; the last of them closes it."""


class Record(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"version": "v", "operation": "op"},
):
    """
    What one applied operation did.
    """

    version: int
    operation: Operation
    fact: UUID
    ordinal: int
    time: int  # microseconds since 1970, ledger time
    date: str | None = None  # accounting date; None: the UTC date of ``time``
    transfers: tuple[Movement, ...] = ()
    parts: tuple[Share, ...] = ()  # taken into a hold
    taken: tuple[Share, ...] = ()  # out of what the hold had
    released: tuple[Share, ...] = ()  # given back as the hold closed
    expires: int | None = None
    fate: str | None = None
    closes: bool | None = None  # None where there is no hold
    limit: int | None = None
    receipt: str | None = None  # hex of the receipt's root
    overrun: int = 0
    meta: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def kind(self) -> str | None:
        """
        Return what its note says it is for.
        """
        try:
            return msgspec.json.decode(self.meta, type=_Note).kind
        except msgspec.MsgspecError:
            return None


class _Note(msgspec.Struct, frozen=True):
    kind: str | None = None


class RecordUnreadableError(ValueError):
    """
    The bytes are no record of a version this reader knows.
    """


_decoder: Final = msgspec.json.Decoder(Record)


def read_record(text: str) -> Record:
    """
    Parse one canonical record.

    Raises:
        RecordUnreadableError: Not canonical JSON of a known version, or a movement of
            nothing or less.
    """
    try:
        record = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise RecordUnreadableError(str(error)) from error
    if record.version != VERSION:
        message = f"version {record.version} is unknown"
        raise RecordUnreadableError(message)
    if any(movement[2] <= 0 for movement in record.transfers):
        message = "a transfer of nothing or less"
        raise RecordUnreadableError(message)
    if any(share[1] <= 0 for share in (*record.parts, *record.taken, *record.released)):
        message = "a part of nothing or less"
        raise RecordUnreadableError(message)
    return record


def counter_changes(record: Record) -> Iterator[tuple[int, int, int, int]]:
    """
    Yield (account, change of debits pending, of debits posted, of credits posted).
    """
    for account_id, quanta in record.parts:
        yield account_id, quanta, 0, 0
    for account_id, quanta in (*record.taken, *record.released):
        yield account_id, -quanta, 0, 0
    for debit, credit, quanta in record.transfers:
        yield debit, 0, quanta, 0
        yield credit, 0, 0, quanta
