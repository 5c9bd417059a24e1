"""
What one call took: the last signed addendum of its receipt.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tokenworks.web.console.model import Document
from tokenworks.web.console.seal import Seal, read_seal


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """
    Joules of the call, in whole microjoules.
    """

    energy_uj: str
    prefill_uj: str = "0"
    decode_uj: str = "0"
    context_uj: str | None = None  # told by a step log alone, here and below
    residency_uj: str | None = None
    method: str = ""
    source: str = ""
    boundary: str = ""
    is_whole: bool = False


class Emissions(msgspec.Struct, frozen=True, kw_only=True):
    """
    What that energy emitted, by the operator's grid factor.
    """

    co2e_ug: str
    g_per_kwh: str = ""
    source: str = ""
    method: str = ""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was signed.
    """

    number: int
    energy: Energy
    emissions: Emissions | None = None


class Addendum(msgspec.Struct, frozen=True, kw_only=True):
    """
    A statement with its signature.
    """

    addendum: Statement
    jws: str


class Addenda(msgspec.Struct, frozen=True, kw_only=True):
    """
    The first one first; the last one counts.
    """

    items: tuple[Addendum, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnergy:
    """
    What the page of a call shows.
    """

    statement: Statement
    seal: Seal | None

    @property
    def is_measured(self) -> bool:
        """
        Return whether a meter said so, and not a model.
        """
        return self.statement.energy.source == "measured"

    @property
    def methods(self) -> list[str]:
        """
        Return how intervals were divided; a call may lie in several.
        """
        return self.statement.energy.method.split("+")


def read_energy(addenda: Addenda | None, published: Document | None) -> CallEnergy | None:
    """
    Return what counts; ``None`` when nothing is known of the call's energy yet.
    """
    if addenda is None or not addenda.items:
        return None
    last = addenda.items[-1]
    return CallEnergy(statement=last.addendum, seal=read_seal(last.jws, published))
