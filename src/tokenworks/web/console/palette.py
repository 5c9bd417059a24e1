"""
The console's colours, defined once: style sheets get them as CSS variables, charts as values.

Each pair is (light, dark). Text colours keep at least 4.5:1 on every surface they stand
on, the edges of controls 3:1 (``tests/console/test_palette.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

COLOURS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        # Surfaces, from the back to the front.
        "ground": ("#eef2f3", "#0d1518"),
        "surface": ("#ffffff", "#142024"),
        "raised": ("#f5f8f8", "#1a292e"),
        "line": ("#dbe3e5", "#26383e"),
        "edge": ("#75868b", "#6b838a"),
        # Text.
        "ink": ("#12262c", "#e4eef0"),
        "muted": ("#52666d", "#9bb0b6"),
        "faint": ("#65787e", "#8299a0"),
        # The house colour: water at the works.
        "accent": ("#0b6472", "#5cc5d0"),
        "accent_soft": ("#e0f0f1", "#16363c"),
        "on_accent": ("#ffffff", "#06191c"),
        # States.
        "good": ("#17703f", "#6bcf94"),
        "good_soft": ("#e3f3e9", "#15352a"),
        "warn": ("#8a5200", "#ecb65a"),
        "warn_soft": ("#fdf1dc", "#3a2d14"),
        "bad": ("#ad2b22", "#f29488"),
        "bad_soft": ("#fbe8e5", "#421f1d"),
        # A number that asks for attention.
        "alarm": ("#b3402a", "#f2a488"),
        "on_alarm": ("#ffffff", "#2c0f08"),
        # What cannot be undone.
        "danger": ("#ad2b22", "#f29488"),
        "on_danger": ("#ffffff", "#2c0f0b"),
        # Bars: how far a limit is used.
        "track": ("#dde5e7", "#2a3c42"),
        "bar_spent": ("#0b6472", "#5cc5d0"),
        "bar_held": ("#8f9438", "#8a8632"),
        "bar_low": ("#ad2b22", "#f29488"),
        # Kinds of the value chain.
        "kind_buyer": ("#2f5d8c", "#7fb0e0"),
        "kind_sale": ("#0b6472", "#5cc5d0"),
        "kind_service": ("#0b6472", "#5cc5d0"),
        "kind_tax": ("#7b858a", "#93a3a9"),
        "kind_reseller": ("#b0662a", "#e0a06a"),
        "kind_rights": ("#7a4f96", "#bb97d6"),
        "kind_platform": ("#1d8a8f", "#3fb3b8"),
        "kind_supplier": ("#3b7a57", "#6fbf92"),
        "kind_power": ("#b58a0c", "#e3c152"),
    }
)


def colour(name: str, *, is_dark: bool) -> str:
    """
    Return one colour as a chart needs it.
    """
    return COLOURS[name][is_dark]


def css_variables() -> str:
    """
    Return the rule that defines every colour for style sheets, both schemes in one.
    """
    lines = [
        f"  --{name.replace('_', '-')}: light-dark({light}, {dark});"
        for name, (light, dark) in COLOURS.items()
    ]
    return "\n".join([":root {", "  color-scheme: light dark;", *lines, "}"]) + "\n"
