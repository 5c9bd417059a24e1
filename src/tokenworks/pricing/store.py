"""
The rows of the price book. Each function is one or two statements on the caller's connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final
from uuid import UUID

from tokenworks.metering.model import Axis
from tokenworks.postgres.pool import Connection, Row
from tokenworks.postgres.queries import load
from tokenworks.pricing.model import Price, RateCard, Rounding

_QUERIES: Final = load("tokenworks.pricing")


async def insert_card(connection: Connection, card: RateCard) -> bool:
    """
    Add a version with all its prices; return whether it is new.
    """
    inserted = await connection.execute(
        _QUERIES["insert_card"],
        {
            "card_id": card.card_id,
            "model": card.model,
            "tier": card.tier,
            "currency": card.currency,
            "rounding": card.rounding.value,
            "axis_count": len(card.prices),
            "effective_at": card.effective_at,
            "created_at": card.created_at,
        },
    )
    if inserted.rowcount == 0:
        return False
    prices = card.prices.values()
    await connection.execute(
        _QUERIES["insert_prices"],
        {
            "card_id": card.card_id,
            "price_ids": [price.price_id for price in prices],
            "axes": [price.axis.value for price in prices],
            "nanos": [price.nano_per_million for price in prices],
        },
    )
    return True


async def find_cards(
    connection: Connection, query: str, parameters: Mapping[str, object]
) -> list[RateCard]:
    """
    Return the versions whose ids the named query selects, the newest id first.
    """
    rows = await connection.execute(_QUERIES[query], parameters)
    card_ids = [row[0] for row in await rows.fetchall()]
    return await load_cards(connection, card_ids) if card_ids else []


async def load_cards(connection: Connection, card_ids: Sequence[UUID]) -> list[RateCard]:
    """
    Return the versions with these ids, the newest id first.
    """
    rows = await connection.execute(_QUERIES["select_cards"], {"card_ids": list(card_ids)})
    found = await rows.fetchall()
    return [_card(list(group)) for _, group in groupby(found, key=lambda row: row[0])]


def _card(rows: Sequence[Row]) -> RateCard:
    card_id, model, tier, currency, rounding, effective_at, created_at = rows[0][:7]
    prices = [_price(row, model, tier, effective_at, created_at) for row in rows]
    by_axis = {price.axis: price for price in prices}
    return RateCard(
        card_id=card_id,
        model=model,
        tier=tier,
        currency=currency,
        prices={axis: by_axis[axis] for axis in Axis if axis in by_axis},
        rounding=Rounding(rounding),
        effective_at=effective_at,
        created_at=created_at,
    )


def _price(row: Row, model: str, tier: str, effective_at: datetime, created_at: datetime) -> Price:
    price_id, axis, nano_per_million = row[7:10]
    return Price(
        price_id=price_id,
        model=model,
        tier=tier,
        axis=Axis(axis),
        nano_per_million=nano_per_million,
        effective_at=effective_at,
        created_at=created_at,
    )


async def notify(connection: Connection) -> None:
    """
    Tell every process that watches, at the commit, that prices were set.
    """
    await connection.execute(_QUERIES["notify"])


async def listen(connection: Connection) -> None:
    """
    Subscribe a connection to what ``notify`` says.
    """
    await connection.execute(_QUERIES["listen"])
