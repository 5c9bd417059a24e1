"""
Merge a chain of mandates into one judgement, so that a payment asks once instead of eight times.

Terms never change, so the merge is made when a chain is read. It only ever says yes as all
mandates together would; whatever it does not allow is judged again one by one, which finds the
mandate that refuses and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import TypeVar

from tokenworks.agents.mandates.attenuation import earliest
from tokenworks.agents.mandates.calling import intersect_models
from tokenworks.agents.mandates.judging import judge_chain, refusal_of_terms
from tokenworks.agents.mandates.model import Mandate, MandateState, Purchase, Terms

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedChain:
    """
    What all mandates of a chain allow together.
    """

    mandates: tuple[Mandate, ...]  # root first
    terms: Terms | None  # None: they cannot be said in one, or allow nothing
    begins_at: datetime | None
    ends_at: datetime | None

    def judge(self, purchase: Purchase, *, now: datetime) -> None:
        """
        Refuse what one of the mandates does not allow.

        Raises:
            TokenworksError: As ``judge_chain``.
        """
        if (
            self.terms is not None
            and (self.begins_at is None or self.begins_at <= now)
            and (self.ends_at is None or now < self.ends_at)
            and refusal_of_terms(self.terms, purchase) is None
        ):
            return
        judge_chain(self.mandates, purchase, now=now)


def merge_chain(mandates: Sequence[Mandate]) -> MergedChain:
    """
    Return a chain merged, root first.
    """
    terms = [mandate.terms for mandate in mandates]
    begins = [t.not_before for t in terms if t.not_before is not None]
    return MergedChain(
        mandates=tuple(mandates),
        terms=_merge_terms(terms) if _are_active(mandates) else None,
        begins_at=max(begins, default=None),
        ends_at=earliest(
            *(t.not_after for t in terms), *(mandate.expires_at for mandate in mandates)
        ),
    )


def _are_active(mandates: Sequence[Mandate]) -> bool:
    return all(mandate.state is MandateState.ACTIVE for mandate in mandates)


def _merge_terms(terms: Sequence[Terms]) -> Terms | None:
    references = {t.reference for t in terms if t.reference is not None}
    if len({t.currency for t in terms}) > 1 or len(references) > 1:
        return None
    return Terms(
        currency=terms[0].currency,
        amount_min=_pick(max, [t.amount_min for t in terms]),
        amount_max=_pick(min, [t.amount_max for t in terms]),
        payees=_common([t.payees for t in terms]),
        instruments=_common([t.instruments for t in terms]),
        providers=_common([t.providers for t in terms]),
        reference=next(iter(references), None),
        tools=_common([t.tools for t in terms]),
        models=intersect_models(t.models for t in terms),
    )


def _pick(choose: Callable[[Sequence[int]], int], amounts: Sequence[int | None]) -> int | None:
    named = [amount for amount in amounts if amount is not None]
    return choose(named) if named else None


def _common(lists: Sequence[frozenset[_Value] | None]) -> frozenset[_Value] | None:
    named = [entries for entries in lists if entries is not None]
    return reduce(lambda common, entries: common & entries, named) if named else None
