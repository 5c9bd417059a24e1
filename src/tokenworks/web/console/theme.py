"""
Light, dark, or as the reader's system says: a cookie without meaning to anyone else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

COOKIE_NAME: Final = "tokenworks_theme"
COOKIE_LIFETIME_S: Final = 365 * 86_400


class Theme(StrEnum):
    """
    Which colours a reader wants.
    """

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"

    @property
    def next(self) -> Theme:
        """
        Return what the button changes to.
        """
        themes = list(Theme)
        return themes[(themes.index(self) + 1) % len(themes)]

    @property
    def is_dark(self) -> bool | None:
        """
        Return whether colours are dark; ``None`` when the browser must say.
        """
        return None if self is Theme.SYSTEM else self is Theme.DARK


def to_theme(text: str | None) -> Theme:
    """
    Return the theme of a cookie or a form; anything unknown is the system's.
    """
    try:
        return Theme(text or "")
    except ValueError:
        return Theme.SYSTEM
