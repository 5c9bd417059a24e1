"""
Meters, readings that are pushed, and what the factory shows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.postgres.test_hub_api.conftest import Hub

METER = {
    "name": "rack 7",
    "source": "push",
    "boundary": "gpu boards",
    "interval_s": 10,
    "gap_max_s": 2.5,
    "price_per_kwh": "0.12",
    "grid": {
        "co2e_g_per_kwh": "381.5",
        "source": "made up for this test",
        "method": "location_based",
    },
}


async def add_meter(hub: Hub, **body: object) -> dict[str, Any]:
    """
    Add a supplier and its meter.
    """
    await hub.make("suppliers", name="plant", base_url="https://plant.example/v1")
    return await hub.make("factory/meters", supplier="plant", **(METER | body))


def reading(hub: Hub, seconds: float, watts: str | None, device: str = "gpu0") -> dict[str, Any]:
    """
    Return what a device said some seconds after a full ten seconds, a minute ago.
    """
    start = hub.now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    at = (start + timedelta(seconds=seconds)).isoformat()
    return {"time": at, "device": device, "watts": watts}


async def test_meter_is_added_shown_and_retired(hub: Hub) -> None:
    """
    What an operator said stands there word by word; a supplier has one meter at a time.
    """
    meter = await add_meter(hub)
    second = await hub.admin.post("factory/meters", json={"supplier": "plant", **METER})
    shown = (await hub.admin.get(f"factory/meters/{meter['meter_id']}")).json()
    retired = await hub.make(f"factory/meters/{meter['meter_id']}/retire")
    listed = (await hub.admin.get("factory/meters")).json()["items"]
    with_retired = (await hub.admin.get("factory/meters?retired=true")).json()["items"]

    assert (second.status_code, second.json()["code"]) == (409, "meter_exists")
    assert shown["supplier"] == "plant"
    assert shown["is_measured"]
    assert shown["price_per_kwh"] == "0.12"
    assert shown["grid"] == METER["grid"]
    assert retired["retired_at"] is not None
    assert listed == []
    assert [one["meter_id"] for one in with_retired] == [meter["meter_id"]]


async def test_one_sender_at_a_time(hub: Hub) -> None:
    """
    A second site's readings are refused with who sends them now and until when; the meter shows it;
    released, the second one is taken.
    """
    meter = await add_meter(hub)
    path = f"factory/meters/{meter['meter_id']}"
    assert (meter["host"], meter["read_by"], meter["read_until"]) == (None, None, None)
    await hub.make(f"{path}/readings", readings=[reading(hub, 1, "300")], reader="site a")
    body = {"readings": [reading(hub, 2, "300")], "reader": "site b"}
    refused = (await hub.admin.post(f"{path}/readings", json=body)).json()
    shown = (await hub.admin.get(path)).json()
    (listed,) = (await hub.admin.get("factory/meters")).json()["items"]
    released = await hub.make(f"{path}/release")
    taken = await hub.make(f"{path}/readings", **body)

    assert (refused["status"], refused["code"]) == (409, "meter_read_by_other")
    assert refused["detail"].startswith("site a reads this meter, until ")
    assert shown["read_by"] == listed["read_by"] == "site a"
    assert shown["read_until"] > hub.now.isoformat()[:19]
    assert released["read_until"] <= shown["read_until"]
    assert taken == {"readings": 1}


async def test_source_that_another_supplier_has_is_refused(hub: Hub) -> None:
    """
    The same joules are not metered for two suppliers, unless two hosts are named.
    """
    await add_meter(hub, source="rapl")
    await hub.make("suppliers", name="other", base_url="https://other.example/v1")
    body = {"supplier": "other", **METER, "source": "rapl"}
    refused = (await hub.admin.post("factory/meters", json=body)).json()

    assert (refused["status"], refused["code"]) == (409, "meter_source_taken")
    assert "host" in refused["detail"]


async def test_meter_that_could_not_be_read_is_refused(hub: Hub) -> None:
    """
    Each source says what it needs; a grid factor is nothing without its source and method.
    """
    await hub.make("suppliers", name="plant", base_url="https://plant.example/v1")

    async def refuse(**body: object) -> tuple[int, str, str | None]:
        answer = await hub.admin.post("factory/meters", json={"supplier": "plant", **METER, **body})
        problem = answer.json()
        return answer.status_code, problem["code"], problem.get("param")

    assert await refuse(source="dcgm") == (400, "meter_invalid", "url")
    assert await refuse(source="model", tdp_w=65) == (400, "meter_invalid", "port")
    assert await refuse(source="model", port=1, pid=2, tdp_w=65) == (400, "meter_invalid", "port")
    assert await refuse(source="model", port=8702) == (400, "meter_invalid", "tdp_w")
    assert await refuse(gap_max_s=10) == (400, "meter_invalid", "gap_max_s")
    inside = await refuse(source="dcgm", url="http://10.0.0.1/metrics")
    assert inside[:2] == (400, "url_not_allowed")
    lone = await refuse(grid={"co2e_g_per_kwh": "1", "method": "location_based"})
    assert lone[:2] == (400, "invalid_request")


async def test_power_is_shown_before_it_is_divided(hub: Hub) -> None:
    """
    Watts and coverage at once, tokens when calls are known; what was not metered is no zero.
    """
    meter = await add_meter(hub)
    path = f"factory/meters/{meter['meter_id']}/readings"
    good = [reading(hub, second, "300") for second in range(11)]
    bad = [
        reading(hub, 11, "NaN"),
        reading(hub, 12, None),
        reading(hub, 12.5, "-1"),
        *(reading(hub, second, "100") for second in (13, 14, 15)),
        reading(hub, 15, "100"),
    ]
    taken = await hub.make(path, readings=good + bad)
    shown = (await hub.admin.get("factory/live?minutes=5")).json()

    assert taken == {"readings": 18}
    first, second = shown["points"]
    assert first["energy_uj"] == "3000000000"
    assert (first["watts"], first["coverage"]) == (300.0, 1.0)
    assert first["output_tokens"] is None
    assert not first["is_posted"]
    # Ten to fifteen: from ten to thirteen nobody knows.
    assert second["energy_uj"] == "200000000"
    assert (second["watts"], second["coverage"]) == (100.0, 0.4)
    assert (first["is_complete"], second["is_complete"]) == (True, False)
    kinds = {fault["kind"] for fault in shown["faults"]}
    assert kinds == {"not_a_number", "negative", "gap", "duplicate"}
    assert all(fault["meter"] == "rack 7" for fault in shown["faults"])
    assert shown["meters"][0]["last_reading_at"] is not None


async def test_readings_that_cannot_be_are_refused_with_their_row(hub: Hub) -> None:
    """
    Of the future nothing is kept; a meter that the hub reads takes none.
    """
    meter = await add_meter(hub)
    path = f"factory/meters/{meter['meter_id']}/readings"
    ahead = reading(hub, 600, "1")
    refused = await hub.admin.post(path, json={"readings": [reading(hub, 1, "1"), ahead]})
    nobody = await hub.admin.post(
        "factory/meters/00000000-0000-7000-8000-000000000000/readings", json={"readings": []}
    )
    await hub.make(f"factory/meters/{meter['meter_id']}/retire")
    late = await hub.admin.post(path, json={"readings": [reading(hub, 1, "1")]})
    live = (await hub.admin.get("factory/live?supplier=plant")).json()

    assert (refused.status_code, refused.json()["code"]) == (400, "readings_invalid")
    assert "row 2, column time" in refused.json()["detail"]
    assert nobody.json()["code"] == "meter_not_found"
    assert late.json()["code"] == "meter_retired"
    assert live["points"] == []


async def test_empty_factory_is_shown_as_one(hub: Hub) -> None:
    """
    Before anything was metered every sum is 0 and no ratio is made up; only an admin looks.
    """
    models = (await hub.admin.get("factory/models")).json()
    chain = (await hub.admin.get("factory/chain?hours=1")).json()
    party = await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of(party["name"])
    refused = [
        (await buyer.get(f"factory/{path}")).status_code
        for path in ("live", "models", "chain", "meters")
    ]

    assert models["items"] == []
    assert chain["energy_uj"] == "0"
    assert [stage["stage"] for stage in chain["stages"]] == [
        "electricity",
        "compute",
        "model",
        "tokens",
        "applications",
    ]
    assert chain["links"] == []
    assert refused == [403] * 4


async def test_steps_are_taken_row_by_row(hub: Hub) -> None:
    """
    Good rows are kept; each other one is named with its column and what to do; all wrong is a 400.
    """
    meter = await add_meter(hub)
    path = f"factory/meters/{meter['meter_id']}/steps"
    start = hub.now.replace(microsecond=0) - timedelta(minutes=1)

    def row(number: int, **other: object) -> dict[str, object]:
        begin = start + timedelta(milliseconds=100 * number)
        return {
            "step": number,
            "start": begin.isoformat(),
            "end": (begin + timedelta(milliseconds=100)).isoformat(),
            "phase": "decode",
            "calls": [{"call": "a", "decode_tokens": 1}],
        } | other

    bad: list[dict[str, object]] = [
        row(4, phase="thinking"),
        row(4, calls=[{"call": "a", "decode_tokens": 0}]),
        row(4, calls=[{"call": "a", "decode_tokens": -1}]),
        row(4, calls=[]),
        row(4, end=row(4)["start"]),
        row(4, start="yesterday"),
        row(4, start=float("1e300")),
        row(4, surprise=1),
        row(4, calls="a"),
        row(1, end=row(3)["end"]),
    ]
    taken = await hub.make(path, steps=[row(1), row(2), row(2), row(3), *bad, row(9)])
    nothing = (await hub.admin.post(path, json={"steps": bad[:2]})).json()
    shown = [(one["row"], one["column"]) for one in taken["refused"]]

    assert (taken["steps"], taken["repeated"]) == (4, 1)
    assert shown == [
        (5, "phase"),
        (6, "decode_tokens"),
        (7, "decode_tokens"),
        (8, "calls"),
        (9, "end"),
        (10, "start"),
        (11, "start"),
        (12, "surprise"),
        (13, "calls"),
        (14, "step"),
    ]
    assert any("5 between are missing" in one["text"] for one in taken["remarks"])
    assert (nothing["status"], nothing["code"], nothing["param"]) == (400, "steps_invalid", "phase")
    assert nothing["detail"].startswith("row 1, column phase: is none of prefill, decode, mixed")
    assert [one["row"] for one in nothing["details"]["refused"]] == [1, 2]
