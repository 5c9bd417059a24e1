"""
Turn what the hub said into HTML: templates with every text escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tokenworks.web.console import wording
from tokenworks.web.console.agents import wording as agents_wording
from tokenworks.web.console.factory import wording as factory_wording

_FOLDER: Final = Path(__file__).parent / "templates"

_environment: Final = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS: Final[dict[str, Any]] = {
    "amount": wording.amount_text,
    "units": wording.units_text,
    "rate": wording.rate_text,
    "money": wording.glance_text,
    "price": wording.price_text,
    "number": wording.to_decimal,
    "count": wording.count_text,
    "duration": wording.duration_text,
    "span": wording.span_text,
    "clock": wording.clock_text,
    "day_and_clock": wording.day_and_clock_text,
    "words": wording.words,
    "left": agents_wording.left_text,
    "part": agents_wording.part_of_receipt,
    "share": agents_wording.share_text,
    "names": agents_wording.plain_list,
    "rule": agents_wording.rule_text,
    "window": agents_wording.window_text,
    "ground": agents_wording.ground_text,
    "seconds": agents_wording.lasting_text,
    "pretty": agents_wording.pretty_text,
    "dollars": factory_wording.dollars_text,
    "scaled": factory_wording.scaled_text,
    "percent": factory_wording.percent_text,
    "floor": factory_wording.floor_text,
    "why": factory_wording.why_text,
    "caveats": factory_wording.caveats,
    "boundary": factory_wording.boundary_text,
    "method": factory_wording.method_text,
    "source": factory_wording.source_text,
    "joules": factory_wording.joules_text,
}
_environment.filters.update(_FILTERS)


def render(template: str, **facts: object) -> str:
    """
    Return a template's HTML.
    """
    return _environment.get_template(template).render(**facts)
