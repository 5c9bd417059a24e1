"""
Decide what a delivered answer used, and so what it costs.

Order of the decisions: what the supplier reported, if it is believable; else what the
tokenizer counts, marked as an estimate, with the fault on record. Nothing here moves money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.open_call import OpenCall
from tokenworks.metering.errors import UsageError
from tokenworks.metering.estimate import TokenCounter, message_texts
from tokenworks.metering.model import NOTHING_USED, Axis, Usage
from tokenworks.metering.openai import from_openai
from tokenworks.metering.reconciliation import reconcile_choices
from tokenworks.pricing.rating import Rated, rate
from tokenworks.supply.model import Offer

OUTPUT_TOKENS_ABSURD = 2_000_000
"""No model writes that much in one choice; only used where the context is not known."""


@dataclass(slots=True, kw_only=True)
class Bill:
    """
    The usage of a call, its price, and what the supplier did wrong in reporting it.
    """

    usage: Usage
    rated: Rated
    faults: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """
    What an answer showed: the supplier's reports, and what each choice said.
    """

    reports: Sequence[object]
    texts: Sequence[str]


async def make_bill(
    call: OpenCall, offer: Offer, delivered: Delivered, *, counter: TokenCounter
) -> Bill:
    """
    Return the usage and its rating; never raises for what a supplier reports.
    """
    faults: list[str] = []
    usage = _reported(call, offer, delivered, faults)
    if usage is None:
        usage = await estimate(call, delivered.texts, counter=counter)
    if call.granted_output is not None and usage.is_estimate:
        # What the hub counts itself is never more than it allowed.
        usage = _within_cap(usage, call.quote.output_tokens)
    if Axis.REQUEST in call.card.prices:
        usage = usage.with_count(Axis.REQUEST, 1)
    rated = rate(usage, call.card)
    if rated.unpriced:
        faults.append("unpriced_axis")
    if call.granted_output is not None and usage.total_output > call.quote.output_tokens:
        faults.append("output_cap_exceeded")
    return Bill(usage=usage, rated=rated, faults=faults)


def free_bill(call: OpenCall, usage: Usage = NOTHING_USED) -> Bill:
    """
    Return the bill of an answer the buyer does not pay for: its usage stays visible.
    """
    nothing = rate(NOTHING_USED, call.card)
    return Bill(usage=usage, rated=nothing)


async def estimate(call: OpenCall, texts: Sequence[str], *, counter: TokenCounter) -> Usage:
    """
    Return counted usage; the vocabulary is loaded off the event loop.
    """

    def count() -> Usage:
        messages = [msgspec.json.decode(message) for message in call.request.messages]
        return counter.estimate_usage(
            model=call.request.model_name,
            prompt_texts=message_texts(messages),
            answer_texts=list(texts),
        )

    return await asyncio.to_thread(count)


def _reported(
    call: OpenCall, offer: Offer, delivered: Delivered, faults: list[str]
) -> Usage | None:
    if not delivered.reports:
        faults.append("usage_missing")
        return None
    choices = call.request.choices_asked
    context = offer.context_tokens_max
    count_max = (context or OUTPUT_TOKENS_ABSURD) * choices + call.quote.input_tokens
    try:
        reports = [from_openai(report, count_max=count_max) for report in delivered.reports]
        if len(reports) == 1 and max(choices, len(delivered.texts)) == 1:
            usage = reports[0]
        else:
            usage = reconcile_choices(
                reports, choices_seen=len(delivered.texts), texts=delivered.texts
            )
        _refuse_absurd(call, usage)
    except SupplierFaultError as fault:
        faults.append(fault.code)
        return None
    return usage


def _refuse_absurd(call: OpenCall, usage: Usage) -> None:
    # A prompt has at most as many tokens as bytes, so more is certainly wrong.
    if usage.total_input > call.quote.input_tokens:
        message = "The supplier reports more input tokens than the request has bytes."
        raise UsageError(message, param="usage.prompt_tokens")


def _within_cap(usage: Usage, output_tokens: int) -> Usage:
    excess = usage.total_output - output_tokens
    if excess <= 0:
        return usage
    plain = usage.counts.get(Axis.OUTPUT, 0)
    return usage.with_count(Axis.OUTPUT, max(0, plain - excess))
