"""
What the close of a date says: the trial balance of that date, chained to the close before; pure.

Invariants: debits equal credits per asset and what is safeguarded covers clients' money, or no
statement is made; each row goes on where the close before left it; the bytes are what the
signature covers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Final

import msgspec

from tokenworks.foundation.errors import TokenworksError

VERSION: Final = 1
CLIENT_MONEY: Final = 1
SAFEGUARDED: Final = 2


class TrialRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    All accounts of one purpose and asset; amounts are decimal text in quanta.
    """

    asset: str
    purpose: str
    account_class: str
    normal_side: str
    money_role: int
    """1: clients' money, 2: what safeguards it."""
    debits: str
    """Posted up to the end of the date, since the first entry."""
    credits: str
    debits_of_day: str
    credits_of_day: str

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """
        Return what names the row in every close.
        """
        return (
            self.asset,
            self.purpose,
            self.account_class,
            self.normal_side,
            self.money_role,
        )


class AssetProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The sums of one asset, in quanta.
    """

    asset: str
    debits: str
    credits: str
    client_money: str
    safeguarded: str


class LaneHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A lane's last batch of the date or before.
    """

    lane: int
    batch: int
    hash: str


class PreviousClose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The close that this one goes on from.
    """

    date: date
    sha256: str
    """Of its signature's text."""


class ClosingStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The signed content of a close.
    """

    v: int
    kind: str
    date: date
    closed_at: datetime
    actor: str
    previous: PreviousClose | None
    entries: int
    """Entries that count in the date."""
    rows: tuple[TrialRow, ...]
    proofs: tuple[AssetProof, ...]
    lanes: tuple[LaneHead, ...]
    certificate: str
    """Of the key that signs, so that the close can be verified with the root's key alone."""


Movements = Mapping[tuple[str, str, str, str, int], tuple[int, int]]
"""By a row's key: debits and credits of the date, in quanta."""

_decoder: Final = msgspec.json.Decoder(ClosingStatement)


class BooksUnbalancedError(ValueError):
    """
    The entries of the date do not balance, or clients' money is not covered.
    """


def trial_rows(previous: Iterable[TrialRow], movements: Movements) -> tuple[TrialRow, ...]:
    """
    Carry the rows of the close before on by what moved on the date.
    """
    before = {row.key: (int(row.debits), int(row.credits)) for row in previous}
    rows: list[TrialRow] = []
    for key in sorted(before.keys() | movements.keys()):
        debits, credits = before.get(key, (0, 0))
        debits_of_day, credits_of_day = movements.get(key, (0, 0))
        asset, purpose, account_class, normal_side, money_role = key
        rows.append(
            TrialRow(
                asset=asset,
                purpose=purpose,
                account_class=account_class,
                normal_side=normal_side,
                money_role=money_role,
                debits=str(debits + debits_of_day),
                credits=str(credits + credits_of_day),
                debits_of_day=str(debits_of_day),
                credits_of_day=str(credits_of_day),
            )
        )
    return tuple(rows)


def prove(rows: Sequence[TrialRow]) -> tuple[AssetProof, ...]:
    """
    Return each asset's sums once they agree.

    Raises:
        BooksUnbalancedError: Debits differ from credits, or clients' money is not covered.
    """
    proofs: list[AssetProof] = []
    for asset in sorted({row.asset for row in rows}):
        own = [row for row in rows if row.asset == asset]
        debits = sum(int(row.debits) for row in own)
        credits = sum(int(row.credits) for row in own)
        client_money = sum(_net(row) for row in own if row.money_role == CLIENT_MONEY)
        safeguarded = -sum(_net(row) for row in own if row.money_role == SAFEGUARDED)
        if debits != credits:
            message = f"{asset}: debits are {debits}, credits {credits}."
            raise BooksUnbalancedError(message)
        if client_money > safeguarded:
            message = f"{asset}: clients own {client_money}, {safeguarded} are safeguarded."
            raise BooksUnbalancedError(message)
        proofs.append(
            AssetProof(
                asset=asset,
                debits=str(debits),
                credits=str(credits),
                client_money=str(client_money),
                safeguarded=str(safeguarded),
            )
        )
    return tuple(proofs)


def previous_close(statement: ClosingStatement, signature: str) -> PreviousClose:
    """
    Return how the next close names this one.
    """
    digest = hashlib.sha256(signature.encode()).hexdigest()
    return PreviousClose(date=statement.date, sha256=digest)


def encode_statement(statement: ClosingStatement) -> bytes:
    """
    Return the bytes that are stored and signed.
    """
    return msgspec.json.encode(statement)


def read_statement(content: bytes | str) -> ClosingStatement:
    """
    Parse a stored statement.

    Raises:
        ValueError: It is none of a known version.
    """
    statement = _decoder.decode(content)
    if statement.v != VERSION or statement.kind != "close":
        message = f"version {statement.v} of {statement.kind!r} is unknown"
        raise ValueError(message)
    return statement


def chain_problems(
    closings: Sequence[tuple[str, str]], verify: Callable[[str, str, int], bytes]
) -> list[str]:
    """
    Return what is wrong with closes in the order of their dates, as sentences.

    Args:
        closings: Statement and signature of each.
        verify: Given signature, certificate and when it was made (seconds since 1970), returns
            the signed bytes; raises an error of the product that says why it is not good.
    """
    problems: list[str] = []
    before: tuple[ClosingStatement, str] | None = None
    for content, signature in closings:
        try:
            statement = read_statement(content)
        except ValueError as error:
            problems.append(f"A close cannot be read: {error}.")
            return problems
        problems += [f"{statement.date}: {p}" for p in _problems(statement, before)]
        try:
            signed = verify(signature, statement.certificate, int(statement.closed_at.timestamp()))
        except TokenworksError as error:
            problems.append(f"{statement.date}: {error.message}")
        else:
            if signed != content.encode():
                problems.append(f"{statement.date}: the signature covers something else.")
        before = (statement, signature)
    return problems


def _problems(
    statement: ClosingStatement, before: tuple[ClosingStatement, str] | None
) -> Iterable[str]:
    if before is not None:
        if statement.previous != previous_close(*before):
            yield f"it does not go on from the close of {before[0].date}."
        elif before[0].date >= statement.date:
            yield f"it comes after {before[0].date}."
        movements = {
            row.key: (int(row.debits_of_day), int(row.credits_of_day)) for row in statement.rows
        }
        if trial_rows(before[0].rows, movements) != statement.rows:
            yield "its rows do not go on from those of the close before."
    try:
        if prove(statement.rows) != statement.proofs:
            yield "its sums are not those of its rows."
    except BooksUnbalancedError as error:
        yield str(error)


def _net(row: TrialRow) -> int:
    return int(row.credits) - int(row.debits)
