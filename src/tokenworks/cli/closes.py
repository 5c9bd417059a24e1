"""
Verify closes of dates from a file, without a hub; ``ledger verify-closes`` shows the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tokenworks.cli.client import EXIT_COULD_NOT_RUN, CommandError
from tokenworks.cli.receipt import default_keys
from tokenworks.ledger.closing_statement import chain_problems
from tokenworks.receipts.files import read_keys
from tokenworks.receipts.signed_statement import read_signed_statement


class _Close(msgspec.Struct, frozen=True):
    date: str
    statement: str
    signature: str


class _Closes(msgspec.Struct, frozen=True):
    items: list[_Close]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCloses:
    """
    What the closes of a file were found to be.
    """

    count: int
    problems: tuple[str, ...]


def verify_file(file: Path, *, keys: Path | None, data: Path | None) -> VerifiedCloses:
    """
    Check every close in a file, and that each goes on from the one before.

    Raises:
        CommandError: The file or the keys cannot be read.
    """
    try:
        items = msgspec.json.decode(file.read_bytes(), type=_Closes).items
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{file} is not what 'tokenworks ledger closes --json' prints: {error}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    trusted = read_keys(keys or default_keys(data))

    def verify(signature: str, certificate: str, made_at_s: int) -> bytes:
        return read_signed_statement(
            signature, trusted, certificate=certificate, made_at_s=made_at_s
        )

    in_order = [(close.statement, close.signature) for close in sorted(items, key=_date)]
    return VerifiedCloses(count=len(items), problems=tuple(chain_problems(in_order, verify)))


def _date(close: _Close) -> str:
    return close.date
