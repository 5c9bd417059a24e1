"""
The price book: set prices, and give the card in effect.

Order of the checks of ``PriceBook.set_prices``: the model's name, the tier, each price, required
axes, the effective time, then what is already recorded for that moment.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.foundation.money import USD
from tokenworks.metering.model import Axis
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.pricing import store
from tokenworks.pricing.errors import (
    PriceBookUnavailableError,
    PriceConflictError,
    PriceInvalidError,
    PriceMissingError,
)
from tokenworks.pricing.model import Price, RateCard, Rounding, complete_prices
from tokenworks.pricing.tiers import Tier, check_tier, load_tiers

SNAPSHOT_LIFETIME_S: Final = 5.0
"""How long a process may sell by prices it has read; announce changes further ahead."""

BACKDATING_MAX: Final = timedelta(minutes=5)
"""How far back prices may take effect: room for clocks, not for rewriting yesterday."""

_NEVER_FRESH: Final = float("-inf")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSnapshot:
    """
    The cards in effect when it was read, and all that take effect later.
    """

    read_at: datetime
    cards: Mapping[tuple[str, str], Sequence[RateCard]]
    """By (model, tier), the latest effective time first."""

    def card(self, model: str, tier: str, at: datetime) -> RateCard:
        """
        Return the newest card with ``effective_at <= at``, for an ``at`` not before reading.

        Raises:
            PriceMissingError: There is none; the message says what exists instead.
        """
        for card in self.cards.get((model, tier), ()):
            if card.effective_at <= at:
                return card
        raise PriceMissingError(
            self._missing(model, tier, at),
            param="model",
            details={"model": model, "tier": tier, "axes": [Axis.INPUT, Axis.OUTPUT]},
        )

    def tiers(self, model: str, at: datetime) -> list[str]:
        """
        Return the tiers at which ``model`` has prices.
        """
        return [
            tier
            for (name, tier), cards in self.cards.items()
            if name == model and cards[-1].effective_at <= at
        ]

    def _missing(self, model: str, tier: str, at: datetime) -> str:
        missing = f"{model} has no input and output price at tier {tier}"
        later = self.cards.get((model, tier), ())
        if later:
            return f"{missing} before {later[-1].effective_at.isoformat()}."
        tiers = self.tiers(model, at)
        if tiers:
            return f"{missing}; it is priced at {', '.join(tiers)}."
        return f"{missing}, nor at any other tier."


class PriceBook:
    """
    Every price that ever was.

    Args:
        pool: Connections of the posting role.
        clock: Dates new versions and ages the snapshot.
        ids: Names cards and prices.
        tiers: The tiers that exist; the shipped catalogue when omitted.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        ids: IdentifierSource,
        *,
        tiers: Mapping[str, Tier] | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._ids = ids
        self.tiers = load_tiers() if tiers is None else tiers
        self._snapshot: PriceSnapshot | None = None
        self._fresh_until_s = _NEVER_FRESH
        self._reading = asyncio.Lock()

    async def set_prices(
        self,
        model: str,
        tier: str,
        prices: Mapping[Axis, int],
        effective_at: datetime | None = None,
        *,
        connection: Connection | None = None,
    ) -> RateCard:
        """
        Record one new version of all prices of a model at a tier.

        A repeat with the same effective time and the same prices returns the stored version.
        With a ``connection`` the caller's transaction commits it; call ``invalidate`` then.

        Args:
            model: The public name.
            tier: One of ``tiers``.
            prices: Nano-USD per million by axis. Input and output are required; cache read,
                cache writes and reasoning take their price when not given.
            effective_at: From when on; now when omitted.
            connection: Where to write; a transaction of its own when omitted.

        Raises:
            PriceInvalidError: A name, price or time cannot be.
            TierUnknownError: The catalogue has no such tier.
            PriceConflictError: Other prices take effect at exactly this moment.
        """
        card = self._new_card(model, tier, prices, effective_at)
        if connection is not None:
            return await _record(connection, card)
        async with self._connection() as own, own.transaction():
            recorded = await _record(own, card)
        self.invalidate()
        return recorded

    async def watch(self, connection: Connection) -> None:
        """
        Read prices again as soon as another process has set some, until cancelled.

        Args:
            connection: One of its own, outside any pool. When it breaks, the caller opens
                another and calls again.

        Raises:
            psycopg.OperationalError: The connection broke.
        """
        await store.listen(connection)
        self.invalidate()
        async for _ in connection.notifies():
            self.invalidate()

    async def snapshot(self) -> PriceSnapshot:
        """
        Return prices read at most ``SNAPSHOT_LIFETIME_S`` ago; no I/O while they are fresh.

        Raises:
            PriceBookUnavailableError: They are older and cannot be read again.
        """
        if self._snapshot is not None and self._clock.monotonic_s() < self._fresh_until_s:
            return self._snapshot
        async with self._reading:
            if self._snapshot is None or self._clock.monotonic_s() >= self._fresh_until_s:
                # Set before reading: a slow read is an old one, and what is invalidated while
                # it is being read is read again.
                self._snapshot = None
                self._fresh_until_s = self._clock.monotonic_s() + SNAPSHOT_LIFETIME_S
                self._snapshot = await self._read()
            return self._snapshot

    def invalidate(self) -> None:
        """
        Make the next snapshot read the database.
        """
        self._snapshot = None
        self._fresh_until_s = _NEVER_FRESH

    async def card(self, card_id: UUID) -> RateCard:
        """
        Return a version by its id, e.g. the one a receipt names.

        Raises:
            PriceMissingError: There is none.
        """
        async with self._connection() as connection:
            cards = await store.load_cards(connection, [card_id])
        if not cards:
            message = f"There is no rate card {card_id}."
            raise PriceMissingError(message, param="card_id")
        return cards[0]

    async def card_at(self, model: str, tier: str, at: datetime) -> RateCard:
        """
        Return the version that was in effect at any moment, also long ago.

        Raises:
            PriceMissingError: There was none.
        """
        key = {"model": model, "tier": tier, "at": at}
        async with self._connection() as connection:
            cards = await store.find_cards(connection, "select_card_in_effect", key)
        if not cards:
            message = f"{model} had no prices at tier {tier} on {at.isoformat()}."
            raise PriceMissingError(message, param="model")
        return cards[0]

    async def list_cards(
        self,
        *,
        model: str | None = None,
        tier: str | None = None,
        before: UUID | None = None,
        rows_max: int = PAGE_ROWS_DEFAULT,
    ) -> list[RateCard]:
        """
        Return versions from the newest to the oldest.

        Args:
            model: Only of this model.
            tier: Only of this tier.
            before: The last card of the page before.
            rows_max: At most so many, and never more than ``PAGE_ROWS_MAX``.
        """
        page = {
            "model": model,
            "tier": tier,
            "before": before,
            "rows": max(1, min(rows_max, PAGE_ROWS_MAX)),
        }
        async with self._connection() as connection:
            return await store.find_cards(connection, "select_card_page", page)

    def _new_card(
        self, model: str, tier: str, prices: Mapping[Axis, int], effective_at: datetime | None
    ) -> RateCard:
        if not _MODEL.fullmatch(model):
            message = f"{model!r} is no model name: letters, digits and ._:/+- only."
            raise PriceInvalidError(message, param="model")
        check_tier(tier, self.tiers)
        complete = complete_prices(prices)
        now = self._clock.now()
        starts = now if effective_at is None else effective_at
        if starts.tzinfo is None or starts < now - BACKDATING_MAX:
            message = "Prices take effect now or later, at a time that carries its zone."
            raise PriceInvalidError(message, param="effective_at")
        return RateCard(
            card_id=self._ids.mint(),
            model=model,
            tier=tier,
            currency=USD.code,
            prices={
                axis: Price(
                    price_id=self._ids.mint(),
                    model=model,
                    tier=tier,
                    axis=axis,
                    nano_per_million=nano,
                    effective_at=starts,
                    created_at=now,
                )
                for axis, nano in complete.items()
            },
            rounding=Rounding.HALF_EVEN,
            effective_at=starts,
            created_at=now,
        )

    async def _read(self) -> PriceSnapshot:
        now = self._clock.now()
        async with self._connection() as connection:
            found = await store.find_cards(connection, "select_current_cards", {"at": now})
        cards: dict[tuple[str, str], list[RateCard]] = {}
        for card in sorted(found, key=lambda card: card.effective_at, reverse=True):
            cards.setdefault((card.model, card.tier), []).append(card)
        return PriceSnapshot(read_at=now, cards=cards)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout) as error:
            message = "The price book cannot be reached; nothing was changed or sold."
            raise PriceBookUnavailableError(message, retry_after_s=1.0) from error


async def _record(connection: Connection, card: RateCard) -> RateCard:
    if await store.insert_card(connection, card):
        await store.notify(connection)
        return card
    moment = {"model": card.model, "tier": card.tier, "effective_at": card.effective_at}
    stored = (await store.find_cards(connection, "select_card_at_moment", moment))[0]
    if _amounts(stored) != _amounts(card):
        at = card.effective_at.isoformat()
        message = f"Other prices of {card.model} at tier {card.tier} take effect at {at} already."
        raise PriceConflictError(message, param="effective_at")
    return stored


def _amounts(card: RateCard) -> dict[Axis, int]:
    return {axis: price.nano_per_million for axis, price in card.prices.items()}
