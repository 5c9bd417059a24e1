"""
Translate AP2 v0.2's open payment mandate (``mandate.payment.open.1``) and back.

Fails closed: a constraint, or a field of one, that is not known here narrows something nobody
would obey, so it is refused, and so is a mandate with undisclosed claims. AP2's amounts are in
minor units of ISO 4217; the text of the standard and its examples disagree about budgets, so
one that is no whole number of minor units is refused instead of guessed.

==================  ====================================================================
AP2                 here
==================  ====================================================================
amount_range        ``amount_min``, ``amount_max``
budget              ``budgets`` with ``EVER``
agent_recurrence    one payment in each period, ``max_occurrences`` in all: ``counts``.
                    Two weeks are no calendar window: ``BIWEEKLY`` is refused
allowed_payees      ``payees``: the caller says which party each merchant id is; a name
                    is never trusted
..instruments       ``instruments`` by id
allowed_pisps       ``providers`` by domain name
execution_date      ``not_before``, ``not_after``; a date without time is that whole day, UTC
reference           ``reference``
==================  ====================================================================

Signatures are ``ap2_signed``'s; claims that come without one are labelled so where they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec

from tokenworks.agents.mandates.errors import Ap2RefusedError
from tokenworks.agents.mandates.model import (
    TERMS_LIST_MAX,
    CountLimit,
    MoneyLimit,
    Terms,
    Window,
)
from tokenworks.agents.mandates.signing import moment_of
from tokenworks.agents.mandates.terms import check_terms, moment_to_text
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import ASSETS

OPEN_PAYMENT_MANDATE: Final = "mandate.payment.open.1"
MINOR_DIGITS: Final = {"USD": 2, "CNY": 2}
"""ISO 4217's minor units of the currencies that the hub keeps books in."""

_IGNORED: Final = frozenset({"risk_data", "iss", "jti", "id", "aud", "sub", "_sd_alg", "cnf"})
"""Claims that allow and forbid nothing: who says it, and what it says about risk."""


class _Merchant(msgspec.Struct, frozen=True):
    id: str
    name: str = ""
    website: str | None = None


class _Instrument(msgspec.Struct, frozen=True):
    id: str
    type: str = ""
    description: str | None = None


class _Pisp(msgspec.Struct, frozen=True):
    domain_name: str
    legal_name: str = ""
    brand_name: str = ""


class _Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: int
    currency: str


class _AmountRange(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.amount_range"
):
    currency: str
    max: int
    min: int | None = None


class _Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.budget"):
    max: int | float
    currency: str


class _Recurrence(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.agent_recurrence"
):
    frequency: str
    max_occurrences: int | None = None


class _Payees(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.allowed_payees"
):
    allowed: list[_Merchant]


class _Instruments(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag="payment.allowed_payment_instruments",
):
    allowed: list[_Instrument]


class _Pisps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.allowed_pisps"):
    allowed: list[_Pisp]


class _ExecutionDate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.execution_date"
):
    not_before: str | None = None
    not_after: str | None = None


class _Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="payment.reference"):
    conditional_transaction_id: str


_Constraint = (
    _AmountRange
    | _Budget
    | _Recurrence
    | _Payees
    | _Instruments
    | _Pisps
    | _ExecutionDate
    | _Reference
)


class _OpenMandate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vct: Literal["mandate.payment.open.1"]
    constraints: list[_Constraint]
    iat: int | None = None
    exp: int | None = None
    # What is set beforehand binds as much as a constraint.
    payee: _Merchant | None = None
    payment_amount: _Money | None = None
    payment_instrument: _Instrument | None = None
    pisp: _Pisp | None = None
    execution_date: str | None = None
    transaction_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedMandate:
    """
    What an AP2 mandate means here.
    """

    terms: Terms
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMandate:
    """
    Terms as AP2 can say them, and what it cannot.
    """

    document: Mapping[str, object]
    not_expressed: tuple[str, ...]
    """Fields that AP2 cannot say, or only roughly; the hub obeys them all the same."""


_WINDOWS: Final[Mapping[str, Window]] = {
    "DAILY": Window.DAY,
    "WEEKLY": Window.WEEK,
    "MONTHLY": Window.MONTH,
    "QUARTERLY": Window.QUARTER,
    "ANNUALLY": Window.YEAR,
}
_FREQUENCIES: Final = {window: frequency for frequency, window in _WINDOWS.items()}

_Value = TypeVar("_Value")


def merchants_of(document: Mapping[str, object]) -> tuple[str, ...]:
    """
    Return the ids of the merchants that an AP2 mandate allows, each once.

    Raises:
        Ap2RefusedError: It is not understood whole.
    """
    mandate = _read(document)
    named = [] if mandate.payee is None else [mandate.payee]
    for constraint in mandate.constraints:
        if isinstance(constraint, _Payees):
            named.extend(constraint.allowed)
    if len(named) > TERMS_LIST_MAX:
        # Each is looked up.
        raise _refused(f"A mandate names at most {TERMS_LIST_MAX} merchants.")
    return tuple(dict.fromkeys(merchant.id for merchant in named))


def from_ap2(document: Mapping[str, object], *, payees: Mapping[str, UUID]) -> ImportedMandate:
    """
    Return what an open payment mandate means here.

    Args:
        document: Its claims, as JSON, all of them disclosed.
        payees: Which party each merchant id of it is.

    Raises:
        Ap2RefusedError: It is not understood whole, or cannot be kept here.
        InvalidTermsError: Its terms break a rule of mandates.
    """
    mandate = _read(document)
    seen: set[type] = set()
    terms = Terms(currency=_currency_of(mandate))
    for constraint in mandate.constraints:
        if type(constraint) in seen:
            raise _refused(f"The constraint {_name(constraint)} stands there twice.")
        seen.add(type(constraint))
        terms = _applied(terms, constraint, payees)
    terms = _with_presets(terms, mandate, payees)
    check_terms(terms)
    expires_at = None
    if mandate.exp is not None:
        try:
            expires_at = moment_of(mandate.exp)
        except (ValueError, OverflowError, OSError) as error:
            raise _refused("The claim exp is no moment in seconds.") from error
    return ImportedMandate(terms=terms, expires_at=expires_at)


def to_ap2(
    terms: Terms, *, issued_at: datetime, expires_at: datetime | None, names: Mapping[UUID, str]
) -> ExportedMandate:
    """
    Return terms as an open payment mandate; an amount that is said is never wider.

    Args:
        terms: What is to be said.
        issued_at: When it was issued.
        expires_at: When it ends.
        names: Names of the payees, for people.
    """
    lost: list[str] = []
    constraints: list[dict[str, object]] = []
    currency = terms.currency
    quantum = _quanta_per_minor(currency)
    if terms.amount_max is not None or terms.amount_min is not None:
        constraints.extend(_range_of(terms, quantum, lost))
    for limit in terms.budgets:
        if limit.window is Window.EVER and limit.quanta >= quantum:
            most = limit.quanta // quantum
            constraints.append({"type": "payment.budget", "max": most, "currency": currency})
            lost.extend(["budgets"] if limit.quanta % quantum else [])
        else:
            lost.append("budgets")
    constraints.extend(_recurrence_of(terms, lost))
    if terms.payees is not None:
        allowed = [
            {"id": str(payee), "name": names.get(payee, str(payee))}
            for payee in sorted(terms.payees)
        ]
        constraints.append({"type": "payment.allowed_payees", "allowed": allowed})
    if terms.instruments is not None:
        allowed = [{"id": name, "type": "network"} for name in sorted(terms.instruments)]
        constraints.append({"type": "payment.allowed_payment_instruments", "allowed": allowed})
    if terms.providers is not None:
        allowed = [
            {"domain_name": name, "legal_name": name, "brand_name": name}
            for name in sorted(terms.providers)
        ]
        constraints.append({"type": "payment.allowed_pisps", "allowed": allowed})
    if terms.not_before is not None or terms.not_after is not None:
        dates = {"not_before": terms.not_before, "not_after": terms.not_after}
        texts = {field: moment_to_text(moment) for field, moment in dates.items() if moment}
        constraints.append({"type": "payment.execution_date", **texts})
    if terms.reference is not None:
        constraints.append(
            {"type": "payment.reference", "conditional_transaction_id": terms.reference}
        )
    lost.extend(field for field in ("payee_budgets", "tools", "models") if getattr(terms, field))
    document: dict[str, object] = {
        "vct": OPEN_PAYMENT_MANDATE,
        "constraints": constraints,
        "iat": int(issued_at.timestamp()),
    }
    if expires_at is not None:
        document["exp"] = int(expires_at.timestamp())
    return ExportedMandate(document=document, not_expressed=tuple(dict.fromkeys(lost)))


