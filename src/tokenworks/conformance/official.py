"""
What the official x402 packages do under the same attacks, as `make x402-baseline` counted it.

``official_defaults.json`` is written by that target alone, in one run, and shipped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from importlib import resources
from typing import Final

from tokenworks.conformance.model import Verdict

FILE: Final = "official_defaults.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialDefaults:
    """
    The table and where it came from.
    """

    made_on: date
    x402_version: str
    suite_version: int
    in_parallel: int
    verdicts: dict[str, tuple[Verdict, str]]  # check id -> verdict, because

    @property
    def source(self) -> str:
        """
        Name the table in one sentence.
        """
        return (
            f"Official defaults: x402 {self.x402_version} (Python, exact, EIP-3009) on a local"
            f" chain, {self.in_parallel} at once, counted on {self.made_on} by make x402-baseline."
        )

    def verdict_of(self, check_id: str) -> str:
        """
        Return what the official defaults did, or that nobody looked.
        """
        known = self.verdicts.get(check_id)
        return "not run" if known is None else f"{known[0].replace('_', ' ')}: {known[1]}"


def read_official_defaults() -> OfficialDefaults:
    """
    Return the table that this version ships.
    """
    text = resources.files("tokenworks.conformance").joinpath(FILE).read_text(encoding="utf-8")
    table = json.loads(text)
    return OfficialDefaults(
        made_on=date.fromisoformat(table["made_on"]),
        x402_version=table["versions"]["x402"],
        suite_version=table["suite_version"],
        in_parallel=table["in_parallel"],
        verdicts={
            check_id: (Verdict(row["verdict"]), row["because"])
            for check_id, row in table["facilitator"].items()
        },
    )
