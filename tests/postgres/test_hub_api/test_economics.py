"""
Operating points through the hub API: the same figures as the command line's.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.cli.main import app

FRONT = {"gpu": "b200", "model": "DeepSeek-V4-Pro"}


def said_by_the_command(*words: str) -> object:
    """
    Return the document that a command prints.
    """
    answer = CliRunner().invoke(app, ["factory", *words, "--json"])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


async def test_economics_are_those_of_the_command(hub: Hub) -> None:
    """
    Utilisation, PUE, power price and a rate of one's own: the door and the command agree.
    """
    supposed = {"utilisation": "0.4", "pue": "1.35", "power_usd_per_mwh": "-12.5"}
    rate = {"capital_usd_per_gpu_hour": "2.1"}
    answer = await hub.admin.get("factory/economics", params=FRONT | supposed | rate)
    told = said_by_the_command(
        *("economics", "--utilisation", "0.4", "--pue", "1.35"),
        *("--power-price", "-12.5", "--capital-rate", "2.1"),
    )
    assert answer.status_code == 200, answer.text
    rows = answer.json()["tiers"]

    assert isinstance(told, dict)
    assert [row["tier"] for row in rows] == [row["tier"] for row in told["items"]]
    for row, other in zip(rows, told["items"], strict=True):
        assert row["reach"] == other["reach"]
        for name in ("cost_usd_per_million", "usd_per_s_per_megawatt", "tokens_per_joule"):
            if row["reach"] == "unreachable":
                assert row[name] is None
            else:
                assert float(row[name]) == pytest.approx(float(other[name]), abs=6e-5)


async def test_frontier_names_what_is_behind_and_where_it_is_from(hub: Hub) -> None:
    """
    Every point is there once, with a better one where it is dominated, and with its source.
    """
    answer = (await hub.admin.get("factory/frontier", params=FRONT)).json()
    told = said_by_the_command("frontier")

    assert isinstance(told, dict)
    points = answer["points"]
    ahead = [point["row"] for point in points if point["dominated_by_row"] is None]
    assert ahead == [point["row"] for point in told["front"]]
    behind = {point["row"]: point["dominated_by_row"] for point in points[len(ahead) :]}
    assert behind == {point["row"]: point["dominated_by_row"] for point in told["dominated"]}
    assert {point["source"] for point in points} == set(answer["sources"])
    assert "SemiAnalysis" in answer["sources"]["inferencex-powerx"]
    drawn = [
        (each["tokens_per_s_per_user"], each["tokens_per_s_per_gpu"]) for each in answer["curve"]
    ]
    assert drawn == sorted(drawn)
    assert {
        (p["tokens_per_s_per_user"], p["tokens_per_s_per_gpu"]) for p in points[: len(ahead)]
    } <= set(drawn)


async def test_tier_that_is_out_of_reach_says_why(hub: Hub) -> None:
    """
    Too slow is one reason, a first token that comes too late is another.
    """
    answer = (await hub.admin.get("factory/frontier", params=FRONT)).json()
    tiers = {each["tier"]: each for each in answer["tiers"]}

    assert tiers["elite"]["unreachable_because"] == "speed"
    assert tiers["standard"]["unreachable_because"] is None
    assert tiers["elite"]["tokens_per_s_per_user"] is None


async def test_what_cannot_be_is_refused_with_its_name(hub: Hub) -> None:
    """
    Assumptions no plant has and fronts nobody measured are errors, not figures.
    """
    for changes, code, param in (
        ({"utilisation": "0"}, "assumption_invalid", "utilisation"),
        ({"pue": "0.9"}, "assumption_invalid", "pue"),
        ({"utilisation": "half"}, "invalid_request", "utilisation"),
        ({"model": "none"}, "front_unknown", "model"),
        ({"colour": "red"}, "invalid_request", "colour"),
    ):
        answer = await hub.admin.get("factory/economics", params=FRONT | changes)
        problem = answer.json()
        assert answer.status_code in {400, 404}, answer.text
        assert (problem["code"], problem["param"]) == (code, param)


async def test_systems_are_the_revenue_table(hub: Hub) -> None:
    """
    The same systems and revenues as the command's.
    """
    items = (await hub.admin.get("factory/systems")).json()["items"]
    told = said_by_the_command("systems")

    assert isinstance(told, dict)
    for row, other in zip(items, told["items"], strict=True):
        assert row["system"] == other["system"]
        assert len(row["points"]) >= 5
        assert float(row["even_five_usd_billion"]) == pytest.approx(
            float(other["even_five_usd_billion"]), abs=6e-3
        )
    fronts = (await hub.admin.get("factory/fronts")).json()["items"]
    assert {"gpu": "b200", "model": "DeepSeek-V4-Pro"}.items() <= next(
        each for each in fronts if each["model"] == "DeepSeek-V4-Pro"
    ).items()
