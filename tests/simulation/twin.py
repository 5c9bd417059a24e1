"""
The real ledger and the naive one, side by side: same operations, same answers, same books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from hypothesis import strategies as st

from tests.simulation.books import CNY_ID, LIMIT_TOKENS_ID, LIMIT_USD_ID, USD_ID, Books
from tests.simulation.naive_ledger import Account, NaiveLedger, Path, Result
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD
from tokenworks.ledger.model import (
    NO_ACCOUNT,
    Fate,
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Reservation,
    Transfer,
)

ROLES = {"cash": 1, "safeguarded": 2}
BOUNDED = {"cash"}


@dataclass(frozen=True)
class PlaceWish:
    """
    A placement, before it is known which hold it means.
    """

    amounts: tuple[tuple[int, int], ...]  # (what, quanta); what is an index into a menu
    hold: int | None  # None: a new one; otherwise an index of an earlier one
    path: int  # index; 0: none
    fate: Fate = Fate.VOID
    is_repeat: bool = False
    is_late: bool = False
    is_future: bool = False
    lives_s: int = 60


@dataclass(frozen=True)
class PostWish:
    """
    A posting, before it is known which hold it means.
    """

    kind: PostingKind
    hold: int
    transfers: tuple[tuple[int, int, int, int], ...]  # debit, credit, quanta, fallback: indexes
    closes: bool = True
    is_repeat: bool = False
    is_late: bool = False


def _tame(amount: int) -> int:
    """
    Keep sums of largest amounts out: they overflow a column and end as ``internal``.
    """
    return 120 if amount == 2**62 else amount


quanta = st.one_of(st.integers(0, 120), st.sampled_from([-1, 2**62, 2**62 + 1]))
some_quanta = st.integers(0, 120)
place_wishes = st.builds(
    PlaceWish,
    amounts=st.lists(
        st.tuples(st.integers(0, 9), st.one_of(some_quanta, some_quanta, quanta)), max_size=4
    ).map(tuple),
    hold=st.one_of(st.none(), st.none(), st.integers(0, 30)),
    path=st.sampled_from([0, 1, 1, 1, 2, 2, 3, 4]),
    fate=st.sampled_from([Fate.VOID, Fate.VOID, Fate.CAPTURE, Fate.WAIT]),
    is_repeat=st.sampled_from([False] * 7 + [True]),
    is_late=st.sampled_from([False] * 15 + [True]),
    is_future=st.sampled_from([False] * 15 + [True]),
    lives_s=st.sampled_from([0, 30, 600]),
)
account_indexes = st.integers(0, 11)
transfer_wishes = st.tuples(
    account_indexes,
    account_indexes,
    st.one_of(some_quanta, some_quanta, quanta),
    st.one_of(st.just(-1), account_indexes),
)
post_wishes = st.builds(
    PostWish,
    kind=st.sampled_from(
        [PostingKind.CAPTURE] * 4 + [PostingKind.POST] * 4 + [PostingKind.VOID, PostingKind.EXPIRE]
    ),
    hold=st.integers(0, 30),
    transfers=st.lists(transfer_wishes, max_size=4).map(tuple),
    closes=st.booleans(),
    is_repeat=st.sampled_from([False] * 9 + [True]),
    is_late=st.sampled_from([False] * 15 + [True]),
)

# Between the two buyers' cash: no client money leaves, so only balances decide.
cash_indexes = st.sampled_from([5, 6])
tight_wishes = st.tuples(cash_indexes, cash_indexes, st.integers(40, 320), st.sampled_from([-1, 4]))
plain_wishes = st.builds(
    PostWish,
    kind=st.just(PostingKind.POST),
    hold=st.integers(0, 30),
    transfers=st.one_of(st.tuples(tight_wishes), st.lists(transfer_wishes, max_size=3).map(tuple)),
    is_repeat=st.sampled_from([False] * 9 + [True]),
    is_late=st.sampled_from([False] * 15 + [True]),
)


class Twin:
    """
    One little business, kept twice.
    """

    def __init__(self, books: Books) -> None:
        self.books = books
        self.naive = NaiveLedger(now=books.clock.now())
        self.menu: list[int] = []  # accounts that operations choose from
        self.path_ids: list[tuple[UUID, int] | None] = [None]
        self.scopes: list[UUID] = []
        self.hold_ids: list[UUID] = []
        self.placed: list[Placement] = []
        self.posted: list[Posting] = []
        self._ordinals: dict[UUID, int] = {}

    async def open(self) -> None:
        """
        Open two buyers, the platform's accounts, two paths with limits.
        """
        party = self.books.ids.mint()
        for purpose in ("safeguarded", "own_funds", "overrun", "platform_revenue", "receivable"):
            await self._account(party, purpose)
        buyers = [self.books.ids.mint() for _ in range(2)]
        cash = [await self._account(buyer, "cash") for buyer in buyers]
        await self._account(party, "own_funds", "CNY")
        await self._account(buyers[0], "cash", "CNY")
        bank, own = self.menu[0], self.menu[1]
        self.naive.accounts[own].credits = 0
        deposits = [
            Posting(
                kind=PostingKind.POST,
                fact_id=self.books.ids.mint(),
                transfers=(Transfer(debit=bank, credit=account, quanta=300),),
            )
            for account in cash
        ]
        await self.post(deposits)
        await self._open_paths(buyers, cash)
        self.menu.append(10**15)  # nobody's account
        await self.assert_same()

    async def _account(self, party: UUID, purpose: str, asset: str = "USD") -> int:
        number = await self.books.ledger.account(party, purpose, asset)
        self.naive.accounts[number] = Account(
            asset=USD_ID if asset == "USD" else CNY_ID,
            is_bounded=purpose in BOUNDED,
            role=ROLES.get(purpose, 0),
        )
        self.menu.append(number)
        return number

    async def _open_paths(self, buyers: Sequence[UUID], cash: Sequence[int]) -> None:
        ledger = self.books.ledger
        keys = [self.books.ids.mint() for _ in range(2)]
        self.scopes = [buyers[0], *keys]
        for scope in (*buyers, *keys):
            await ledger.open_scope(scope)
        wanted = [
            (buyers[0], LIMIT_USD, 250),
            (buyers[0], LIMIT_TOKENS, 400),
            (keys[0], LIMIT_TOKENS, 150),
            (keys[1], LIMIT_USD, 100),
        ]
        limits: list[tuple[UUID, int]] = []
        for scope, asset, granted in wanted:
            view = await ledger.set_limit(
                scope_id=scope, asset=asset, quanta=granted, window="ever", actor="test"
            )
            limits.append((scope, view.limit_id))
        for key in keys:
            await ledger.publish_path(
                path_id=key, scope_ids=[buyers[0], key], funding_party_id=buyers[0]
            )
            # A hold of nothing opens the windows, so that their accounts have numbers.
            outcome = await self.books.place(self.books.placement(path_id=key))
            assert outcome.code == "ok"
            self.path_ids.append((key, 1))
        windows = dict(
            await self.books.rows("SELECT limit_id, account_id FROM ledger.limit_windows")
        )
        by_scope = [(scope, int(windows[limit])) for scope, limit in limits]
        for (_, account), (_, asset, granted) in zip(by_scope, wanted, strict=True):
            number = LIMIT_USD_ID if asset is LIMIT_USD else LIMIT_TOKENS_ID
            self.naive.accounts[account] = Account(asset=number, is_bounded=True, credits=granted)
            self.menu.append(account)
        for key in keys:
            self.naive.paths[key, 1] = Path(
                scopes=[buyers[0], key], funding=[cash[0]], limits=by_scope
            )
        self.path_ids += [(keys[0], 7), (self.books.ids.mint(), 1)]  # a stale one, an unknown one

    # ------------------------------------------------------------------ operations

    def placement(self, wish: PlaceWish) -> Placement:
        """
        Turn a wish into a request about this business.
        """
        if wish.is_repeat and self.placed:
            return self.placed[len(wish.amounts) % len(self.placed)]
        path = self.path_ids[wish.path]
        hold_id, extension = self.books.ids.mint(), 0
        if wish.is_future:
            hold_id = UUID(int=hold_id.int + (3_600_000 << 80))
        if wish.hold is not None and self.hold_ids:
            hold_id = self.hold_ids[wish.hold % len(self.hold_ids)]
            extension = self._ordinals[hold_id] = self._ordinals.get(hold_id, 0) + 1
            path = None
        now = self.books.clock.now()
        return Placement(
            hold_id=hold_id,
            reservations=tuple(
                self._reservation(what, _tame(amount) if extension else amount)
                for what, amount in wish.amounts
            ),
            expires_at=now + timedelta(seconds=wish.lives_s),
            deadline=now + timedelta(seconds=-1 if wish.is_late else 60),
            path_id=path and path[0],
            path_version=path and path[1],
            fate=wish.fate,
            payee_account=self.menu[3] if wish.fate is Fate.CAPTURE else None,
            extension=extension,
        )

    def _reservation(self, what: int, amount: int) -> Reservation:
        if what < 4:
            asset = (USD_ID, LIMIT_USD_ID, LIMIT_TOKENS_ID, CNY_ID)[what]
            return Reservation(asset_id=asset, quanta=amount)
        account = self.menu[what + 1] if what < 8 else self.menu[-1 if what == 8 else 2]
        return Reservation(asset_id=USD_ID, quanta=amount, account_id=account)

    def posting(self, wish: PostWish) -> Posting:
        """
        Turn a wish into a posting about this business.
        """
        if wish.is_repeat and self.posted:
            return self.posted[wish.hold % len(self.posted)]
        fact_id, ordinal = self.books.ids.mint(), 0
        if wish.kind is not PostingKind.POST and self.hold_ids:
            fact_id = self.hold_ids[wish.hold % len(self.hold_ids)]
        if wish.kind is PostingKind.CAPTURE:
            ordinal = self._ordinals[fact_id] = self._ordinals.get(fact_id, 0) + 1
        now = self.books.clock.now()
        return Posting(
            kind=wish.kind,
            fact_id=fact_id,
            transfers=self._transfers(wish),
            ordinal=ordinal,
            closes=wish.closes,
            deadline=now + timedelta(seconds=-1 if wish.is_late else 60),
        )

    def _transfers(self, wish: PostWish) -> tuple[Transfer, ...]:
        def account(index: int) -> int:
            return NO_ACCOUNT if index < 0 else self.menu[index % len(self.menu)]

        is_alone = wish.kind is PostingKind.POST and len(wish.transfers) == 1
        return tuple(
            Transfer(
                debit=account(d),
                credit=account(c),
                quanta=amount if is_alone else _tame(amount),
                fallback=account(f),
            )
            for d, c, amount, f in wish.transfers
        )

    async def place(self, wishes: Sequence[Placement]) -> None:
        """
        Place one batch on both sides and compare the answers.
        """
        batch = list({wish.hold_id: wish for wish in wishes}.values())
        self.naive.now = self.books.clock.now()
        outcomes = await self.books.writer._batches.place(batch)
        for wish, outcome in zip(batch, outcomes, strict=True):
            self._compare(wish, outcome, self.naive.place(wish))
            if outcome.code == "ok":
                self.placed.append(wish)
                if not wish.extension:
                    self.hold_ids.append(wish.hold_id)

    async def post(self, wishes: Sequence[Posting]) -> None:
        """
        Post one batch on both sides and compare the answers.
        """
        batch = list({wish.fact_id: wish for wish in wishes}.values())
        self.naive.now = self.books.clock.now()
        outcomes = await self.books.writer._batches.post(batch)
        for wish, outcome in zip(batch, outcomes, strict=True):
            self._compare(wish, outcome, self.naive.post(wish))
            if outcome.code == "ok":
                self.posted.append(wish)

    def _compare(self, wish: object, outcome: Outcome, expected: Result) -> None:
        assert outcome.code == expected.code, (wish, outcome, expected)
        assert outcome.overrun == expected.overrun, (wish, outcome, expected)
        assert outcome.refused_account == expected.refused_account, (wish, outcome, expected)
        if outcome.code == "insufficient":
            assert outcome.available == expected.available, (wish, outcome, expected)

    async def stop_scope(self, index: int, state: str) -> None:
        """
        Freeze, close or thaw a scope on both sides.
        """
        scope = self.scopes[index % len(self.scopes)]
        await self.books.ledger.set_scope_state(scope, state)
        self.naive.stopped.pop(scope, None)
        if state != "active":
            self.naive.stopped[scope] = state

    async def set_account_state(self, index: int, state: str) -> None:
        """
        Freeze, close or thaw an account on both sides.
        """
        account = self.menu[index % (len(self.menu) - 1)]
        await self.books.rows(
            "SELECT ledger.set_account_state_v1(%s, %s, %s)", account, state, self.books.clock.now()
        )
        self.naive.accounts[account].state = state

    # ------------------------------------------------------------------ comparing

    async def assert_same(self) -> None:
        """
        Compare every counter and every hold; check the laws on the naive side.
        """
        rows = await self.books.rows(
            "SELECT coalesce(a.main_account_id, a.account_id), sum(debits_pending), "
            "sum(debits_posted), sum(credits_posted) FROM ledger.balances AS b "
            "JOIN ledger.accounts AS a USING (account_id) "
            "WHERE coalesce(a.main_account_id, a.account_id) = ANY (%s) GROUP BY 1",
            list(self.naive.accounts),
        )
        found = {int(row[0]): tuple(int(value) for value in row[1:]) for row in rows}
        expected = {
            number: (account.pending, account.debits, account.credits)
            for number, account in self.naive.accounts.items()
        }
        wrong = {n: (found.get(n), expected[n]) for n in expected if found.get(n) != expected[n]}
        assert not wrong, (self.menu, wrong)
        holds = await self.books.rows(
            "SELECT hold_id, state, expires_at, part_accounts, part_held, part_captured "
            "FROM ledger.holds WHERE hold_id = ANY (%s)",
            list(self.naive.holds),
        )
        assert {row[0]: tuple(row[1:]) for row in holds} == {
            hold_id: (
                hold.state,
                hold.expires_at,
                list(hold.held),
                list(hold.held.values()),
                [hold.captured[account] for account in hold.held],
            )
            for hold_id, hold in self.naive.holds.items()
        }
        self._assert_laws()

    def _assert_laws(self) -> None:
        pending: dict[int, int] = dict.fromkeys(self.naive.accounts, 0)
        for hold in self.naive.holds.values():
            for account in hold.held if hold.state == "open" else ():
                pending[account] += hold.left(account)
        for number, account in self.naive.accounts.items():
            assert account.pending == pending[number], "pending is what open holds have left"
            assert not account.is_short, "no bounded account is below zero"
        money = [account for account in self.naive.accounts.values() if account.asset < 10]
        assert sum(a.debits for a in money) == sum(a.credits for a in money)
