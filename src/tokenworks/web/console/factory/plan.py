"""
Ask the hub about a front and its economics, and put together what the page shows of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tokenworks.foundation.errors import ConflictError
from tokenworks.web.console.factory import frontier_chart, margin_chart, systems_chart
from tokenworks.web.console.factory.model import (
    Economics,
    Frontier,
    FrontName,
    FrontNames,
    Systems,
)
from tokenworks.web.console.factory.question import FIELDS, Question, baseline_of, read_question
from tokenworks.web.console.hub import Hub


async def read_plan(hub: Hub, key: str, query: Mapping[str, str]) -> dict[str, object]:
    """
    Return what the two parts about the plan show.
    """
    names = (await hub.get(FrontNames, key, "/hub/v1/factory/fronts")).items
    question = read_question(query, names)
    baseline = baseline_of(question, names)
    family = [name for name in names if name.family == question.front.family]
    others = [name for name in family if name != question.front]
    frontier, *rest = await asyncio.gather(
        _frontier(hub, key, question.front),
        *(_frontier(hub, key, name) for name in others),
    )
    economics, before, notice = await _both(hub, key, question, baseline)
    sizes = (frontier_chart.WIDE, frontier_chart.COMPACT)
    drawn = (economics.tiers, before.tiers) if economics and before else ((), ())
    return {
        "question": question,
        "baseline": baseline,
        "fields": FIELDS,
        "families": _families(names),
        "gpus": family,
        "frontier": frontier,
        "charts": [frontier_chart.to_chart(frontier, rest, size) for size in sizes],
        "facts_of": frontier_chart.point_facts,
        "economics": economics,
        "before": before,
        "margins": [
            chart
            for size in (margin_chart.WIDE, margin_chart.COMPACT)
            if (chart := margin_chart.to_chart(*drawn, size)) is not None
        ],
        "notice": notice,
    }


async def read_systems(hub: Hub, key: str) -> dict[str, object]:
    """
    Return what the part about whole systems shows.
    """
    systems = (await hub.get(Systems, key, "/hub/v1/factory/systems")).items
    sizes = (systems_chart.WIDE, systems_chart.COMPACT)
    charts = [systems_chart.to_chart(systems, size) for size in sizes]
    return {"systems": systems, "systems_charts": [chart for chart in charts if chart]}


async def _frontier(hub: Hub, key: str, name: FrontName) -> Frontier:
    query = Question(front=name, values={}).front_query()
    return await hub.get(Frontier, key, "/hub/v1/factory/frontier", **query)


async def _both(
    hub: Hub, key: str, question: Question, baseline: Question
) -> tuple[Economics | None, Economics | None, str | None]:
    """
    Return the economics asked for, those with nothing changed, and what is wrong.
    """
    if not (question.front.is_priced and baseline.front.is_priced):
        return None, None, f"Power and price of {question.front.gpu} are not known."
    before = await _economics(hub, key, baseline)
    if question.faults:
        return None, before, " ".join(question.faults.values())
    if question == baseline:
        return before, before, None
    try:
        return await _economics(hub, key, question), before, None
    except ConflictError as error:
        return None, before, error.message


async def _economics(hub: Hub, key: str, question: Question) -> Economics:
    path = "/hub/v1/factory/economics"
    return await hub.get(Economics, key, path, **question.economics_query())


def _families(names: tuple[FrontName, ...]) -> list[tuple[str, str]]:
    """
    Return what can be chosen, each family once: its id and its name.
    """
    labels = {
        name.family: f"{name.model} · {name.precision} · {name.workload}"
        for name in sorted(names, key=lambda name: name.family.lower())
    }
    return list(labels.items())
