"""
What a reader asks: a model, a GPU, and what the plant is supposed to be; pure.

It stands in the address, so that a link shows the same; anything unknown falls back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from tokenworks.web.console.factory.model import FrontName

GPU_DEFAULT: Final = "b200"
MODEL_DEFAULT: Final = "DeepSeek-V4-Pro"
TEXT_LENGTH_MAX: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """
    One assumption: a number to type, and a slider over the usual values.
    """

    name: str
    label: str
    unit: str
    low: str  # of the slider; what is typed may be beyond it
    high: str
    step: str
    default: str  # empty: the registry's
    hint: str


FIELDS: Final = (
    Field(
        name="utilisation",
        label="Utilisation",
        unit="%",
        low="1",
        high="100",
        step="1",
        default="100",
        hint="Share of the capacity that is sold",
    ),
    Field(
        name="pue",
        label="PUE",
        unit="",
        low="1",
        high="2",
        step="0.01",
        default="1.2",
        hint="Power at the utility's meter over power of the machines",
    ),
    Field(
        name="power",
        label="Power price",
        unit="$/MWh",
        low="-50",
        high="400",
        step="1",
        default="80",
        hint="Markets may go below zero",
    ),
    Field(
        name="capital",
        label="GPU rate",
        unit="$/hour",
        low="0",
        high="8",
        step="0.01",
        default="",
        hint="Of a GPU and its share of the rest, without power; empty: the registry's",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What to compute.
    """

    front: FrontName
    values: Mapping[str, str]  # of ``FIELDS``, as typed

    def value(self, name: str) -> str:
        """
        Return what was typed for a field.
        """
        return self.values[name]

    @property
    def faults(self) -> dict[str, str]:
        """
        Return what is wrong with what was typed, by field.
        """
        return {
            each.name: f"{each.label}: {self.values[each.name]!r} is no number."
            for each in FIELDS
            if _number(self.values[each.name]) is None and (self.values[each.name] or each.default)
        }

    def front_query(self) -> dict[str, str]:
        """
        Return what names the front to the hub.
        """
        front = self.front
        names = {"gpu": front.gpu, "model": front.model}
        return names | {"precision": front.precision, "workload": front.workload}

    def economics_query(self) -> dict[str, str | None]:
        """
        Return what the hub computes with; there must be no fault.
        """
        utilisation = _number(self.values["utilisation"])
        assert utilisation is not None, "a fault is shown, not sent"
        capital = _number(self.values["capital"])
        return {
            **self.front_query(),
            "utilisation": _text(utilisation / 100),
            "pue": _sent(self.values["pue"]),
            "power_usd_per_mwh": _sent(self.values["power"]),
            "capital_usd_per_gpu_hour": None if capital is None else _text(capital),
        }


def read_question(query: Mapping[str, str], names: Sequence[FrontName]) -> Question:
    """
    Return what an address asks; there is at least one front.
    """
    family = query.get("family", "")
    fitting = [name for name in names if name.family == family]
    if not fitting:
        first = _first(names)
        fitting = [name for name in names if name.family == first.family]
    chosen = next((name for name in fitting if name.gpu == query.get("gpu")), None)
    values = {each.name: _typed(query.get(each.name), each) for each in FIELDS}
    return Question(front=chosen or _preferred(fitting), values=values)


def baseline_of(question: Question, names: Sequence[FrontName]) -> Question:
    """
    Return the same model on its usual GPU, with nothing changed.
    """
    family = [name for name in names if name.family == question.front.family]
    return Question(front=_preferred(family), values={each.name: each.default for each in FIELDS})


def _first(names: Sequence[FrontName]) -> FrontName:
    return next((name for name in names if name.model == MODEL_DEFAULT), names[0])


def _preferred(fitting: Sequence[FrontName]) -> FrontName:
    return next((name for name in fitting if name.gpu == GPU_DEFAULT), fitting[0])


def _typed(text: str | None, field: Field) -> str:
    if text is None:
        return field.default
    return text.strip()[:TEXT_LENGTH_MAX] or field.default


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _sent(text: str) -> str:
    number = _number(text)
    assert number is not None, "a fault is shown, not sent"
    return _text(number)


def _text(number: Decimal) -> str:
    """
    Return a number without an exponent, as the hub reads it.
    """
    text = f"{number:.9f}"
    return text.rstrip("0").rstrip(".")
