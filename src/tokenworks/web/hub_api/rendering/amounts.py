"""
Draw an amount as decimal text.
"""

from __future__ import annotations

from tokenworks.foundation.money import ASSETS, quanta_to_text


def amount_text(quanta: int, asset: str) -> str:
    """
    Return quanta of an asset as decimal text in whole units.
    """
    # A currency's limit asset counts in the currency's own quanta.
    known = ASSETS.get(asset) or ASSETS.get(asset.removeprefix("LIMIT."))
    assert known is not None, f"the asset {asset} is known"
    return quanta_to_text(quanta, scale=known.scale)
