"""
Narrow an API key to a mandate, so that plain calls to models stay within it.

A call is bought from the hub itself: the payee is the platform, the instrument the hub's
network, and nobody knows its price before it ends. A mandate whose predicates need more than
that is refused when the key is made, not at each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tokenworks.agents.mandates.errors import MandateNotForCallsError
from tokenworks.agents.mandates.judging import allows_model
from tokenworks.agents.mandates.model import Mandate
from tokenworks.ledger.service import PLATFORM_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBounds:
    """
    What a chain of mandates leaves of calls to models.
    """

    mandate_id: UUID
    scope_ids: tuple[UUID, ...]  # of the path, root first, without the key's own
    models: frozenset[str] | None  # None: every model
    call_quanta_max: int | None  # None: no bound


def call_bounds(
    chain: Sequence[Mandate],
    *,
    scope_ids: tuple[UUID, ...],
    models: Iterable[str] | None,
    network: str,
    now: datetime,
) -> CallBounds:
    """
    Return the bounds of a key that spends through a chain, or refuse.

    Args:
        chain: The mandates, root first.
        scope_ids: The path through them.
        models: What the key was asked to be narrowed to; ``None``: not further.
        network: The hub's.
        now: When.

    Raises:
        MandateNotForCallsError: A predicate cannot be kept by calls; ``param`` names it.
    """
    for mandate in chain:
        _check_predicates(mandate, network=network, now=now)
    lists = [mandate.terms.models for mandate in chain]
    if models is not None:
        lists.append(frozenset(models))
    most = [m.terms.amount_max for m in chain if m.terms.amount_max is not None]
    narrowed = intersect_models(lists)
    if narrowed is not None and not narrowed:
        raise _unfit("models", "none of these models is allowed by all mandates of the chain")
    return CallBounds(
        mandate_id=chain[-1].mandate_id,
        scope_ids=scope_ids,
        models=narrowed,
        call_quanta_max=min(most, default=None),
    )


def intersect_models(lists: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """
    Return what all lists of ``model`` and ``model@tier`` allow; ``None`` allows everything.
    """
    common: frozenset[str] | None = None
    for models in lists:
        if models is None:
            continue
        if common is None:
            common = models
            continue
        ours, theirs = common, models
        common = frozenset(
            [m for m in ours if allows_model(theirs, m)]
            + [m for m in theirs if allows_model(ours, m)]
        )
    return common


def _check_predicates(mandate: Mandate, *, network: str, now: datetime) -> None:
    terms = mandate.terms
    if terms.payees is not None and PLATFORM_ID not in terms.payees:
        raise _unfit("payees", "the platform, which sells the calls, is no allowed payee")
    if terms.instruments is not None and network not in terms.instruments:
        raise _unfit("instruments", f"the hub's network {network} is not among them")
    if terms.providers is not None:
        raise _unfit("providers", "a call has no payment service")
    if terms.amount_min:
        raise _unfit("amount_min", "what a call costs is known only when it ends")
    if terms.reference is not None:
        raise _unfit("reference", "a call names no transaction")
    if terms.tools is not None:
        raise _unfit("tools", "a plain call comes through no tool")
    if terms.not_before is not None and now < terms.not_before:
        raise _unfit("not_before", "it has not begun")


def _unfit(field: str, why: str) -> MandateNotForCallsError:
    message = f"A key cannot spend through this mandate ({field}): {why}."
    return MandateNotForCallsError(message, param=field)
