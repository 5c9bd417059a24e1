"""
Put together what the page shows of the plant at work.
"""

from __future__ import annotations

from tokenworks.web.console.factory import chain_chart, power_chart
from tokenworks.web.console.factory.feed import FactoryFeed
from tokenworks.web.console.factory.live_model import ModelEnergies
from tokenworks.web.console.factory.summary import to_summary

FAULTS_SHOWN_MAX = 5


async def read_live(feed: FactoryFeed) -> dict[str, object]:
    """
    Return what the live part shows: the last good answers, and what is wrong now.

    Raises:
        UnauthenticatedError: The hub does not accept the session's key any more.
    """
    live, models, chain = await feed.live.read(), await feed.models.read(), await feed.chain.read()
    now = live.answer
    sizes = (power_chart.WIDE, power_chart.COMPACT)
    return {
        "live": now,
        "live_notice": live.notice or models.notice or chain.notice,
        "summary": to_summary(now) if now else None,
        "power_charts": [power_chart.power_chart(now, size) for size in sizes] if now else [],
        "tokens_charts": [power_chart.tokens_chart(now, size) for size in sizes] if now else [],
        "faults": now.faults[:FAULTS_SHOWN_MAX] if now else (),
        "faults_left": max(len(now.faults) - FAULTS_SHOWN_MAX, 0) if now else 0,
        "models": models.answer,
        "bars": _bars(models.answer),
        "chain": chain.answer,
        "chain_charts": [
            chart
            for size in (chain_chart.WIDE, chain_chart.MIDDLE)
            if chain.answer and (chart := chain_chart.to_chart(chain.answer, size)) is not None
        ],
    }


def _bars(models: ModelEnergies | None) -> dict[str, float]:
    """
    Return each model's bar: its joules per output token as a part of the most, in per cent.
    """
    known = {
        each.model: each.joules_per_output_token
        for each in (models.items if models else ())
        if each.joules_per_output_token is not None
    }
    most = max(known.values(), default=0.0)
    return {model: round(joules / most * 100, 1) for model, joules in known.items() if most}
