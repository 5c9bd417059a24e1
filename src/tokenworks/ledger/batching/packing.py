"""
A batch as columns, which the ledger's functions take, and their rows as outcomes; pure.

The next batch is packed while PostgreSQL works on the one before, so nothing here asks the
database or the clock; lane, epoch and time are added when the batch is sent. Columns stand in
the order of the functions' parameters, each with a place for every operation or transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

from tokenworks.ledger.model import NO_ACCOUNT, Outcome, Part, Placement, Posting, PostingKind
from tokenworks.postgres import arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """
    One batch, packed for one lane.
    """

    operations: Sequence[Posting]
    lane: int
    plain: tuple[Any, ...] | None
    """For ``post_plain_v1``; ``None``: by its form this batch is not for it."""


def place_columns(batch: Sequence[Placement]) -> tuple[Any, ...]:
    """
    Pack what ``place_v2`` takes after lane, epoch and time.
    """
    paths = _places_of_paths(batch)
    reservations = [
        (position, item)
        for position, placement in enumerate(batch, start=1)
        for item in placement.reservations
    ]
    return (
        min(item.hold_id for item in batch),
        max(item.hold_id for item in batch),
        arrays.uuid_array([item.hold_id for item in batch]),
        arrays.text_array([item.operation for item in batch]),
        arrays.int4_array([item.extension for item in batch]),
        arrays.bytea_array([item.content for item in batch]),
        arrays.timestamp_array([item.deadline for item in batch]),
        arrays.timestamp_array([item.expires_at for item in batch]),
        arrays.text_array([item.fate.value for item in batch]),
        arrays.int8_array([item.payee_account for item in batch]),
        arrays.uuid_array([path_id for path_id, _ in paths]),
        arrays.int4_array([version for _, version in paths]),
        arrays.int4_array([paths.get((item.path_id, item.path_version)) for item in batch]),
        arrays.text_array([item.meta for item in batch]),
        arrays.int4_array([position for position, _ in reservations]),
        arrays.int2_array([item.asset_id for _, item in reservations]),
        arrays.int8_array([item.account_id for _, item in reservations]),
        arrays.int8_array([item.quanta for _, item in reservations]),
    )


def accounts_of(batch: Sequence[Posting]) -> set[int]:
    """
    Return the accounts for which a lane's share may stand.
    """
    named = {
        account
        for posting in batch
        if not posting.is_exact
        for item in posting.transfers
        for account in (item.debit, item.credit, item.fallback)
    }
    named.discard(NO_ACCOUNT)
    return named


def post_columns(
    batch: Sequence[Posting], shares: Mapping[int, int], rider: str | None
) -> tuple[Any, ...]:
    """
    Pack what ``post_v2`` takes after lane, epoch and time, but for ``p_together_from``.
    """
    transfers = _transfers(batch, shares)
    return (
        min(item.fact_id for item in batch),
        max(item.fact_id for item in batch),
        arrays.uuid_array([item.fact_id for item in batch]),
        arrays.text_array([item.kind.value for item in batch]),
        arrays.int4_array([item.ordinal for item in batch]),
        arrays.bytea_array([item.content for item in batch]),
        arrays.timestamp_array([item.deadline for item in batch]),
        arrays.bool_array([item.closes for item in batch]),
        arrays.bytea_array([item.receipt_root for item in batch]),
        arrays.text_array([item.meta for item in batch]),
        arrays.text_array([item.rider_row for item in batch]),
        rider,
        _dates(batch),
        arrays.int4_array([transfer[0] for transfer in transfers]),
        arrays.int8_array([transfer[1] for transfer in transfers]),
        arrays.int8_array([transfer[2] for transfer in transfers]),
        arrays.int8_array([transfer[3] for transfer in transfers]),
        arrays.int8_array([transfer[4] for transfer in transfers]),
    )


def plain_columns(batch: Sequence[Posting], shares: Mapping[int, int]) -> tuple[Any, ...] | None:
    """
    Pack what ``post_plain_v1`` takes after lane, epoch and time.

    ``None`` for a batch in which there is more than entries by themselves, or whose ids do
    not rise: who inserts in the order of ids cannot stand in another writer's way.
    """
    if not all(map(_is_plain, batch)):
        return None
    facts = [item.fact_id for item in batch]
    if any(fact.int >= following.int for fact, following in pairwise(facts)):
        return None
    transfers = _transfers(batch, shares)
    ordinals = [item.ordinal for item in batch]
    deadlines = [item.deadline for item in batch]
    is_one_each = len(transfers) == len(batch) and all(len(item.transfers) == 1 for item in batch)
    return (
        facts[0],
        facts[-1],
        arrays.uuid_array(facts),
        arrays.int4_array(ordinals) if any(ordinals) else None,
        arrays.bytea_array([item.content for item in batch]),
        arrays.timestamp_array(deadlines) if any(deadlines) else None,
        arrays.text_array([item.meta for item in batch]),
        None if is_one_each else arrays.int4_array([transfer[0] for transfer in transfers]),
        arrays.int8_array([transfer[1] for transfer in transfers]),
        arrays.int8_array([transfer[2] for transfer in transfers]),
        arrays.int8_array([transfer[3] for transfer in transfers]),
    )


def outcomes_from_rows(rows: Sequence[Sequence[Any]]) -> list[Outcome]:
    """
    Read a row for each operation, in their order.
    """
    return [_outcome_from_row(row) for row in rows]


def outcomes_by_position(rows: Sequence[Sequence[Any]], count: int) -> list[Outcome]:
    """
    Read rows that name their positions; position 0 answers all that have no row of their own.
    """
    answers = {int(row[0]): _outcome_from_row(row) for row in rows}
    plain = answers.get(0)
    if plain is None:
        return [answers[position] for position in range(1, count + 1)]
    return [answers.get(position, plain) for position in range(1, count + 1)]


def _places_of_paths(batch: Sequence[Placement]) -> dict[tuple[UUID | None, int | None], int]:
    # Each path is looked at once, however many calls are placed on it.
    named = (item for item in batch if item.path_id is not None)
    paths = dict.fromkeys((item.path_id, item.path_version) for item in named)
    return {path: place for place, path in enumerate(paths, start=1)}


def _is_plain(posting: Posting) -> bool:
    return (
        posting.kind is PostingKind.POST
        and posting.accounting_date is None
        and posting.receipt_root is None
        and posting.rider_row is None
        and all(item.fallback == NO_ACCOUNT for item in posting.transfers)
    )


def _transfers(
    batch: Sequence[Posting], shares: Mapping[int, int]
) -> list[tuple[int, int, int, int, int]]:
    share = shares.get
    return [
        (position, item.debit, item.credit, item.quanta, item.fallback)
        if posting.is_exact
        else (
            position,
            share(item.debit, NO_ACCOUNT),
            share(item.credit, NO_ACCOUNT),
            item.quanta,
            share(item.fallback, item.fallback),
        )
        for position, posting in enumerate(batch, start=1)
        for item in posting.transfers
    ]


def _dates(batch: Sequence[Posting]) -> arrays.DateArray | None:
    # Only corrections name one: a batch without any sends nothing.
    dates = [posting.accounting_date for posting in batch]
    return arrays.date_array(dates) if any(dates) else None


def _outcome_from_row(row: Sequence[Any]) -> Outcome:
    (
        _,
        code,
        recorded_at,
        expires_at,
        accounts,
        assets,
        amounts,
        refused_account,
        available,
        overrun,
        record,
        lane,
        receipt_sequence,
        receipt_previous,
    ) = row
    parts = tuple(map(Part, accounts, assets, amounts)) if accounts else ()
    return Outcome(
        code=code,
        recorded_at=recorded_at,
        expires_at=expires_at,
        parts=parts,
        refused_account=refused_account,
        available=None if available is None else int(available),
        overrun=overrun or 0,
        record=record,
        lane=lane,
        receipt_sequence=receipt_sequence,
        receipt_previous=receipt_previous,
    )
