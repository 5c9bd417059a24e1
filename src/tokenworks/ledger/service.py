"""
What the rest of the product asks of the books.

Order of a hold's life: ``place`` -> ``extend``* -> ``capture`` | ``void`` | ``expire``.
Each method forms one operation, gives it to the writer and returns when it is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from tokenworks.catalogue.chart_of_accounts import AccountPurpose, load_chart_of_accounts
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS, USD, Amount, Asset, quanta_to_text
from tokenworks.ledger.errors import (
    AccountMissingError,
    DateClosedError,
    FactConflictError,
    FundsShortError,
    HoldError,
    LedgerUnavailableError,
    LimitMissingError,
    LimitShortError,
    PayableOnHoldError,
    RefusedError,
    WindowShortError,
)
from tokenworks.ledger.model import (
    ASSET_CODES,
    REPLAYED,
    AccountBalance,
    EntryView,
    HoldView,
    Leg,
    LimitView,
    Outcome,
    Part,
    Placement,
    Posting,
    PostingKind,
    Refusal,
    ScopeOpening,
    Transfer,
    TrialBalance,
)
from tokenworks.ledger.writer import QUERIES, Writer
from tokenworks.postgres.pool import Connection, Pool

PLATFORM_ID: Final = UUID(int=1)
"""The platform's own party: revenue, purchases, bank, memo accounts."""

CLIENT_MONEY: Final = 1
SAFEGUARDED: Final = 2
RECEIVABLE_FREEZE_QUANTA: Final = 10 * 10**USD.scale
"""A party that owes more than this places no new holds until it has paid."""

WINDOWS: Final = ("ever", "minute", "hour", "day", "week", "month", "quarter", "year")
PARTITION_MONTHS_AHEAD: Final = 1
TAKE_BACK_TRIES_MAX: Final = 8

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "buyer": ("cash",),
    "supplier": ("supplier_payable",),
    "power_producer": ("power_payable",),
    "rights_holder": ("rights_payable",),
    "reseller": ("reseller_payable",),
    "tax_authority": ("tax_payable",),
    "platform": (
        "platform_revenue",
        "purchases",
        "safeguarded",
        "own_funds",
        "overrun",
        "supplier_variance",
    ),
}
_LIMIT_PURPOSES: Final = ("limit_source", "limit_spent", "limit_overrun")
_LIMIT_ASSETS: Final = ("LIMIT.USD", "LIMIT.TOK", "LIMIT.PAYMENTS")


