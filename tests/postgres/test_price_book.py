"""
The price book on a real database.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.metering.model import Axis
from tokenworks.postgres.pool import Pool
from tokenworks.pricing.errors import (
    PriceBookUnavailableError,
    PriceConflictError,
    PriceInvalidError,
    PriceMissingError,
    TierUnknownError,
)
from tokenworks.pricing.service import SNAPSHOT_LIFETIME_S, PriceBook
from tokenworks.pricing.tiers import load_tiers

PRICES = {Axis.INPUT: 750_000_000, Axis.OUTPUT: 3_000_000_000}


@pytest.fixture
def book(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> PriceBook:
    """
    An empty price book.
    """
    return PriceBook(pool, clock, ids)


async def test_a_card_is_stored_with_every_axis(book: PriceBook, clock: FakeClock) -> None:
    """
    Defaults become explicit rows, and what is read is what was set.
    """
    card = await book.set_prices("smollm2", "standard", PRICES)
    assert card.effective_at == clock.now()
    assert list(card.prices) == [
        Axis.INPUT,
        Axis.CACHE_READ,
        Axis.CACHE_WRITE_5M,
        Axis.CACHE_WRITE_1H,
        Axis.OUTPUT,
        Axis.REASONING,
    ]
    assert await book.card(card.card_id) == card
    snapshot = await book.snapshot()
    assert snapshot.card("smollm2", "standard", clock.now()) == card


async def test_the_shipped_tiers_can_be_set(book: PriceBook, clock: FakeClock) -> None:
    """
    The catalogue's prices go into the book as they are.
    """
    for tier in load_tiers().values():
        await book.set_prices("smollm2", tier.tier_id, tier.prices)
    snapshot = await book.snapshot()
    assert set(snapshot.tiers("smollm2", clock.now())) == set(load_tiers())
    assert snapshot.card("smollm2", "free", clock.now()).is_free


async def test_the_newest_effective_card_is_in_effect(book: PriceBook, clock: FakeClock) -> None:
    """
    An announced change waits for its moment, also in a snapshot read before it.
    """
    first = await book.set_prices("m", "standard", PRICES)
    later = clock.now() + timedelta(days=1)
    second = await book.set_prices("m", "standard", {**PRICES, Axis.INPUT: 1}, later)
    clock.advance(timedelta(seconds=1))
    snapshot = await book.snapshot()
    assert snapshot.card("m", "standard", clock.now()) == first
    assert snapshot.card("m", "standard", later) == second
    assert await book.card_at("m", "standard", later - timedelta(microseconds=1)) == first
    assert await book.card_at("m", "standard", later) == second
    with pytest.raises(PriceMissingError):
        await book.card_at("m", "standard", first.effective_at - timedelta(seconds=1))


async def test_replaced_cards_stay_readable(book: PriceBook, clock: FakeClock) -> None:
    """
    A receipt's card can be read for ever; the snapshot holds only what can still be sold.
    """
    cards = []
    for nano in (1, 2, 3):
        cards.append(await book.set_prices("m", "standard", {**PRICES, Axis.INPUT: nano}))
        clock.advance(timedelta(seconds=1))
    snapshot = await book.snapshot()
    assert snapshot.cards["m", "standard"] == [cards[2]]
    assert [await book.card(card.card_id) for card in cards] == cards
    listed = await book.list_cards(model="m")
    assert listed == cards[::-1]
    page = await book.list_cards(model="m", rows_max=1, before=listed[0].card_id)
    assert page == [cards[1]]
    assert await book.list_cards(tier="elite") == []
    with pytest.raises(PriceMissingError):
        await book.card(UUID(int=1))


async def test_a_repeat_returns_the_stored_card(book: PriceBook, clock: FakeClock) -> None:
    """
    Setting the same prices for the same moment twice is one card.
    """
    moment = clock.now()
    first = await book.set_prices("m", "standard", PRICES, moment)
    clock.advance(timedelta(seconds=1))
    assert await book.set_prices("m", "standard", PRICES, moment) == first
    with pytest.raises(PriceConflictError):
        await book.set_prices("m", "standard", {**PRICES, Axis.INPUT: 1}, moment)
    assert await book.list_cards() == [first]


async def test_two_writers_of_one_moment_make_one_card(book: PriceBook, clock: FakeClock) -> None:
    """
    Concurrent repeats agree on the card that was first.
    """
    moment = clock.now()
    made = await asyncio.gather(
        *(book.set_prices("m", "standard", PRICES, moment) for _ in range(4))
    )
    assert len({card.card_id for card in made}) == 1


async def test_checks_come_in_their_documented_order(book: PriceBook, clock: FakeClock) -> None:
    """
    Name, tier, prices, time: the first that fails is the one that is told.
    """
    old = clock.now() - timedelta(hours=1)
    with pytest.raises(PriceInvalidError, match="model name"):
        await book.set_prices("a model", "gold", {}, old)
    with pytest.raises(TierUnknownError):
        await book.set_prices("m", "gold", {}, old)
    with pytest.raises(PriceInvalidError, match="lack input and output"):
        await book.set_prices("m", "standard", {}, old)
    for moment in (old, datetime(2999, 1, 1)):  # noqa: DTZ001  without a zone on purpose
        with pytest.raises(PriceInvalidError, match="now or later"):
            await book.set_prices("m", "standard", PRICES, moment)
    assert await book.list_cards() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pricing.prices SET nano_per_million = 0",
        "DELETE FROM pricing.prices",
        "TRUNCATE pricing.rate_cards CASCADE",
        "UPDATE pricing.rate_cards SET effective_at = effective_at - interval '1 day'",
        "DELETE FROM pricing.rate_cards",
    ],
)
async def test_not_even_the_owner_rewrites_a_price(
    book: PriceBook, pool: Pool, statement: str
) -> None:
    """
    History is append only in the database itself.
    """
    card = await book.set_prices("m", "standard", PRICES)
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert await book.card(card.card_id) == card


async def test_nothing_is_added_to_a_card_later(book: PriceBook, pool: Pool) -> None:
    """
    A card is committed whole: a further axis needs a new version.
    """
    card = await book.set_prices("m", "standard", PRICES)
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(
                "INSERT INTO pricing.prices (price_id, card_id, axis, nano_per_million)"
                " VALUES (%s, %s, 'image', 1)",
                (UUID(int=9), card.card_id),
            )
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(
                "INSERT INTO pricing.rate_cards VALUES"
                " (%s, 'm', 'free', 'USD', 'half_even', 2, %s, %s)",
                (UUID(int=8), datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)),
            )


async def test_the_posting_role_may_only_read_and_add(pool: Pool) -> None:
    """
    The running hub has no right to change or remove a price.
    """
    async with pool.connection() as connection:
        rows = await connection.execute(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE grantee = 'tokenworks_posting' AND table_schema = 'pricing'"
        )
        assert set(await rows.fetchall()) == {
            (table, right) for table in ("rate_cards", "prices") for right in ("SELECT", "INSERT")
        }


async def test_the_caller_can_bring_its_transaction(book: PriceBook, pool: Pool) -> None:
    """
    Prices set in a transaction that is rolled back were never set.
    """
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        card = await book.set_prices("m", "standard", PRICES, connection=connection)
    with pytest.raises(PriceMissingError):
        await book.card(card.card_id)


async def test_a_snapshot_is_read_again_when_it_is_old(
    book: PriceBook, pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    What another process sets is seen within the stated lifetime, and own writes at once.
    """
    other = PriceBook(pool, clock, ids)
    empty = await book.snapshot()
    assert empty is await book.snapshot()
    await other.set_prices("m", "standard", PRICES)
    with pytest.raises(PriceMissingError):
        (await book.snapshot()).card("m", "standard", clock.now())
    clock.advance(timedelta(seconds=SNAPSHOT_LIFETIME_S))
    fresh, same = await asyncio.gather(book.snapshot(), book.snapshot())
    assert fresh is same
    assert fresh.card("m", "standard", clock.now())


async def test_a_lost_database_is_a_refusal(book: PriceBook, pool: Pool, clock: FakeClock) -> None:
    """
    Fresh prices are used while they are fresh; afterwards nothing is sold unread.
    """
    await book.set_prices("m", "standard", PRICES)
    await book.snapshot()
    await pool.close()
    assert (await book.snapshot()).card("m", "standard", clock.now())
    clock.advance(timedelta(seconds=SNAPSHOT_LIFETIME_S))
    for _ in range(2):
        with pytest.raises(PriceBookUnavailableError):
            await book.snapshot()
