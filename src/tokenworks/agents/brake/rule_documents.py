"""
Rule sets as owners write them: checked against the catalogue's schema, turned into values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match  # pyright: ignore[reportUnknownVariableType] - its stub

from tokenworks.agents.brake.errors import InvalidRulesError
from tokenworks.agents.brake.model import Action
from tokenworks.agents.brake.rule_sets import (
    BurnRate,
    Loop,
    NewPayee,
    Night,
    PriceJump,
    Rule,
    RuleSet,
    ScoreRule,
    Velocity,
)
from tokenworks.catalogue import read_catalogue
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import ASSETS, PPM, quanta_from_text, quanta_to_text

Document: TypeAlias = Mapping[str, Any]

OFF: Final = "off"
TREE: Final = "tree"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRules:
    """
    A rule set as an owner wrote it, with its version.
    """

    party_id: UUID
    version: int
    document: Document
    rules: RuleSet = field(repr=False)
    actor: str
    created_at: datetime


@cache
def default_document() -> Document:
    """
    Return the catalogue's rules, which an organisation without its own is judged by.

    Raises:
        CatalogueError: ``brake.yaml`` does not fit its schema.
    """
    return dict(read_catalogue("brake"))


@cache
def default_rules() -> RuleSet:
    """
    Return the catalogue's rules as values.
    """
    return parse_rules(default_document())


def parse_rules(document: object, *, owner_id: UUID | None = None) -> RuleSet:
    """
    Return the rules that a document states.

    Args:
        document: As its owner wrote it.
        owner_id: Whose payments its rules of a tree count; ``None``: nobody's, each agent's own.

    Raises:
        InvalidRulesError: It breaks the schema; the message says where and why.
    """
    fault = _fault_of(document)
    if fault is not None:
        place = ".".join(str(part) for part in fault.absolute_path)
        says = fault.message
        if fault.validator == "pattern":
            # A pattern says nothing to people; its description does.
            says = f"{fault.instance!r} is not {_described(fault.schema)}"
        message = f"{place or 'the rules'}: {says}."
        raise InvalidRulesError(message, param=place or None)
    content = cast("Document", document)
    currency = str(content.get("currency", "USD"))
    rows = cast("Mapping[str, Document]", content["rules"])
    rules: dict[str, Any] = {name: _RULES[name](row, currency) for name, row in rows.items()}
    two_persons = content.get("two_persons_above")
    if two_persons is not None:
        rules["two_persons_above"] = _quanta(two_persons, currency, "two_persons_above")
    parsed = RuleSet(currency=currency, **rules)
    return replace(parsed, tree_id=owner_id) if parsed.counts_tree else parsed


def _described(schema: object) -> str:
    if not isinstance(schema, Mapping):
        return "allowed"
    return str(cast("Document", schema).get("description", "allowed"))


def to_document(rules: RuleSet) -> Document:
    """
    Return rules as their owner would write them.
    """

    def amount(quanta: int | None) -> str | None:
        scale = ASSETS[rules.currency].scale
        return None if quanta is None else quanta_to_text(quanta, scale=scale)

    rows: dict[str, Document] = {}
    for rule in rules.rules:
        row: dict[str, Any] = {"action": _ACTION_NAMES[rule.action]}
        match rule:
            case _ if not rule.is_on:
                pass
            case Velocity():
                row |= {
                    "payments_per_minute": rule.payments_per_minute,
                    "payments_per_hour": rule.payments_per_hour,
                    "amount_per_minute": amount(rule.quanta_per_minute),
                    "amount_per_hour": amount(rule.quanta_per_hour),
                }
            case NewPayee():
                row["above"] = amount(rule.above_quanta)
                row["new_payees_per_hour"] = rule.new_payees_per_hour
            case PriceJump():
                row |= {"times": rule.times, "after_payments": rule.after_payments}
            case Loop():
                row |= {"times": rule.times, "within_s": rule.within_s}
            case Night():
                row |= {
                    "from": _time(rule.from_minute),
                    "until": _time(rule.until_minute),
                    "time_zone": rule.time_zone,
                    "above": amount(rule.above_quanta),
                }
            case BurnRate():
                row |= {
                    "spent_percent": rule.spent_percent,
                    "window_percent": rule.window_percent,
                }
            case ScoreRule():
                row["above_ppm"] = rule.above_ppm
            case _:
                raise AssertionError(rule)
        if rule.is_on and getattr(rule, "is_tree", False):
            row["scope"] = TREE
        rows[rule.name] = {name: value for name, value in row.items() if value is not None}
    document: dict[str, Any] = {"currency": rules.currency, "rules": rows}
    if rules.two_persons_above is not None:
        document["two_persons_above"] = amount(rules.two_persons_above)
    return document


@cache
def _validator() -> Draft202012Validator:
    text = (
        resources.files("tokenworks.catalogue")
        .joinpath("brake.schema.json")
        .read_text(encoding="utf-8")
    )
    return Draft202012Validator(json.loads(text))


def _fault_of(document: object) -> ValidationError | None:
    faults = cast("Iterator[ValidationError]", _validator().iter_errors(cast("Any", document)))  # pyright: ignore[reportUnknownMemberType] - its stub
    return cast("ValidationError | None", best_match(faults))


_ACTIONS: Final = MappingProxyType({OFF: Action.ALLOW, "hold": Action.HOLD, "deny": Action.DENY})


_ACTION_NAMES: Final = MappingProxyType({action: name for name, action in _ACTIONS.items()})


def _action(row: Document) -> Action:
    return _ACTIONS[row["action"]]


def _quanta(text: str, currency: str, place: str) -> int:
    try:
        return quanta_from_text(text, scale=ASSETS[currency].scale)
    except InvalidError as error:
        raise InvalidRulesError(f"{place}: {error.message}", param=place) from error


def _velocity(row: Document, currency: str) -> Velocity:
    def quanta(name: str) -> int | None:
        return None if name not in row else _quanta(row[name], currency, f"rules.velocity.{name}")

    return Velocity(
        action=_action(row),
        payments_per_minute=row.get("payments_per_minute"),
        payments_per_hour=row.get("payments_per_hour"),
        quanta_per_minute=quanta("amount_per_minute"),
        quanta_per_hour=quanta("amount_per_hour"),
        is_tree=row.get("scope") == TREE,
    )


def _new_payee(row: Document, currency: str) -> NewPayee:
    return NewPayee(
        action=_action(row),
        above_quanta=_quanta(row.get("above", "0"), currency, "rules.new_payee.above"),
        new_payees_per_hour=row.get("new_payees_per_hour"),
        is_tree=row.get("scope") == TREE,
    )


def _price_jump(row: Document, _currency: str) -> PriceJump:
    return PriceJump(
        action=_action(row),
        times=row.get("times", 10),
        after_payments=row.get("after_payments", 3),
    )


def _night(row: Document, currency: str) -> Night:
    zone = str(row.get("time_zone", "UTC"))
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        message = f"rules.night.time_zone: {zone!r} is not a time zone such as Europe/Berlin."
        raise InvalidRulesError(message, param="rules.night.time_zone") from error
    return Night(
        action=_action(row),
        from_minute=_minute(row.get("from", "22:00")),
        until_minute=_minute(row.get("until", "06:00")),
        time_zone=zone,
        above_quanta=_quanta(row.get("above", "0"), currency, "rules.night.above"),
    )


def _time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def _loop(row: Document, _currency: str) -> Loop:
    return Loop(
        action=_action(row),
        times=row.get("times", 10),
        within_s=row.get("within_s", 60),
        is_tree=row.get("scope") == TREE,
    )


def _burn_rate(row: Document, _currency: str) -> BurnRate:
    return BurnRate(
        action=_action(row),
        spent_percent=row.get("spent_percent", 50),
        window_percent=row.get("window_percent", 10),
    )


def _score(row: Document, _currency: str) -> ScoreRule:
    return ScoreRule(action=_action(row), above_ppm=row.get("above_ppm", PPM))


_RULES: Final[Mapping[str, Callable[[Document, str], Rule]]] = MappingProxyType(
    {
        "velocity": _velocity,
        "new_payee": _new_payee,
        "price_jump": _price_jump,
        "loop": _loop,
        "night": _night,
        "burn_rate": _burn_rate,
        "score": _score,
    }
)
