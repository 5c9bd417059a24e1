"""
``tokenworks factory attribute`` works on files alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tokenworks.cli.main import app

POWER = "time,device,watts\n" + "".join(f"{at},gpu0,100\n" for at in range(11))
STEPS = (
    '{"step":1,"start":4,"end":5,"phase":"prefill","calls":[{"call":"a","prefill_tokens":9}]}\n'
    '{"step":2,"start":5,"end":6,"phase":"decode",'
    '"calls":[{"call":"a","decode_tokens":1,"context_tokens":9}]}\n'
)


def attribute(folder: Path, *, power: str = POWER, log: str = STEPS, words: str = "") -> Result:
    """
    Run the command on two files.
    """
    (folder / "power.csv").write_text(power, encoding="utf-8")
    (folder / "log.jsonl").write_text(log, encoding="utf-8")
    kind = [] if "--spans" in words or "--none" in words else ["--steps", f"{folder}/log.jsonl"]
    rest = words.replace("LOG", f"{folder}/log.jsonl").replace("--none", "").split()
    return CliRunner().invoke(
        app, ["factory", "attribute", "--power", f"{folder}/power.csv", *kind, *rest]
    )


def test_document_conserves_and_names_its_method(tmp_path: Path) -> None:
    """
    Programs get all calls, the rest, and what it rests on.
    """
    result = attribute(tmp_path, words="--idle-w 40 --json")

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (call,) = document["calls"]
    assert document["method"] == "step_phase"
    assert document["meter_uj"] == 1_000_000_000
    assert call["energy_uj"] + document["unattributed_uj"] == document["meter_uj"]
    assert (call["energy_uj"], call["is_whole"], call["tokens"]) == (200_000_000, True, 10)
    assert call["parts_uj"]["residency"] == 80_000_000
    assert (document["idle_source"], document["cost_source"]) == ("given", "assumed")


def test_people_are_told_sum_method_and_faults(tmp_path: Path) -> None:
    """
    The table is followed by the sum, what was assumed and what was not metered.
    """
    power = POWER.replace("8,gpu0,100", "8,gpu0,nan")

    result = attribute(tmp_path, power=power)

    assert result.exit_code == 0, result.output
    for text in (
        "200.000000",
        "Meter 800.000000 J = calls 200.000000 J + unattributed 600.000000 J",
        "ASSUMED, not fitted",
        "80.00 % of the time",
        "not_a_number: row 10, column watts, gpu0: is no number; 2 s not metered",
    ):
        assert text in result.output


def test_spans_are_labelled_with_their_method(tmp_path: Path) -> None:
    """
    Overlap share says so.
    """
    log = '{"call":"a","start":2,"end":4}\n'

    result = attribute(tmp_path, log=log, words="--spans LOG --json")

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["method"] == "overlap_share"
    assert document["calls"][0]["parts_uj"] == {"overlap": 200_000_000}


@pytest.mark.parametrize(
    ("power", "log", "words", "text"),
    [
        (POWER, STEPS.replace('"start":5', '"start":3'), "", "log.jsonl: row 2, column start: is"),
        ("time,device,watts\n", STEPS, "", "power.csv: row 2, column time: the file has no"),
        (POWER, STEPS, "--none", "Give --steps or --spans."),
        (POWER, STEPS, "--none --steps /nowhere/log", "/nowhere/log cannot be read: No such"),
        (POWER, "\0", "", "log.jsonl: row 1, column step: is missing in the header"),
    ],
)
def test_bad_input_is_told_with_its_place(
    tmp_path: Path, power: str, log: str, words: str, text: str
) -> None:
    """
    One sentence on standard error with file, row and column, and exit code 2.
    """
    result = attribute(tmp_path, power=power, log=log, words=words)

    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert not result.stdout


def test_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    """
    Bytes that are no text name their row.
    """
    power = tmp_path / "bytes.csv"
    power.write_bytes(b"time,device,watts\n0,\xff,1\n")

    result = CliRunner().invoke(
        app, ["factory", "attribute", "--power", str(power), "--steps", str(power)]
    )

    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr
