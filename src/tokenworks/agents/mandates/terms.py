"""
Check terms, and write and read them as JSON: one shape for signatures, doors and the database.

Reading fails closed: an unknown field is refused, because it may be a narrowing that nobody
here would obey.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.mandates.errors import InvalidTermsError
from tokenworks.agents.mandates.model import (
    MANDATE_DEPTH_MAX,
    TERMS_LIST_MAX,
    CountLimit,
    MoneyLimit,
    Terms,
    Window,
)
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import ASSETS, QUANTA_MAX, quanta_from_text, quanta_to_text

TERM_TEXT_MAX: Final = 200
"""Characters of one entry of a list, and of a reference."""

_MODEL: Final = re.compile(r"[^\s@]{1,160}(@[a-z][a-z0-9_]{0,31})?")


class _MoneyLimitShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    window: Window
    amount: str


class _CountLimitShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    window: Window
    payments: int


class TermsShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Terms as JSON; amounts are decimal text of whole units, times carry their offset.
    """

    currency: str
    amount_min: str | None = None
    amount_max: str | None = None
    budgets: tuple[_MoneyLimitShape, ...] = ()
    counts: tuple[_CountLimitShape, ...] = ()
    payee_budgets: tuple[_MoneyLimitShape, ...] = ()
    payees: tuple[UUID, ...] | None = None
    instruments: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    not_before: str | None = None
    not_after: str | None = None
    reference: str | None = None
    tools: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    delegations_max: int = 0


def check_terms(terms: Terms) -> None:
    """
    Refuse terms that break a rule, field by field in the order of ``Terms``.

    Raises:
        InvalidTermsError: ``param`` names the field.
    """
    if f"LIMIT.{terms.currency}" not in ASSETS:
        raise _invalid("currency", f"Mandates are not made in {terms.currency!r}.")
    for field in ("amount_min", "amount_max"):
        _check_amount(field, getattr(terms, field), least=0)
    least, most = terms.amount_min, terms.amount_max
    if least is not None and most is not None and least > most:
        raise _invalid("amount_max", "The largest amount is smaller than the smallest one.")
    for field in ("budgets", "payee_budgets"):
        limits: tuple[MoneyLimit, ...] = getattr(terms, field)
        _check_windows(field, [limit.window for limit in limits])
        for limit in limits:
            _check_amount(field, limit.quanta, least=1)
    _check_windows("counts", [limit.window for limit in terms.counts])
    for limit in terms.counts:
        if not 1 <= limit.payments <= QUANTA_MAX:
            raise _invalid("counts", "A count is one or more.")
    _check_list("payees", terms.payees)
    for field in ("instruments", "providers", "tools", "models"):
        texts: frozenset[str] | None = getattr(terms, field)
        _check_list(field, texts)
        for text in texts or ():
            _check_text(field, text)
    for model in terms.models or ():
        if not _MODEL.fullmatch(model):
            raise _invalid("models", f"{model!r} is no model; write 'model' or 'model@tier'.")
    _check_times(terms)
    if terms.reference is not None:
        _check_text("reference", terms.reference)
    if not 0 <= terms.delegations_max < MANDATE_DEPTH_MAX:
        message = f"Delegations are 0 to {MANDATE_DEPTH_MAX - 1} levels deep."
        raise _invalid("delegations_max", message)


def terms_to_shape(terms: Terms) -> TermsShape:
    """
    Return terms as they are written; lists in one order, so that equal terms read equal.
    """
    scale = ASSETS[f"LIMIT.{terms.currency}"].scale

    def text(quanta: int | None) -> str | None:
        return None if quanta is None else quanta_to_text(quanta, scale=scale)

    def budgets(limits: tuple[MoneyLimit, ...]) -> tuple[_MoneyLimitShape, ...]:
        return tuple(
            _MoneyLimitShape(limit.window, quanta_to_text(limit.quanta, scale=scale))
            for limit in limits
        )

    return TermsShape(
        currency=terms.currency,
        amount_min=text(terms.amount_min),
        amount_max=text(terms.amount_max),
        budgets=budgets(terms.budgets),
        counts=tuple(_CountLimitShape(limit.window, limit.payments) for limit in terms.counts),
        payee_budgets=budgets(terms.payee_budgets),
        payees=None if terms.payees is None else tuple(sorted(terms.payees)),
        instruments=_sorted(terms.instruments),
        providers=_sorted(terms.providers),
        not_before=moment_to_text(terms.not_before),
        not_after=moment_to_text(terms.not_after),
        reference=terms.reference,
        tools=_sorted(terms.tools),
        models=_sorted(terms.models),
        delegations_max=terms.delegations_max,
    )


def terms_to_json(terms: Terms) -> bytes:
    """
    Return terms as JSON text.
    """
    return msgspec.json.encode(terms_to_shape(terms))