class Ledger:
    """
    Accounts, entries, holds and limits for one process.

    Args:
        writer: The process's group-committing writer.
        pool: For reads, and for opening accounts and limits.
        clock: Ledger time and deadlines.
        ids: Mints fact ids for operations that nobody else named.
        currency: The money that limits in ``LIMIT.<currency>`` count.
    """

    def __init__(
        self,
        writer: Writer,
        pool: Pool,
        *,
        clock: Clock,
        ids: IdentifierSource,
        currency: str = "USD",
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._clock = clock
        self._ids = ids
        self._currency = currency
        self._accounts: dict[tuple[UUID, str, str], int] = {}

    @property
    def lane(self) -> int:
        """
        Return this process's lane.
        """
        return self._writer.lane

    @property
    def currency(self) -> str:
        """
        Return the money that the hub keeps its books in.
        """
        return self._currency

    @property
    def is_connected(self) -> bool:
        """
        Return whether the books could be reached at the last attempt.
        """
        return self._writer.is_connected

    # ------------------------------------------------------------------ accounts

    async def prepare(self) -> None:
        """
        Make the partitions and the platform's accounts; safe to repeat.
        """
        await self.ensure_partitions()
        await self.open_party(PLATFORM_ID, "platform")
        for asset in _LIMIT_ASSETS:
            for purpose in _LIMIT_PURPOSES:
                await self.account(PLATFORM_ID, purpose, asset)

    async def ensure_partitions(self) -> None:
        """
        Make this month's and the coming months' partitions.

        Few ahead: every statement of a batch opens those it may touch, and the worker
        looks every hour.
        """
        async with self._pool.connection() as connection:
            await connection.execute(
                QUERIES["ensure_partitions"],
                {"now": self._clock.now(), "months": PARTITION_MONTHS_AHEAD + 1},
            )

    async def open_party(self, party_id: UUID, kind: str) -> None:
        """
        Open the accounts that a party of this kind needs; safe to repeat.
        """
        for purpose in _KINDS[kind]:
            await self.account(party_id, purpose, self._currency)

    async def account(self, party_id: UUID, purpose: str, asset: str | None = None) -> int:
        """
        Return the account of (party, purpose, asset), opening it when it is new.
        """
        key = (party_id, purpose, asset or self._currency)
        known = self._accounts.get(key)
        if known is not None:
            return known
        rules = load_chart_of_accounts()[purpose]
        role = CLIENT_MONEY if rules.is_client_money else 0
        role = SAFEGUARDED if purpose == "safeguarded" else role
        row = await self._fetch_one(
            "open_account",
            {
                "party_id": party_id,
                "asset": key[2],
                "purpose": purpose,
                "account_class": rules.account_class,
                "normal_side": rules.normal_side,
                "title_holder": party_id if rules.title == "party" else PLATFORM_ID,
                "is_laned": rules.is_laned,
                # Of a laned account only the main one is bounded: payouts leave from there.
                "no_overdraft": rules.no_overdraft or _is_payable(rules),
                "money_role": role,
                "now": self._clock.now(),
            },
        )
        self._accounts[key] = int(row[0])
        return self._accounts[key]

    async def balances(
        self, party_id: UUID, connection: Connection | None = None
    ) -> list[AccountBalance]:
        """
        Return a party's accounts, lanes summed.
        """
        if connection is None:
            rows = await self._fetch_all("balances", {"party_id": party_id})
        else:
            cursor = await connection.execute(QUERIES["balances"], {"party_id": party_id})
            rows = await cursor.fetchall()
        return [_balance_from_row(row) for row in rows]

    async def trial_balance(self) -> TrialBalance:
        """
        Return every account and the sums that must agree, on one snapshot.
        """
        rows = await self._fetch_all("all_balances", {})
        balances = tuple(_balance_from_row(row) for row in rows)
        debits: dict[str, int] = {}
        credits: dict[str, int] = {}
        client_money: dict[str, int] = {}
        safeguarded: dict[str, int] = {}
        for balance, row in zip(balances, rows, strict=True):
            debits[balance.asset] = debits.get(balance.asset, 0) + balance.debits_posted
            credits[balance.asset] = credits.get(balance.asset, 0) + balance.credits_posted
            net = balance.credits_posted - balance.debits_posted
            if row[11] == CLIENT_MONEY:
                client_money[balance.asset] = client_money.get(balance.asset, 0) + net
            elif row[11] == SAFEGUARDED:
                safeguarded[balance.asset] = safeguarded.get(balance.asset, 0) - net
        return TrialBalance(
            rows=balances,
            debits=debits,
            credits=credits,
            client_money=client_money,
            safeguarded=safeguarded,
        )

    # ------------------------------------------------------------------ money in and out

    async def deposit(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: str
    ) -> Posted:
        """
        Credit a buyer's cash with money that arrived outside.

        The (rail, reference) pair is recorded once for ever: a repeat with the same
        content returns the first result, one with other content is a conflict. What the
        party owes (see ``chargeback``) is set off first.

        Raises:
            AccountMissingError: The party has no cash account.
            FactConflictError: The reference was used for another payment.
        """
        if amount.quanta <= 0:
            message = "A deposit is more than zero."
            raise InvalidError(message, code="invalid_amount", param="amount")
        cash = await self._existing(party_id, "cash", amount.asset.code)
        bank = await self.account(PLATFORM_ID, "safeguarded", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        meta = _canonical({"kind": "deposit", "rail": rail, "reference": reference, "actor": actor})
        transfers = [Transfer(debit=bank, credit=cash, quanta=amount.quanta)]
        outcome = await self._posted(
            Posting(kind=PostingKind.POST, fact_id=fact_id, transfers=tuple(transfers), meta=meta)
        )
        await self._set_off(party_id, amount.asset.code)
        return Posted.from_outcome(fact_id, outcome)

    async def chargeback(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: str
    ) -> Posted:
        """
        Take back money that the world already took: never refused.

        What the party's cash does not cover becomes a receivable, and is set off from its
        next deposits.
        """
        cash = await self._existing(party_id, "cash", amount.asset.code)
        bank = await self.account(PLATFORM_ID, "safeguarded", amount.asset.code)
        own_funds = await self.account(PLATFORM_ID, "own_funds", amount.asset.code)
        owed = await self.account(party_id, "receivable", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        meta = _canonical(
            {"kind": "chargeback", "rail": rail, "reference": reference, "actor": actor}
        )
        # The money has left the bank. What cash gave is freed from safeguarding; what it
        # could not give is the platform's loss until the receivable is paid, so that
        # other clients' money stays covered.
        transfers = (
            Transfer(debit=cash, credit=own_funds, quanta=amount.quanta, fallback=owed),
            Transfer(debit=own_funds, credit=bank, quanta=amount.quanta),
        )
        posting = Posting(kind=PostingKind.POST, fact_id=fact_id, transfers=transfers, meta=meta)
        async with (
            self.locked(owed) as connection,
            self.thawed(party_id, cash, amount.asset.code, connection),
        ):
            outcome = await self._posted(posting)
        return Posted.from_outcome(fact_id, outcome)

    @contextlib.asynccontextmanager
    async def thawed(
        self, party_id: UUID, cash: int, asset: str, connection: Connection
    ) -> AsyncGenerator[None]:
        """
        Let money leave a buyer's cash although it is frozen: what the world did is booked.

        Who owes more than ``RECEIVABLE_FREEZE_QUANTA`` afterwards is frozen. The caller has
        the lock of the party's receivable.
        """
        await self.set_account_state(cash, "active", connection)
        try:
            yield
        finally:
            balances = await self.balances(party_id, connection)
            owed = sum(b.balance for b in balances if (b.purpose, b.asset) == ("receivable", asset))
            if owed > RECEIVABLE_FREEZE_QUANTA:
                await self.set_account_state(cash, "frozen", connection)

    async def payout(
        self,
        *,
        party_id: UUID,
        purpose: str,
        amount: Amount,
        rail: str,
        reference: str,
        actor: str,
        on_hold_quanta: int = 0,
    ) -> Posted:
        """
        Book what was paid to a supplier or another leg owner, out of own funds.

        The shares of all writers are swept into the main account first, and only that one
        is checked: nobody is paid more than they are owed. Payouts of one account take turns,
        so what must stay there (``on_hold_quanta``) and what the party owes is looked up once.

        Raises:
            FundsShortError: The party is owed less.
            PayableOnHoldError: It is owed enough, but not all of it may be paid out yet.
            FactConflictError: The reference was used for another payment.
        """
        payable = await self._existing(party_id, purpose, amount.asset.code)
        own_funds = await self.account(PLATFORM_ID, "own_funds", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        meta = _canonical({"kind": "payout", "rail": rail, "reference": reference, "actor": actor})
        async with self.swept(payable) as connection:
            key = {"fact_id": fact_id, "operation": "post", "ordinal": 0}
            stored = await (await connection.execute(QUERIES["entry"], key)).fetchone()
            if stored is None:
                balances = await self.balances(party_id, connection)
                _require_off_hold(balances, payable, amount, on_hold_quanta)
            outcome = await self._posted(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=fact_id,
                    transfers=(Transfer(debit=payable, credit=own_funds, quanta=amount.quanta),),
                    is_exact=True,
                    meta=meta,
                )
            )
        return Posted.from_outcome(fact_id, outcome)

    @contextlib.asynccontextmanager
    async def swept(
        self, main_account: int, connection: Connection | None = None
    ) -> AsyncGenerator[Connection]:
        """
        Bring every writer's share of a laned account into the main one, and keep it there.

        Two at once must not both sweep what the shares have, so they take turns.
        """
        async with self.locked(main_account, connection) as locked:
            outcome = await self._sweep(main_account, locked)
            if outcome is not None and not outcome.is_done:
                raise await self.refusal(outcome)
            yield locked

    async def _sweep(self, main_account: int, connection: Connection) -> Outcome | None:
        cursor = await connection.execute(QUERIES["lane_shares"], {"account_id": main_account})
        shares = await cursor.fetchall()
        if not shares:
            return None
        return await self.post(
            Posting(
                kind=PostingKind.POST,
                fact_id=self._ids.mint(),
                transfers=tuple(
                    Transfer(debit=share, credit=main_account, quanta=int(quanta))
                    for share, quanta in shares
                ),
                is_exact=True,
                meta=_canonical({"kind": "sweep"}),
            )
        )

    @contextlib.asynccontextmanager
    async def locked(
        self, account_id: int, connection: Connection | None = None
    ) -> AsyncGenerator[Connection]:
        """
        Serialise what services read, decide and post about one account, in all processes.

        Args:
            account_id: Whose turn it is.
            connection: One that holds a lock already; of a small pool a second one may never
                come.
        """
        async with contextlib.AsyncExitStack() as stack:
            if connection is None:
                connection = await stack.enter_async_context(self._pool.connection())
            await stack.enter_async_context(self._locked(account_id, connection))
            yield connection

    @contextlib.asynccontextmanager
    async def _locked(self, account_id: int, connection: Connection) -> AsyncGenerator[None]:
        await connection.execute(QUERIES["lock_account"], {"account_id": account_id})
        try:
            yield
        finally:
            await connection.execute(QUERIES["unlock_account"], {"account_id": account_id})

    async def set_account_state(self, account_id: int, state: str, connection: Connection) -> None:
        """
        Freeze or thaw one account for new holds and plain entries.
        """
        # On the caller's connection: one that waits for a second one of a small pool may
        # wait for itself.
        await connection.execute(
            QUERIES["set_account_state"],
            {"account_id": account_id, "state": state, "now": self._clock.now()},
        )

    async def _set_off(self, party_id: UUID, asset: str) -> None:
        row = await self._fetch_optional(
            "find_account", {"party_id": party_id, "asset": asset, "purpose": "receivable"}
        )
        if row is None:
            return
        bank = await self.account(PLATFORM_ID, "safeguarded", asset)
        own_funds = await self.account(PLATFORM_ID, "own_funds", asset)
        # A receivable has no bound of its own: two deposits at once must not both pay it. No
        # transaction is open meanwhile, or the writer would wait for a row that it locked.
        async with self._pool.connection() as connection, self._locked(row[0], connection):
            cursor = await connection.execute(QUERIES["balances"], {"party_id": party_id})
            rows = await cursor.fetchall()
            balances = {(b.purpose, b.asset): b for b in map(_balance_from_row, rows)}
            owed = balances["receivable", asset]
            cash = balances["cash", asset]
            quanta = min(owed.balance, cash.available)
            if quanta <= 0:
                return
            # Nothing leaves a frozen account, so it is thawed for the set-off.
            await self.set_account_state(cash.account_id, "active", connection)
            # Refused when the cash was spent meanwhile; the next deposit tries again.
            outcome = await self.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=self._ids.mint(),
                    transfers=(
                        Transfer(debit=cash.account_id, credit=owed.account_id, quanta=quanta),
                        Transfer(debit=own_funds, credit=bank, quanta=quanta),
                    ),
                    meta=_canonical({"kind": "set_off"}),
                )
            )
            still_owed = owed.balance - (quanta if outcome.is_done else 0)
            if still_owed > RECEIVABLE_FREEZE_QUANTA:
                await self.set_account_state(cash.account_id, "frozen", connection)

    async def _claim(self, rail: str, reference: str) -> UUID:
        row = await self._fetch_one(
            "claim_reference",
            {"rail": rail, "reference": reference, "fact_id": self._ids.mint()},
        )
        return row[0]

    # ------------------------------------------------------------------ holds

    async def place(self, placement: Placement) -> Outcome:
        """
        Place or extend a hold; refusals come back as codes.

        Raises:
            LedgerUnavailableError: No durable answer in time; if the hold was placed all the
                same, it expires by itself.
        """
        return await self._writer.place(placement)

    async def post(
        self, posting: Posting, *, is_timed: bool = False, is_recallable: bool = False
    ) -> Outcome:
        """
        Post an entry or end a hold; refusals are codes.

        A cancelled caller does not cancel the posting.

        Args:
            posting: What to post.
            is_timed: Whether to stop waiting after ``LEDGER_ANSWER_TIMEOUT_S``; the posting
                goes on in memory.
            is_recallable: Whether it does not, as far as it was not sent yet.

        Raises:
            LedgerUnavailableError: The queue is full, or no answer came in time.
        """
        return await self._writer.post(posting, is_timed=is_timed, is_recallable=is_recallable)

    async def post_all(self, postings: Sequence[Posting]) -> list[Outcome]:
        """
        Post many at once, each all or nothing by itself; refusals are codes, in their order.

        Raises:
            LedgerUnavailableError: The queue has no room for all; nothing was queued.
        """
        return await self._writer.post_all(postings)

    def known_account(self, party_id: UUID, purpose: str, asset: str) -> int | None:
        """
        Return an account this process has met before; ``account`` finds the others.
        """
        return self._accounts.get((party_id, purpose, asset))

    async def void(self, hold_id: UUID, *, reason: str, rider_row: str | None = None) -> Outcome:
        """
        Give back everything a hold took; harmless when it is already closed.
        """
        return await self.post(
            Posting(
                kind=PostingKind.VOID,
                fact_id=hold_id,
                meta=_canonical({"reason": reason}),
                rider_row=rider_row,
            )
        )

    async def expire_due(self, *, grace: timedelta, limit: int = 500) -> int:
        """
        Expire holds whose time has come; return how many ended.

        Expiry is an ordered operation: a settle that was recorded first wins.
        """
        rows = await self._fetch_all(
            "due_holds", {"before": self._clock.now() - grace, "limit": limit}
        )
        outcomes = await self.post_all(
            [Posting(kind=PostingKind.EXPIRE, fact_id=row[0], meta="{}") for row in rows]
        )
        return sum(outcome.is_done for outcome in outcomes)

    async def open_holds(self, limit: int = 100) -> list[HoldView]:
        """
        Return open holds, the oldest first.
        """
        rows = await self._fetch_all("open_holds", {"limit": limit})
        return [_hold_from_row(row) for row in rows]

    async def hold(self, hold_id: UUID) -> HoldView | None:
        """
        Return one hold, open or closed.
        """
        row = await self._fetch_optional("hold", {"hold_id": hold_id})
        return None if row is None else _hold_from_row(row)

    async def refusal(self, outcome: Outcome) -> TokenworksError:
        """
        Turn a refused outcome into the error a caller should see.

        Names the tightest limit, what is left of it and when it opens again; nothing
        about any other limit.
        """
        if outcome.code != Refusal.INSUFFICIENT or outcome.refused_account is None:
            return _error_for(outcome.code)
        row = await self._fetch_one("refused_limit", {"account_id": outcome.refused_account})
        purpose, asset_code, limit_id, scope_id, window, quanta, resets_at = row
        asset = ASSETS[asset_code]
        left = quanta_to_text(max(outcome.available or 0, 0), scale=asset.scale)
        if purpose != "limit_available":
            message = f"The balance is too small: {left} {asset_code} available."
            return FundsShortError(message, details={"available": left, "currency": asset_code})
        unit = asset_code.removeprefix("LIMIT.").replace("TOK", "tokens")
        total = quanta_to_text(quanta, scale=asset.scale)
        details: dict[str, object] = {
            "limit_id": limit_id,
            "scope_id": str(scope_id),
            "window": window,
            "unit": unit,
            "limit": total,
            "available": left,
        }
        if resets_at is None:
            message = f"The limit of {total} {unit} is too small for this call: {left} left."
            return LimitShortError(message, details=details)
        opens = resets_at.isoformat().replace("+00:00", "Z")
        details["resets_at"] = opens
        message = (
            f"The limit of {total} {unit} per {window} is too small for this call: {left} left, "
            f"opens again at {opens}."
        )
        wait_s = max(1.0, (resets_at - self._clock.now()).total_seconds())
        return WindowShortError(message, details=details, retry_after_s=wait_s)

    # ------------------------------------------------------------------ limits

    async def open_scope(self, scope_id: UUID, *, expires_at: datetime | None = None) -> None:
        """
        Make a party or key a node of the spend tree; safe to repeat.
        """
        await self._set_scope(scope_id, "active", expires_at)

    async def set_scope_state(
        self, scope_id: UUID, state: str, *, connection: Connection | None = None
    ) -> None:
        """
        Freeze, thaw or close a node: effective on the next hold below it.

        Args:
            scope_id: The node.
            state: ``active``, ``frozen`` or ``closed``.
            connection: The caller's, in a transaction; ``None`` takes one of the pool.
        """
        await self._set_scope(scope_id, state, None, connection)

    async def _set_scope(
        self,
        scope_id: UUID,
        state: str,
        expires_at: datetime | None,
        connection: Connection | None = None,
    ) -> None:
        parameters = {
            "scope_id": scope_id,
            "state": state,
            "expires_at": expires_at,
            "now": self._clock.now(),
        }
        if connection is None:
            await self._execute("set_scope", parameters)
        else:
            await connection.execute(QUERIES["set_scope"], parameters)

    async def open_path(
        self,
        *,
        path_id: UUID | None,
        scope_ids: Sequence[UUID],
        funding_account: int,
        opens: Sequence[ScopeOpening],
        actor: str,
        connection: Connection,
    ) -> int:
        """
        Open the scopes of a path that are not there yet, publish it, and return its version.

        What exists keeps its state and its limits, so a repeat never thaws or widens anything.

        Args:
            path_id: Whose path it is; ``None``: only open the scopes.
            scope_ids: The whole path, root first.
            funding_account: The cash that is spent.
            opens: Those of the scopes that may be new, with the limits they begin with.
            actor: Who set these limits.
            connection: The caller's, in a transaction or not.
        """
        cursor = await connection.execute(
            QUERIES["open_path"],
            {
                "path_id": path_id,
                "scope_ids": list(scope_ids),
                "funding": [funding_account],
                "opened": [opening.scope_id for opening in opens],
                "expiries": [opening.expires_at for opening in opens],
                "limit_scopes": [o.scope_id for o in opens for _ in o.limits],
                "limit_assets": [limit.asset for o in opens for limit in o.limits],
                "limit_quanta": [limit.quanta for o in opens for limit in o.limits],
                "limit_windows": [limit.window for o in opens for limit in o.limits],
                "actor": actor,
                "now": self._clock.now(),
            },
        )
        row = await cursor.fetchone()
        assert row is not None, "a function gives a row"
        return int(row[0])

    async def publish_path(
        self, *, path_id: UUID, scope_ids: Sequence[UUID], funding_party_id: UUID
    ) -> int:
        """
        Publish what a key spends from, root first; return the path's version.
        """
        funding = await self.account(funding_party_id, "cash")
        row = await self._fetch_one(
            "publish_path",
            {
                "path_id": path_id,
                "scope_ids": list(scope_ids),
                "funding": [funding],
                "now": self._clock.now(),
            },
        )
        return int(row[0])

    async def path_version(self, path_id: UUID) -> int | None:
        """
        Return the current version of a path, or ``None`` when there is none.
        """
        row = await self._fetch_optional("path_version", {"path_id": path_id})
        return None if row is None else int(row[0])

    async def set_limit(
        self,
        *,
        scope_id: UUID,
        asset: Asset,
        quanta: int,
        window: str,
        time_zone: str = "UTC",
        actor: str,
    ) -> LimitView:
        """
        Set or change a scope's limit of one asset and window.

        Raising grants the difference to the open window at once; lowering takes back what
        is available and the rest from what returns.

        Raises:
            InvalidError: Unknown window or time zone, or a change of time zone.
        """
        _check_window(window, time_zone)
        if quanta < 0:
            message = "A limit is zero or more."
            raise InvalidError(message, code="invalid_amount", param="amount")
        current = [
            limit
            for limit in await self.limits([scope_id])
            if limit.asset == asset.code and limit.window == window
        ]
        if current and current[0].time_zone != time_zone:
            message = (
                f"This limit counts in {current[0].time_zone}; remove it before setting one "
                f"in {time_zone}."
            )
            raise InvalidError(message, code="time_zone_fixed", param="time_zone")
        row = await self._change_limit(scope_id, asset.code, quanta, window, time_zone, actor)
        limit_id, window_account, difference = row
        if window_account is not None and difference > 0:
            source = await self.account(PLATFORM_ID, "limit_source", asset.code)
            await self._posted(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=self._ids.mint(),
                    transfers=(Transfer(debit=source, credit=window_account, quanta=difference),),
                    meta=_canonical({"kind": "limit_raised", "limit": limit_id}),
                )
            )
        elif window_account is not None and difference < 0:
            await self.collect_owed()
        views = await self.limits([scope_id])
        return next(view for view in views if view.limit_id == limit_id)

    async def remove_limit(self, limit_id: int, *, actor: str) -> None:
        """
        Remove a limit; what it allowed is history, open holds keep their part.

        Raises:
            LimitMissingError: There is no such open limit.
        """
        row = await self._fetch_optional("limit_by_id", {"limit_id": limit_id})
        if row is None:
            message = f"There is no limit {limit_id}."
            raise LimitMissingError(message, param="limit_id")
        scope_id, asset, window, time_zone = row
        await self._change_limit(scope_id, asset, None, window, time_zone, actor)

    async def _change_limit(
        self,
        scope_id: UUID,
        asset: str,
        quanta: int | None,
        window: str,
        time_zone: str,
        actor: str,
    ) -> Sequence[Any]:
        return await self._fetch_one(
            "set_limit",
            {
                "scope_id": scope_id,
                "asset": asset,
                "quanta": quanta,
                "window": window,
                "zone": time_zone,
                "actor": actor,
                "now": self._clock.now(),
            },
        )

    async def limits(self, scope_ids: Sequence[UUID]) -> list[LimitView]:
        """
        Return the open limits of some scopes, in the order of the scopes.
        """
        rows = await self._fetch_all(
            "limits", {"scope_ids": list(scope_ids), "now": self._clock.now()}
        )
        return [
            LimitView(
                limit_id=row[0],
                scope_id=row[1],
                asset=row[2],
                quanta=row[3],
                window=row[4],
                time_zone=row[5],
                remaining=int(row[6]),
                held=int(row[7]),
                resets_at=row[8],
            )
            for row in rows
        ]

    async def collect_owed(self) -> int:
        """
        Take back what lowered limits still owe, as far as it has returned; count them.
        """
        collected = 0
        for account_id, asset, _ in await self._fetch_all("owed_windows", {}):
            source = await self.account(PLATFORM_ID, "limit_source", asset)
            # Two collectors at once must not both take the same debt.
            async with (
                self._pool.connection() as connection,
                self._locked(account_id, connection),
            ):
                cursor = await connection.execute(
                    QUERIES["owed_window"], {"account_id": account_id}
                )
                row = await cursor.fetchone()
                taken = 0 if row is None else await self._take_back(account_id, source, row[0])
                if taken:
                    await connection.execute(
                        QUERIES["settle_owed"], {"account_id": account_id, "taken": taken}
                    )
                    collected += 1
        return collected

    async def _take_back(self, account_id: int, source: int, quanta: int) -> int:
        """
        Move units from a window back to the source; less where it has less, meanwhile.
        """
        take = quanta
        for _ in range(TAKE_BACK_TRIES_MAX):
            if take <= 0:
                return 0
            outcome = await self.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=self._ids.mint(),
                    transfers=(Transfer(debit=account_id, credit=source, quanta=take),),
                    meta=_canonical({"kind": "limit_lowered"}),
                )
            )
            if outcome.is_done:
                return take
            take = outcome.available or 0
        return 0

    # ------------------------------------------------------------------ reading entries

    async def entries_of(self, fact_id: UUID) -> list[EntryView]:
        """
        Return what was recorded for one fact, with every leg's accounts named.
        """
        rows = await self._fetch_all("entries_of", {"fact_id": fact_id})
        records = [msgspec.json.decode(row[6]) for row in rows]
        account_ids = {
            account
            for record in records
            for transfer in record.get("transfers", ())
            for account in transfer[:2]
        }
        names = {
            row[0]: row
            for row in await self._fetch_all("account_names", {"account_ids": list(account_ids)})
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
        self, fact_id: UUID, operation: str, ordinal: int = 0
    ) -> Sequence[Any] | None:
        """
        Return (recorded_at, record, lane, receipt_sequence, receipt_previous) of a fact.
        """
        return await self._fetch_optional(
            "entry", {"fact_id": fact_id, "operation": operation, "ordinal": ordinal}
        )

    # ------------------------------------------------------------------ plumbing

    async def _existing(self, party_id: UUID, purpose: str, asset: str) -> int:
        known = self._accounts.get((party_id, purpose, asset))
        if known is not None:
            return known
        row = await self._fetch_optional(
            "find_account", {"party_id": party_id, "asset": asset, "purpose": purpose}
        )
        if row is None:
            message = f"The party has no {purpose} account in {asset}."
            raise AccountMissingError(message)
        self._accounts[party_id, purpose, asset] = int(row[0])
        return int(row[0])

    async def _posted(self, posting: Posting) -> Outcome:
        outcome = await self.post(posting)
        if not outcome.is_done:
            raise await self.refusal(outcome)
        return outcome

    async def _execute(self, query: str, parameters: Mapping[str, Any]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES[query], parameters)

    async def _fetch_all(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES[query], parameters)
            return await cursor.fetchall()

    async def _fetch_optional(
        self, query: str, parameters: Mapping[str, Any]
    ) -> Sequence[Any] | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES[query], parameters)
            return await cursor.fetchone()

    async def _fetch_one(self, query: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        row = await self._fetch_optional(query, parameters)
        assert row is not None, f"{query} always gives a row"
        return row


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """
    A posted entry: its fact, when it was recorded, whether an earlier one was returned.
    """

    fact_id: UUID
    recorded_at: datetime
    replayed: bool

    @classmethod
    def from_outcome(cls, fact_id: UUID, outcome: Outcome) -> Posted:
        """
        Read a successful outcome.
        """
        assert outcome.recorded_at is not None, "a done operation has its ledger time"
        return cls(
            fact_id=fact_id,
            recorded_at=outcome.recorded_at,
            replayed=outcome.code == REPLAYED,
        )


def _require_off_hold(
    balances: Sequence[AccountBalance], payable: int, amount: Amount, on_hold_quanta: int
) -> None:
    asset = amount.asset
    owes = sum(b.balance for b in balances if (b.purpose, b.asset) == ("receivable", asset.code))
    available = next(b.available for b in balances if b.account_id == payable)
    free = max(0, available - on_hold_quanta - max(0, owes))
    if amount.quanta <= free or amount.quanta > available:
        return  # beyond what is owed the ledger itself refuses
    left = quanta_to_text(free, scale=asset.scale)
    held = quanta_to_text(on_hold_quanta, scale=asset.scale)
    message = (
        f"{left} {asset.code} may be paid out now: {held} are neither matched with a statement"
        " of the supplier nor old enough."
    )
    raise PayableOnHoldError(
        message,
        param="amount",
        details={"payable": left, "on_hold": held, "currency": asset.code},
    )


def _is_payable(rules: AccountPurpose) -> bool:
    return rules.is_laned and rules.account_class == "liability"


def _check_window(window: str, time_zone: str) -> None:
    if window not in WINDOWS:
        message = f"A limit counts per {', '.join(WINDOWS)}; not per {window!r}."
        raise InvalidError(message, code="window_unknown", param="per")
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        message = f"{time_zone!r} is no time zone; use a name such as Europe/Berlin."
        raise InvalidError(message, code="time_zone_unknown", param="time_zone") from error


def _error_for(code: str) -> TokenworksError:
    if code == Refusal.CONFLICT:
        return FactConflictError("This was recorded before with other content.")
    if code in {Refusal.HOLD_UNKNOWN, Refusal.HOLD_CLOSED}:
        return HoldError("The hold is not open any more.", code=code)
    if code == Refusal.DATE_CLOSED:
        message = "The accounting date is closed; book to an open one."
        return DateClosedError(message, param="accounting_date")
    if code == Refusal.DEADLINE_PASSED:
        message = "The request came too late to be recorded; nothing was done."
        return LedgerUnavailableError(message, retry_after_s=1)
    if code == Refusal.SCOPE_FROZEN:
        return InsufficientFundsFrozenError("Spending is frozen here; ask the owner.")
    if code == Refusal.INTERNAL:
        return LedgerUnavailableError("The ledger refused the entry; it was not recorded.")
    return RefusedError(f"The ledger refused the operation: {code}.", code=code)


class InsufficientFundsFrozenError(FundsShortError):
    """
    The spender, or someone above it, is frozen.
    """

    code = "scope_frozen"


def _canonical(meta: Mapping[str, object]) -> str:
    return msgspec.json.encode(meta, order="sorted").decode()


def _balance_from_row(row: Sequence[Any]) -> AccountBalance:
    return AccountBalance(
        account_id=row[0],
        party_id=row[1],
        purpose=row[2],
        asset=row[3],
        account_class=row[4],
        normal_side=row[5],
        title_holder=row[6],
        debits_pending=int(row[7]),
        credits_pending=int(row[8]),
        debits_posted=int(row[9]),
        credits_posted=int(row[10]),
    )


def _hold_from_row(row: Sequence[Any]) -> HoldView:
    hold_id, state, placed_at, expires_at, accounts, assets, held, captured, meta = row
    return HoldView(
        hold_id=hold_id,
        state=state,
        placed_at=placed_at,
        expires_at=expires_at,
        parts=tuple(
            Part(account_id=account, asset_id=asset, quanta=amount - taken)
            for account, asset, amount, taken in zip(accounts, assets, held, captured, strict=True)
        ),
        meta=meta,
    )


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


__all__ = ["ASSET_CODES", "PLATFORM_ID", "Ledger", "Posted"]