def _read(document: Mapping[str, object]) -> _OpenMandate:
    if document.get("_sd") or document.get("..."):
        raise _refused("The mandate has claims that are not disclosed; disclose them all.")
    vct = document.get("vct")
    if vct != OPEN_PAYMENT_MANDATE:
        raise _refused(f"The claim vct is {vct!r}; only {OPEN_PAYMENT_MANDATE} is imported.")
    claims = {name: value for name, value in document.items() if name not in _IGNORED}
    try:
        return msgspec.convert(claims, type=_OpenMandate)
    except msgspec.ValidationError as error:
        raise _refused(f"The AP2 mandate is not understood whole: {error}.") from error


def _currency_of(mandate: _OpenMandate) -> str:
    named = {c.currency for c in mandate.constraints if isinstance(c, _AmountRange | _Budget)}
    if mandate.payment_amount is not None:
        named.add(mandate.payment_amount.currency)
    if len(named) > 1:
        raise _refused("The amounts are in more than one currency.")
    currency = named.pop() if named else next(iter(MINOR_DIGITS))
    if currency not in MINOR_DIGITS:
        raise _refused(f"The hub keeps no books in {currency!r}.", param="currency")
    return currency


def _applied(terms: Terms, constraint: _Constraint, payees: Mapping[str, UUID]) -> Terms:
    match constraint:
        case _AmountRange():
            least = constraint.min
            return replace(
                terms,
                amount_min=None if least is None else _quanta(least, terms.currency, "min"),
                amount_max=_quanta(constraint.max, terms.currency, "max"),
            )
        case _Budget():
            quanta = _quanta(constraint.max, terms.currency, "budget")
            return replace(terms, budgets=(MoneyLimit(window=Window.EVER, quanta=quanta),))
        case _Recurrence():
            return replace(terms, counts=_counts(constraint))
        case _Payees():
            return replace(terms, payees=_payees(constraint.allowed, payees))
        case _Instruments():
            return replace(terms, instruments=frozenset(i.id for i in constraint.allowed))
        case _Pisps():
            return replace(terms, providers=frozenset(p.domain_name for p in constraint.allowed))
        case _ExecutionDate():
            return replace(
                terms,
                not_before=_moment(constraint.not_before, is_end=False),
                not_after=_moment(constraint.not_after, is_end=True),
            )
        case _Reference():
            return replace(terms, reference=constraint.conditional_transaction_id)


def _with_presets(terms: Terms, mandate: _OpenMandate, payees: Mapping[str, UUID]) -> Terms:
    if mandate.payee is not None:
        only = _payees([mandate.payee], payees)
        terms = replace(terms, payees=_narrowed("payee", terms.payees, only))
    if mandate.payment_amount is not None:
        quanta = _quanta(mandate.payment_amount.amount, terms.currency, "payment_amount")
        least, most = terms.amount_min, terms.amount_max
        if (least is not None and quanta < least) or (most is not None and quanta > most):
            raise _refused("The claim payment_amount is outside payment.amount_range.")
        terms = replace(terms, amount_min=quanta, amount_max=quanta)
    if mandate.payment_instrument is not None:
        only = frozenset({mandate.payment_instrument.id})
        narrowed = _narrowed("payment_instrument", terms.instruments, only)
        terms = replace(terms, instruments=narrowed)
    if mandate.pisp is not None:
        only = frozenset({mandate.pisp.domain_name})
        terms = replace(terms, providers=_narrowed("pisp", terms.providers, only))
    if mandate.execution_date is not None:
        begins = _moment(mandate.execution_date, is_end=False)
        ends = _moment(mandate.execution_date, is_end=True)
        terms = replace(
            terms,
            not_before=_pick(max, terms.not_before, begins),
            not_after=_pick(min, terms.not_after, ends),
        )
    if mandate.transaction_id is not None:
        if terms.reference not in {None, mandate.transaction_id}:
            raise _refused("The claim transaction_id is not the one of payment.reference.")
        terms = replace(terms, reference=mandate.transaction_id)
    return terms


