"""
Limits as they leave the hub API.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, Shape


class LimitScope(Shape):
    """
    The party, key or mandate a limit is set on.
    """

    kind: Literal["party", "key", "mandate"]
    id: UUID
    name: str


class LimitShape(Shape):
    """
    A limit and what a new call may still take now.
    """

    limit_id: str
    scope: LimitScope
    amount: Decimal
    unit: str
    per: str
    time_zone: str
    remaining: Decimal
    resets_at: Moment | None


class LimitRemoved(Shape):
    """
    The limit that is no more.
    """

    limit_id: str
    removed: bool = True