def terms_from_json(content: bytes | str) -> Terms:
    """
    Read and check terms from JSON text.

    Raises:
        InvalidTermsError: Not such JSON, an unknown field, or a rule is broken.
    """
    try:
        shape = msgspec.json.decode(content, type=TermsShape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidTermsError(f"The terms cannot be read: {error}.", param="terms") from error
    return terms_from_shape(shape)


def terms_from_object(content: Any) -> Terms:  # noqa: ANN401 - decoded JSON
    """
    Read and check terms from decoded JSON.

    Raises:
        InvalidTermsError: An unknown field, a wrong type, or a rule is broken.
    """
    try:
        shape = msgspec.convert(content, type=TermsShape)
    except msgspec.ValidationError as error:
        raise InvalidTermsError(f"The terms cannot be read: {error}.", param="terms") from error
    return terms_from_shape(shape)


def terms_from_shape(shape: TermsShape) -> Terms:
    """
    Return what a shape says, checked.

    Raises:
        InvalidTermsError: A rule is broken; ``param`` names the field.
    """
    asset = ASSETS.get(f"LIMIT.{shape.currency}")
    if asset is None:
        raise _invalid("currency", f"Mandates are not made in {shape.currency!r}.")

    def quanta(field: str, text: str | None) -> int:
        try:
            return quanta_from_text(text or "", scale=asset.scale)
        except InvalidError as error:
            raise InvalidTermsError(error.message, code=error.code, param=field) from error

    def budgets(field: str, limits: Iterable[_MoneyLimitShape]) -> tuple[MoneyLimit, ...]:
        return tuple(
            MoneyLimit(window=limit.window, quanta=quanta(field, limit.amount)) for limit in limits
        )

    terms = Terms(
        currency=shape.currency,
        amount_min=None if shape.amount_min is None else quanta("amount_min", shape.amount_min),
        amount_max=None if shape.amount_max is None else quanta("amount_max", shape.amount_max),
        budgets=budgets("budgets", shape.budgets),
        counts=tuple(CountLimit(window=c.window, payments=c.payments) for c in shape.counts),
        payee_budgets=budgets("payee_budgets", shape.payee_budgets),
        payees=_frozen("payees", shape.payees),
        instruments=_frozen("instruments", shape.instruments),
        providers=_frozen("providers", shape.providers),
        not_before=moment_from_text("not_before", shape.not_before),
        not_after=moment_from_text("not_after", shape.not_after),
        reference=shape.reference,
        tools=_frozen("tools", shape.tools),
        models=_frozen("models", shape.models),
        delegations_max=shape.delegations_max,
    )
    check_terms(terms)
    return terms


def moment_to_text(moment: datetime | None) -> str | None:
    """
    Return a moment in UTC, ``2026-01-31T12:00:00Z``.
    """
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def moment_from_text(field: str, text: str | None) -> datetime | None:
    """
    Read a moment that names its offset, as UTC.

    Raises:
        InvalidTermsError: No moment, or without an offset: nobody knows whose noon it is.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no moment such as 2026-01-31T12:00:00Z."
        raise _invalid(field, message) from error
    if moment.tzinfo is None:
        raise _invalid(field, f"{text!r} names no offset; write Z, or one such as +01:00.")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise _invalid(field, f"{text!r} is out of range.") from error


def _frozen(field: str, entries: Sequence[Any] | None) -> frozenset[Any] | None:
    if entries is None:
        return None
    # Counted before they are gathered: a repeated entry counts too.
    if len(entries) > TERMS_LIST_MAX:
        raise _invalid(field, f"A list has at most {TERMS_LIST_MAX} entries.")
    return frozenset(entries)


def _sorted(entries: frozenset[str] | None) -> tuple[str, ...] | None:
    return None if entries is None else tuple(sorted(entries))


def _check_amount(field: str, quanta: int | None, *, least: int) -> None:
    if quanta is None:
        return
    if quanta < least:
        message = "An amount is more than zero." if least else "An amount is zero or more."
        raise _invalid(field, message)
    if quanta > QUANTA_MAX:
        raise _invalid(field, "The amount is larger than the ledger can move at once.")


def _check_windows(field: str, windows: Sequence[Window]) -> None:
    if len(set(windows)) != len(windows):
        raise _invalid(field, "There is one limit for each window, not two.")


def _check_list(field: str, entries: frozenset[Any] | None) -> None:
    if entries is None:
        return
    if not entries:
        raise _invalid(field, "An empty list allows nothing; name an entry, or leave it out.")
    if len(entries) > TERMS_LIST_MAX:
        raise _invalid(field, f"A list has at most {TERMS_LIST_MAX} entries.")


def _check_text(field: str, text: str) -> None:
    if not 1 <= len(text) <= TERM_TEXT_MAX or not text.isprintable():
        raise _invalid(field, f"An entry is 1 to {TERM_TEXT_MAX} printable characters.")


def _check_times(terms: Terms) -> None:
    for field, moment in (("not_before", terms.not_before), ("not_after", terms.not_after)):
        if moment is not None and moment.tzinfo is None:
            raise _invalid(field, "A moment names its time zone.")
    if terms.not_before and terms.not_after and terms.not_after <= terms.not_before:
        raise _invalid("not_after", "The mandate would end before it begins.")


def _invalid(field: str, message: str) -> InvalidTermsError:
    return InvalidTermsError(message, param=field)
