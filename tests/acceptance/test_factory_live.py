"""
The proof of the live factory: the demo's real model, its calls, its joules, by commands alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from tests.acceptance.conftest import Demo, Shop
from tests.acceptance.hub_process import run_command


def test_demo_meters_divides_posts_and_proves(demo: Demo, tmp_path: Path) -> None:
    """
    Real calls of a real model: each has joules on a signed addendum that verifies offline, and
    calls plus rest are the meter. The power is a model, and says so.
    """
    words = ("factory", "demo", "--data", str(demo.data_dir))
    done = run_command(*words, "--calls", "4", "--max-tokens", "8", "--json", timeout_s=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    assert result["calls"] == 4
    assert result["power"].startswith("MODEL")
    assert not result["is_measured"]
    assert result["methods"] == ["timings"]
    assert result["is_conserved"]
    assert result["are_signatures_good"]
    parts = [int(result[name]) for name in ("calls_uj", "others_uj", "unattributed_uj")]
    assert sum(parts) == int(result["metered_uj"])
    assert int(result["calls_uj"]) > 0
    assert int(result["others_uj"]) >= 0
    assert float(result["joules_per_output_token"]) > float(result["joules_per_token"]) > 0
    assert result["is_price_per_kwh_assumed"]
    assert float(result["electricity_per_million_tokens"]) > 0
    assert float(result["charged_per_million_tokens"]) > 0

    # The same from what a buyer has, without a hub.
    call_id = result["joules_by_call"][0]["call_id"]
    files: list[str] = []
    for name, path in (("receipt", ""), ("addenda", "/addenda")):
        document = demo.get(f"receipts/{call_id}{path}", key=demo.buyer_key)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document.get("items", document)), encoding="utf-8")
        files.append(str(file))
    checked = run_command("receipt", "verify", *files, "--data", str(demo.data_dir), "--json")
    rows = json.loads(checked.stdout)["items"]
    assert checked.returncode == 0
    assert [(row["ok"], row["view"], row["notes"]) for row in rows] == [
        (True, "buyer", []),
        (True, "addendum", []),
    ]
    shown = run_command("factory", "energy", "--data", str(demo.data_dir))
    assert "Power: " in shown.stdout + shown.stderr
    check = run_command("ledger", "check", "--data", str(demo.data_dir), "--json")
    assert json.loads(check.stdout)["is_clean"], check.stdout
    # Nobody else's key sees the factory.
    assert demo.ask("GET", "factory/live", key=demo.buyer_key).status_code == 403
    (meter,) = demo.get("factory/meters")["items"]
    demo.tell("factory", "meter", "retire", meter["meter_id"])


def _send_steps(shop: Shop, meter: str, folder: Path) -> None:
    """
    A clumsy step log: each row has its verdict with row and column, and the good ones are kept.
    """
    line = (
        '{{"step": {0}, "start": {1}.0, "end": {1}.5, "phase": "decode",'
        ' "calls": [{{"call": "a", "decode_tokens": {2}}}]}}'
    )
    rows = [(1, 10, 1), (3, 30, 1), (2, 20, 1), (1, 10, 1), (4, 40, 0), (5, 50, 1)]
    start = 1_767_225_600
    lines = [line.format(number, start + at, tokens) for number, at, tokens in rows]
    file = folder / "steps.jsonl"
    file.write_text("\n".join([*lines, '{"step": 6, "sta']), encoding="utf-8")
    done = shop.run("factory", "steps", "send", str(file), "--meter", meter, "--json")
    told = json.loads(done.stdout)

    assert done.returncode == 1
    assert (told["sent"], told["repeated"], told["not_sent"]) == (4, 1, 0)
    refused = [(one["row"], one["column"]) for one in told["refused"]]
    assert refused == [(5, "decode_tokens"), (7, "(line)")]
    assert "is torn" in told["refused"][1]["text"]
    assert [(one["row"], one["column"]) for one in told["remarks"]] == [
        (2, "step"),
        (3, "start"),
        (4, "start"),
        (6, "step"),
    ]
    file.write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    again = shop.run("factory", "steps", "send", str(file), "--meter", meter, "--json")
    assert again.returncode == 0, again.stderr
    assert [json.loads(again.stdout)[name] for name in ("sent", "repeated")] == [0, 3]


def test_meter_is_added_sent_and_shown_by_commands(shop: Shop, tmp_path: Path) -> None:
    """
    A site's own machine reads its meter and sends it; tables and JSON say the same.
    """
    added = shop.tell(
        *("factory", "meter", "add", "factory", "--source", "push", "--name", "rack 7"),
        *("--boundary", "host", "--interval-s", "2", "--gap-max-s", "1"),
        *("--price-per-kwh", "0.1", "--grid-g-per-kwh", "381.5", "--grid-source", "made up"),
    )
    meter = added["meter_id"]
    port = str(urlsplit(shop.url).port)
    sent = shop.tell(
        *("factory", "meter", "send", meter, "--source", "model", "--port", port),
        *("--tdp-w", "65", "--every-s", "0.05", "--readings", "3"),
    )
    assert sent == {"sent": 3, "not_sent": 0, "lost": 0, "skipped": 0, "reason": None}
    shown = shop.tell("factory", "meter", "show", meter)
    assert shown["last_reading_at"] is not None
    assert shown["grid"] == {
        "co2e_g_per_kwh": "381.5",
        "source": "made up",
        "method": "location_based",
    }
    assert shown["read_by"].startswith("send@")
    (listed,) = shop.tell("factory", "meter", "list")["items"]
    assert listed["meter_id"] == meter
    assert "rack 7" in shop.run("factory", "meter", "list").stdout
    # While another site sends, this one's readings are skipped, and it is told who that is.
    body = {"readings": [], "reader": "another site", "lease_s": 600}
    body["readings"] = [{"time": shown["last_reading_at"], "device": "gpu0", "watts": "1"}]
    assert shop.ask("POST", f"factory/meters/{meter}/readings", json=body).status_code == 201
    second = shop.run(
        *("factory", "meter", "send", meter, "--source", "model", "--port", port),
        *("--tdp-w", "65", "--every-s", "0.05", "--readings", "2", "--json"),
    )
    assert second.returncode == 1
    told = json.loads(second.stdout)
    assert [told[name] for name in ("sent", "not_sent", "lost", "skipped")] == [0, 0, 0, 2]
    assert "another site reads this meter, until" in told["reason"]
    assert shop.tell("factory", "meter", "release", meter)["read_by"] == "another site"
    _send_steps(shop, meter, tmp_path)
    half = shop.run("factory", "meter", "add", "factory", "--source", "push", "--grid-source", "x")
    assert half.returncode == 2
    assert "--grid-g-per-kwh" in half.stderr
    nothing = shop.run("factory", "meter", "send", meter, "--source", "model", "--port", "1")
    assert nothing.returncode == 2
    assert "tdp_w" in nothing.stderr or "listens on 1" in nothing.stderr
    assert shop.tell("factory", "meter", "retire", meter)["retired_at"] is not None
    refused = shop.run(
        "factory",
        "meter",
        "send",
        meter,
        "--source",
        "model",
        "--port",
        port,
        "--tdp-w",
        "65",
        "--readings",
        "1",
    )
    assert refused.returncode == 1
    assert isinstance(shop.tell("factory", "energy"), dict)
