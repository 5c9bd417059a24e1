"""
Entries by themselves: one that has to be posted, and what was recorded.

Does not own: which transfers an entry has (the caller decides), nor the writer's batches.
Invariants: an entry's note is canonical JSON, so the same entry has the same content hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from tokenworks.ledger.model import EntryView, Leg, Outcome, Posting
from tokenworks.ledger.refusals import Refusals
from tokenworks.ledger.store import Store
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Connection


class Entries:
    """
    Post entries that must succeed, and read entries.
    """

    def __init__(self, writer: Writer, store: Store, refusals: Refusals) -> None:
        self._writer = writer
        self._store = store
        self._refusals = refusals

    async def post(self, posting: Posting) -> Outcome:
        """
        Post an entry and return its outcome, which is done.

        Raises:
            TokenworksError: The ledger refused it; the error says why.
        """
        outcome = await self._writer.post(posting)
        if not outcome.is_done:
            raise await self._refusals.refusal(outcome)
        return outcome

    async def entries_of(self, fact_id: UUID) -> list[EntryView]:
        """
        Return what was recorded for one fact, with every leg's accounts named.

        Empty when nothing was. A lane's share goes by the name of its main account.
        """
        rows = await self._store.fetch_all("entries_of", {"fact_id": fact_id})
        records = [msgspec.json.decode(row[6]) for row in rows]
        account_ids = {
            account
            for record in records
            for transfer in record.get("transfers", ())
            for account in transfer[:2]
        }
        names = {
            row[0]: row
            for row in await self._store.fetch_all(
                "account_names", {"account_ids": list(account_ids)}
            )
        }
        return [
            EntryView(
                fact_id=row[0],
                operation=row[1],
                ordinal=row[2],
                lane=row[3],
                batch=row[4],
                recorded_at=row[5],
                legs=tuple(_leg(names, transfer) for transfer in record.get("transfers", ())),
                meta=record.get("meta") or {},
            )
            for row, record in zip(rows, records, strict=True)
        ]

    async def stored_entry(
        self,
        fact_id: UUID,
        operation: str,
        ordinal: int = 0,
        *,
        connection: Connection | None = None,
    ) -> Sequence[Any] | None:
        """
        Return (recorded_at, record, lane, receipt_sequence, receipt_previous) of a fact.

        Args:
            fact_id: Which fact.
            operation: Kind of operation, such as ``post`` or ``capture``.
            ordinal: Tells operations of one kind on one fact apart.
            connection: The caller's, where it has one; ``None`` takes one of the pool.

        Returns:
            ``None`` when it is not recorded.
        """
        key = {"fact_id": fact_id, "operation": operation, "ordinal": ordinal}
        return await self._store.fetch_optional("entry", key, connection)


def canonical(meta: Mapping[str, object]) -> str:
    """
    Return an entry's note as JSON with its keys sorted.
    """
    return msgspec.json.encode(meta, order="sorted").decode()


def _leg(names: Mapping[int, Sequence[Any]], transfer: Sequence[int]) -> Leg:
    debit, credit, quanta = transfer
    return Leg(
        debit_account=names[debit][1],
        debit_party=names[debit][2],
        debit_purpose=names[debit][3],
        credit_account=names[credit][1],
        credit_party=names[credit][2],
        credit_purpose=names[credit][3],
        asset=names[debit][4],
        quanta=quanta,
    )