def _narrowed(
    claim: str, allowed: frozenset[_Value] | None, only: frozenset[_Value]
) -> frozenset[_Value]:
    if allowed is not None and not only <= allowed:
        raise _refused(f"The claim {claim} is not among those its constraint allows.")
    return only


def _pick(
    choose: Callable[[datetime, datetime], datetime], one: datetime | None, other: datetime | None
) -> datetime | None:
    if one is None or other is None:
        return one or other
    return choose(one, other)


def _counts(recurrence: _Recurrence) -> tuple[CountLimit, ...]:
    counts: list[CountLimit] = []
    if recurrence.frequency in _WINDOWS:
        counts.append(CountLimit(window=_WINDOWS[recurrence.frequency], payments=1))
    elif recurrence.frequency != "ON_DEMAND":
        known = ", ".join(("ON_DEMAND", *_WINDOWS))
        message = (
            f"The frequency {recurrence.frequency!r} fits no calendar window; kept here are: "
            f"{known}."
        )
        raise _refused(message, param="frequency")
    if recurrence.max_occurrences is not None:
        counts.append(CountLimit(window=Window.EVER, payments=recurrence.max_occurrences))
    return tuple(counts)


def _payees(merchants: list[_Merchant], payees: Mapping[str, UUID]) -> frozenset[UUID]:
    missing = sorted({merchant.id for merchant in merchants} - set(payees))
    if missing:
        names = ", ".join(repr(name) for name in missing[:10])
        message = f"Say which party each merchant is; not said for: {names}."
        raise _refused(message, param="payees", details={"merchants": missing[:100]})
    return frozenset(payees[merchant.id] for merchant in merchants)


def _quanta(minor: float, currency: str, field: str) -> int:
    if isinstance(minor, float):
        if not minor.is_integer() or abs(minor) > 2**53:
            message = f"{field}: {minor!r} is no whole number of {currency}'s minor units."
            raise _refused(message, param=field)
        minor = int(minor)
    return minor * _quanta_per_minor(currency)


def _quanta_per_minor(currency: str) -> int:
    return 10 ** (ASSETS[currency].scale - MINOR_DIGITS[currency])


def _moment(text: str | None, *, is_end: bool) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-31"):
            day = date.fromisoformat(text) + timedelta(days=1 if is_end else 0)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            message = f"The execution date {text!r} names no offset; nobody knows whose noon it is."
            raise _refused(message, param="execution_date")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"The execution date {text!r} is no date or moment of ISO 8601."
        raise _refused(message, param="execution_date") from error


def _range_of(terms: Terms, quantum: int, lost: list[str]) -> list[dict[str, object]]:
    if terms.amount_max is None or terms.amount_max < quantum:
        # AP2's range has a largest amount always, and none below one minor unit.
        lost.extend(f for f in ("amount_min", "amount_max") if getattr(terms, f) is not None)
        return []
    entry: dict[str, object] = {
        "type": "payment.amount_range",
        "currency": terms.currency,
        "max": terms.amount_max // quantum,
    }
    lost.extend(["amount_max"] if terms.amount_max % quantum else [])
    if terms.amount_min is not None:
        entry["min"] = -(-terms.amount_min // quantum)
        lost.extend(["amount_min"] if terms.amount_min % quantum else [])
    return [entry]


def _recurrence_of(terms: Terms, lost: list[str]) -> list[dict[str, object]]:
    ever = [limit.payments for limit in terms.counts if limit.window is Window.EVER]
    once = [c for c in terms.counts if c.payments == 1 and c.window in _FREQUENCIES]
    if len(terms.counts) > len(ever) + len(once[:1]):
        lost.append("counts")
    if not ever and not once:
        return []
    frequency = _FREQUENCIES[once[0].window] if once else "ON_DEMAND"
    entry: dict[str, object] = {"type": "payment.agent_recurrence", "frequency": frequency}
    if ever:
        entry["max_occurrences"] = ever[0]
    return [entry]


def _name(constraint: _Constraint) -> str:
    return str(msgspec.to_builtins(constraint)["type"])


def _refused(
    message: str, *, param: str | None = None, details: dict[str, object] | None = None
) -> InvalidError:
    return Ap2RefusedError(message, param=param, details=details)
