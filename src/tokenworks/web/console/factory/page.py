"""
The factory page: a plain page, and the parts of it that its script asks for anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tokenworks.foundation.errors import ConflictError
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.doors import STATIC, answered, message_page, page_facts
from tokenworks.web.console.factory import frontier_chart, margin_chart
from tokenworks.web.console.factory.model import Economics, Frontier, FrontName, FrontNames
from tokenworks.web.console.factory.question import FIELDS, Question, baseline_of, read_question
from tokenworks.web.console.guard import session_of
from tokenworks.web.console.pages import render
from tokenworks.web.console.sessions import Session

SCRIPT_PATH: Final = "/console/factory.js"


def add_factory_page(app: FastAPI, desk: Desk) -> None:
    """
    Add the page, its script and its parts.
    """
    script = (STATIC / "factory.js").read_bytes()

    @app.get(SCRIPT_PATH)
    async def script_file() -> Response:
        headers = {"cache-control": "max-age=300"}
        return Response(script, media_type="text/javascript", headers=headers)

    @app.get("/factory")
    async def show_factory(request: Request) -> Response:
        return await answered(desk, request, _factory_page, missing="No such front")

    @app.get("/factory/plan")
    async def show_plan(request: Request) -> Response:
        return await answered(desk, request, _plan_part, missing="No such front")


async def _factory_page(desk: Desk, session: Session, request: Request) -> Response:
    if not session.reader.has_plant:
        return _not_for(request)
    plan = await _plan(desk, session, request.query_params)
    return HTMLResponse(render("factory.html", **page_facts(request, session), **plan))


async def _plan_part(desk: Desk, session: Session, request: Request) -> Response:
    if not session.reader.has_plant:
        return _not_for(request)
    plan = await _plan(desk, session, request.query_params)
    return HTMLResponse(render("factory_plan.html", **plan))


def _not_for(request: Request) -> Response:
    return message_page(
        request,
        title="Not for this key",
        text="The factory is shown to the hub's operator and to suppliers.",
        status=403,
        session=session_of(request.scope),
    )


async def _plan(desk: Desk, session: Session, query: Mapping[str, str]) -> dict[str, object]:
    """
    Return what the two parts about the plan show.
    """
    hub, key = desk.hub, session.key
    names = (await hub.get(FrontNames, key, "/hub/v1/factory/fronts")).items
    question = read_question(query, names)
    baseline = baseline_of(question, names)
    family = [name for name in names if name.family == question.front.family]
    others = [name for name in family if name != question.front]
    frontier, *rest = await asyncio.gather(
        _frontier(desk, session, question.front),
        *(_frontier(desk, session, name) for name in others),
    )
    economics, before, notice = await _both(desk, session, question, baseline)
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


async def _frontier(desk: Desk, session: Session, name: FrontName) -> Frontier:
    query = Question(front=name, values={}).front_query()
    return await desk.hub.get(Frontier, session.key, "/hub/v1/factory/frontier", **query)


async def _both(
    desk: Desk, session: Session, question: Question, baseline: Question
) -> tuple[Economics | None, Economics | None, str | None]:
    """
    Return the economics asked for, those with nothing changed, and what is wrong.
    """
    if not (question.front.is_priced and baseline.front.is_priced):
        return None, None, f"Power and price of {question.front.gpu} are not known."
    before = await _economics(desk, session, baseline)
    if question.faults:
        return None, before, " ".join(question.faults.values())
    if question == baseline:
        return before, before, None
    try:
        return await _economics(desk, session, question), before, None
    except ConflictError as error:
        return None, before, error.message


async def _economics(desk: Desk, session: Session, question: Question) -> Economics:
    path = "/hub/v1/factory/economics"
    return await desk.hub.get(Economics, session.key, path, **question.economics_query())


def _families(names: tuple[FrontName, ...]) -> list[tuple[str, str]]:
    """
    Return what can be chosen, each family once: its id and its name.
    """
    labels = {
        name.family: f"{name.model} · {name.precision} · {name.workload}"
        for name in sorted(names, key=lambda name: name.family.lower())
    }
    return list(labels.items())
