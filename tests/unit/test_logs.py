"""
Logs: one JSON object a line, and no credential on any of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tokenworks.logs import LossyStream, configure_logs, redact_secrets

KEY = "tw_Abcd" + "x" * 39
SHOWN = "tw_Abcd[redacted]"


def redacted(**event: Any) -> dict[str, Any]:  # noqa: ANN401 - anything may be logged
    """
    Return an event as it would be written.
    """
    return dict(redact_secrets(None, "info", dict(event)))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (KEY, SHOWN),
        (f"key {KEY} was refused", f"key {SHOWN} was refused"),
        (f'{{"api":"{KEY}"}}', f'{{"api":"{SHOWN}"}}'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: [redacted]"),
        ("sk-proj-0123456789abcdef", "[redacted]"),
        (KEY.encode(), SHOWN),
        (["first", KEY], ["first", SHOWN]),
        ({"deep": [{"er": KEY}]}, {"deep": [{"er": SHOWN}]}),
        ({"Authorization": "Basic dXNlcg=="}, {"Authorization": "[redacted]"}),
        ("twelve_o_clock", "twelve_o_clock"),
        ("task-force of risk-takers", "task-force of risk-takers"),
        (17, 17),
        (None, None),
        (1.5, 1.5),
    ],
)
def test_what_looks_like_a_credential_is_masked(value: object, written: object) -> None:
    """
    Wherever it stands in an event; of the hub's own keys the prefix for humans stays.
    """
    assert redacted(what=value)["what"] == written


@pytest.mark.parametrize(
    "name", ["authorization", "api_key", "API_KEY", "secret", "password", "master_key", "body"]
)
def test_fields_named_like_secrets_are_never_written(name: str) -> None:
    """
    Whatever their value looks like.
    """
    assert redacted(**{name: "plain words"}) == {name: "[redacted]"}


def test_what_is_nested_without_end_is_cut() -> None:
    """
    A structure that refers to itself ends the line, not the process.
    """
    loop: dict[str, Any] = {}
    loop["again"] = loop

    assert "[redacted]" in json.dumps(redacted(what=loop))


@contextlib.contextmanager
def configured() -> Generator[None]:
    """
    Log as a process does, and as before afterwards.
    """
    handlers = logging.getLogger().handlers[:]
    configure_logs("info", process="gateway-7")
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers


def test_a_line_is_an_object_that_names_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Level, time, process and event stand on every line; levels below the set one do not.
    """
    with configured():
        log = structlog.get_logger("test")
        log.debug("unseen")
        log.info("call_settled", call_id="c-1", key=KEY)

    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["event"] == "call_settled"
    assert event["level"] == "info"
    assert event["process"] == "gateway-7"
    assert event["timestamp"].endswith("Z")
    assert (event["call_id"], event["key"]) == ("c-1", SHOWN)


def test_a_traceback_is_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    """
    An exception may quote what it was given.
    """
    with configured():
        try:
            raise ValueError(KEY)
        except ValueError:
            structlog.get_logger("test").exception("unexpected_error")

    written = capsys.readouterr().err
    assert "ValueError" in written
    assert KEY not in written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_drops_the_line_and_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A ledger writer that fell over its own warning would never commit again.
    """
    device = io.FileIO("/dev/full", "w")
    full = io.TextIOWrapper(device, write_through=True)
    with pytest.raises(OSError, match="No space left"):
        full.write("a line\n")
    monkeypatch.setattr(sys, "stderr", full)
    with configured():
        for _ in range(3):
            structlog.get_logger("test").warning("ledger_connection_lost")
    assert LossyStream(full).write("a line\n") == len("a line\n")
    with contextlib.suppress(OSError):
        full.close()
    device.close()
