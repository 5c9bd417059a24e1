"""
Judge whether a child's terms are within its parent's, field by field.

``None`` and empty limits do not narrow further: the parent's own stay in force, because every
mandate of a chain is judged. What a child states must be within what its parent states.
A limit over a window is compared with the parent's limits over the same and over longer
windows that contain it whole; a week lies in no month.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, TypeVar

from tokenworks.agents.mandates.errors import MandateNotAttenuatedError, MandateTooDeepError
from tokenworks.agents.mandates.judging import allows_model
from tokenworks.agents.mandates.model import (
    MANDATE_DEPTH_MAX,
    Mandate,
    MoneyLimit,
    Terms,
    Window,
)

Bound = TypeVar("Bound")

CONTAINED_IN: Final[dict[Window, frozenset[Window]]] = {
    Window.MINUTE: frozenset(Window),
    Window.HOUR: frozenset(Window) - {Window.MINUTE},
    Window.DAY: frozenset(Window) - {Window.MINUTE, Window.HOUR},
    Window.WEEK: frozenset({Window.WEEK, Window.EVER}),
    Window.MONTH: frozenset({Window.MONTH, Window.QUARTER, Window.YEAR, Window.EVER}),
    Window.QUARTER: frozenset({Window.QUARTER, Window.YEAR, Window.EVER}),
    Window.YEAR: frozenset({Window.YEAR, Window.EVER}),
    Window.EVER: frozenset({Window.EVER}),
}
"""The windows in which one of the key lies whole, itself included."""


def check_attenuated(child: Terms, parent: Terms) -> None:
    """
    Refuse terms that state more than their parent's.

    Raises:
        MandateNotAttenuatedError: ``param`` names the field.
    """
    if child.currency != parent.currency:
        raise _wider("currency", f"its parent is in {parent.currency}")
    _check_bound("amount_min", child.amount_min, parent.amount_min, operator.ge)
    _check_bound("amount_max", child.amount_max, parent.amount_max, operator.le)
    _check_limits("budgets", _money(child.budgets), _money(parent.budgets))
    _check_limits(
        "counts",
        [(limit.window, limit.payments) for limit in child.counts],
        [(limit.window, limit.payments) for limit in parent.counts],
    )
    _check_limits("payee_budgets", _money(child.payee_budgets), _money(parent.payee_budgets))
    _check_bound("payees", child.payees, parent.payees, operator.le)
    _check_bound("instruments", child.instruments, parent.instruments, operator.le)
    _check_bound("providers", child.providers, parent.providers, operator.le)
    _check_bound("not_before", child.not_before, parent.not_before, operator.ge)
    _check_bound("not_after", child.not_after, parent.not_after, operator.le)
    _check_bound("reference", child.reference, parent.reference, operator.eq)
    _check_bound("tools", child.tools, parent.tools, operator.le)
    _check_bound("models", child.models, parent.models, _covers_models)
    if child.delegations_max >= parent.delegations_max:
        message = f"its parent leaves {parent.delegations_max} levels for it and those below"
        raise _wider("delegations_max", message)


def check_depth(parent: Mandate) -> None:
    """
    Refuse a level below a mandate that allows none.

    Raises:
        MandateTooDeepError: The chain is as long as it may be, or its terms end it here.
    """
    if parent.depth >= MANDATE_DEPTH_MAX:
        raise MandateTooDeepError(f"A chain has at most {MANDATE_DEPTH_MAX} mandates.")
    if parent.terms.delegations_max < 1:
        message = "This mandate may not be delegated (delegations_max is 0)."
        raise MandateTooDeepError(message, param="delegations_max")


def earliest(*moments: datetime | None) -> datetime | None:
    """
    Return the first of some moments; ``None`` stands for never.
    """
    return min((moment for moment in moments if moment is not None), default=None)


def check_expiry(expires_at: datetime | None, parent_expires_at: datetime | None) -> None:
    """
    Refuse a child that names a later expiry than its parent's.

    Raises:
        MandateNotAttenuatedError: It would outlive its parent.
    """
    _check_bound("expires_at", expires_at, parent_expires_at, operator.le)


def least_containing(
    window: Window, limits: Iterable[tuple[Window, int]]
) -> tuple[Window, int] | None:
    """
    Return the smallest of the limits over windows that contain ``window``, or ``None``.
    """
    containing = [limit for limit in limits if limit[0] in CONTAINED_IN[window]]
    return min(containing, key=lambda limit: limit[1], default=None)


def _check_limits(
    field: str, child: list[tuple[Window, int]], parent: list[tuple[Window, int]]
) -> None:
    for window, _ in child:
        # A child's longer windows bound its shorter ones too: what counts is what is left.
        own = least_containing(window, child)
        least = least_containing(window, parent)
        if own is not None and least is not None and own[1] > least[1]:
            raise _wider(field, f"the limit per {window} is above its parent's per {least[0]}")


def _check_bound(
    field: str,
    child: Bound | None,
    parent: Bound | None,
    is_within: Callable[[Bound, Bound], bool],
) -> None:
    if child is not None and parent is not None and not is_within(child, parent):
        raise _wider(field, "its parent allows less")


def _money(limits: Iterable[MoneyLimit]) -> list[tuple[Window, int]]:
    return [(limit.window, limit.quanta) for limit in limits]


def _covers_models(child: frozenset[str], parent: frozenset[str]) -> bool:
    return all(allows_model(parent, model) for model in child)


def _wider(field: str, why: str) -> MandateNotAttenuatedError:
    message = f"The delegation is wider than its parent in {field}: {why}."
    return MandateNotAttenuatedError(message, param=field)
