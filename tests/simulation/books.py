"""
A small business on a fresh ledger, for tests that look at the books from close by.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.ledger.check import CheckReport, check_books
from tokenworks.ledger.model import (
    Fate,
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Reservation,
    Transfer,
)
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Pool, open_pool

USD_ID = 1
CNY_ID = 2
LIMIT_USD_ID = 11
LIMIT_TOKENS_ID = 13


@dataclass
class Books:
    """
    One writer, its ledger, and words for what tests do with them.
    """

    dsn: str
    clock: FakeClock
    ids: IdentifierSource
    pool: Pool
    writer: Writer
    ledger: Ledger
    _references: list[str] = field(default_factory=list[str])

    async def buyer(self, quanta: int = 0) -> UUID:
        """
        Open a buyer with so much prepaid money.
        """
        party_id = self.ids.mint()
        await self.ledger.open_party(party_id, "buyer")
        if quanta:
            await self.deposit(party_id, quanta)
        return party_id

    async def deposit(self, party_id: UUID, quanta: int) -> None:
        """
        Pay money in, under a reference of its own.
        """
        self._references.append(f"payment-{len(self._references)}-{self.ids.mint()}")
        await self.ledger.deposit(
            party_id=party_id,
            amount=Amount(quanta=quanta, asset=USD),
            rail="bank",
            reference=self._references[-1],
            actor="test",
        )

    async def cash(self, party_id: UUID) -> int:
        """
        Return the number of a buyer's cash account.
        """
        return await self.ledger.account(party_id, "cash")

    async def platform(self, purpose: str, asset: str | None = None) -> int:
        """
        Return the number of one of the platform's accounts.
        """
        return await self.ledger.account(PLATFORM_ID, purpose, asset)

    async def path(self, party_id: UUID, scopes: Sequence[UUID] = ()) -> UUID:
        """
        Publish a spend path over the buyer and further scopes; version 1.
        """
        path_id = self.ids.mint()
        chain = [party_id, *scopes, path_id]
        for scope_id in chain:
            await self.ledger.open_scope(scope_id)
        version = await self.ledger.publish_path(
            path_id=path_id, scope_ids=chain, funding_party_id=party_id
        )
        assert version == 1
        return path_id

    def placement(
        self,
        *reservations: Reservation,
        hold_id: UUID | None = None,
        path_id: UUID | None = None,
        path_version: int = 1,
        lives: timedelta = timedelta(minutes=5),
        deadline: datetime | None = None,
        fate: Fate = Fate.VOID,
        payee: int | None = None,
        extension: int = 0,
        meta: str = "{}",
    ) -> Placement:
        """
        Form a request for a hold, good for a minute.
        """
        now = self.clock.now()
        return Placement(
            hold_id=hold_id or self.ids.mint(),
            reservations=reservations,
            expires_at=now + lives,
            deadline=deadline or now + timedelta(minutes=1),
            path_id=path_id,
            path_version=None if path_id is None else path_version,
            fate=fate,
            payee_account=payee,
            extension=extension,
            meta=meta,
        )

    async def place(self, placement: Placement) -> Outcome:
        """
        Place, and wait for the answer.
        """
        return await self.writer.place(placement)

    async def hold_cash(  # wishes are those of ``placement``
        self,
        party_id: UUID,
        quanta: int,
        **wishes: Any,  # noqa: ANN401 - handed on
    ) -> UUID:
        """
        Hold money of a buyer and return the hold.
        """
        account_id = await self.cash(party_id)
        placement = self.placement(
            Reservation(asset_id=USD_ID, quanta=quanta, account_id=account_id), **wishes
        )
        outcome = await self.place(placement)
        assert outcome.code == "ok", outcome
        return placement.hold_id

    async def capture(
        self,
        hold_id: UUID,
        *transfers: Transfer,
        ordinal: int = 0,
        closes: bool = True,
        **more: Any,  # noqa: ANN401 - handed on
    ) -> Outcome:
        """
        Capture from a hold.
        """
        return await self.writer.post(
            Posting(
                kind=PostingKind.CAPTURE,
                fact_id=hold_id,
                transfers=transfers,
                ordinal=ordinal,
                closes=closes,
                **more,
            )
        )

    async def post(self, *transfers: Transfer, fact_id: UUID | None = None) -> Outcome:
        """
        Post an entry of its own.
        """
        return await self.writer.post(
            Posting(kind=PostingKind.POST, fact_id=fact_id or self.ids.mint(), transfers=transfers)
        )

    async def end(self, hold_id: UUID, kind: PostingKind) -> Outcome:
        """
        Void or expire a hold.
        """
        return await self.writer.post(Posting(kind=kind, fact_id=hold_id))

    async def counters(self, account_id: int) -> tuple[int, int, int]:
        """
        Return (debits pending, debits posted, credits posted), lanes summed.
        """
        rows = await self.rows(
            "SELECT sum(debits_pending), sum(debits_posted), sum(credits_posted) "
            "FROM ledger.balances JOIN ledger.accounts USING (account_id) "
            "WHERE %s IN (account_id, main_account_id)",
            account_id,
        )
        pending, debits, credits = rows[0]
        return int(pending), int(debits), int(credits)

    async def available(self, account_id: int) -> int:
        """
        Return what an account may still give.
        """
        pending, debits, credits = await self.counters(account_id)
        return credits - debits - pending

    async def rows(self, query: str, *parameters: object) -> list[Any]:
        """
        Read rows as the owner.
        """
        async with self.pool.connection() as connection:
            cursor = await connection.execute(query.encode(), parameters)
            return await cursor.fetchall()

    async def execute(self, query: str, *parameters: object) -> None:
        """
        Change something as the owner, behind the ledger's back.
        """
        async with self.pool.connection() as connection:
            await connection.execute(query.encode(), parameters)

    async def tamper(self, query: str, *parameters: object) -> None:
        """
        Change something as a superuser who turned the triggers off.
        """
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(query.encode(), parameters)

    async def check(self, **wishes: Any) -> CheckReport:  # noqa: ANN401 - handed on
        """
        Check the books.
        """
        return await check_books(self.dsn, clock=self.clock, **wishes)

    async def assert_clean(self) -> None:
        """
        Fail with what is wrong with the books, if anything is.
        """
        report = await self.check()
        assert report.is_clean, report.to_json()


async def fake_time(dsn: str) -> None:
    """
    Let ledger time be what the test's clock says.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("UPDATE ledger.settings SET clock_skew_max_ms = NULL")


@asynccontextmanager
async def open_books(
    dsn: str,
    clock: FakeClock,
    ids: IdentifierSource,
    *,
    holder: str = "test",
    rider: str | None = None,
) -> AsyncGenerator[Books]:
    """
    Open a ledger with a writer of its own on a fresh database.
    """
    await fake_time(dsn)
    pool = await open_pool(dsn, name="books", size_max=4)
    writer = Writer(dsn, clock=clock, holder=holder, rider=rider)
    await writer.start()
    ledger = Ledger(writer, pool, clock=clock, ids=ids)
    await ledger.prepare()
    try:
        yield Books(dsn=dsn, clock=clock, ids=ids, pool=pool, writer=writer, ledger=ledger)
    finally:
        await writer.close()
        await pool.close()
