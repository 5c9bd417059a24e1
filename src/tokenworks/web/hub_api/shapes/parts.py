"""
What every shape is made of: times, decimal text, pages, and a party by id and name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer


def to_moment_text(moment: datetime) -> str:
    """
    Return a time as ISO 8601 in UTC with microseconds and a ``Z``.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Moment = Annotated[datetime, PlainSerializer(to_moment_text, return_type=str)]
Decimal = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["12.5"])]


class Shape(BaseModel):
    """
    Anything this API answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


_Item = TypeVar("_Item", bound=Shape)


class Page(Shape, Generic[_Item]):
    """
    One page of a list; ``next_cursor`` is null on the last one.
    """

    items: list[_Item]
    next_cursor: str | None = None


class Items(Shape, Generic[_Item]):
    """
    A list that is always given whole.
    """

    items: list[_Item]


class PartyRef(Shape):
    """
    A party by id and name.
    """

    party_id: UUID
    name: str
