"""
Draw limits, and tell which one a next call meets first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenworks.foundation.money import LIMIT_TOKENS
from tokenworks.ledger.model import LimitView
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.limits import LimitScope, LimitShape

UNIT_TOKENS: Final = "tokens"


def to_limit(limit: LimitView, scope: LimitScope) -> LimitShape:
    """
    Return a limit of a scope.
    """
    is_tokens = limit.asset == LIMIT_TOKENS.code
    return LimitShape(
        limit_id=str(limit.limit_id),
        scope=scope,
        amount=amount_text(limit.quanta, limit.asset),
        unit=UNIT_TOKENS if is_tokens else limit.asset.removeprefix("LIMIT."),
        per=limit.window,
        time_zone=limit.time_zone,
        remaining=amount_text(max(limit.remaining, 0), limit.asset),
        resets_at=limit.resets_at,
    )


def tightest(limits: Iterable[LimitView]) -> LimitView | None:
    """
    Return the limit that a next call meets first, as far as that can be known beforehand.

    Of one asset it is the one with the least remaining; money and tokens cannot be compared
    with each other, so between those two the one with the smaller part of itself left.
    """
    least: dict[str, LimitView] = {}
    for limit in limits:
        known = least.get(limit.asset)
        if known is None or limit.remaining < known.remaining:
            least[limit.asset] = limit
    return min(
        least.values(),
        key=lambda limit: (max(limit.remaining, 0) * 10**9 // max(limit.quanta, 1), limit.asset),
        default=None,
    )
