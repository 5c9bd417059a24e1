"""
Commands find their hub and key, and say what went wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    Connection,
    HubClient,
    find_connection,
)
from tokenworks.cli.rendering import Output, clean, to_text

ADMIN_KEY = "tw_admin-secret-that-is-long"


def write_demo(data: Path, base_url: str = "http://127.0.0.1:9000/v1") -> None:
    """
    Leave a demo's hand-over file.
    """
    (data / "demo.json").write_text(json.dumps({"base_url": base_url, "admin_key": ADMIN_KEY}))


def hub_that(
    answer: Callable[[httpx.Request], httpx.Response], key: str | None = "tw_key-of-test"
) -> HubClient:
    """
    Return a client whose network is a function.
    """
    connection = Connection(
        url="http://hub", url_source="--url", key=key, key_source="TOKENWORKS_KEY"
    )
    return HubClient(connection, output=Output(as_json=True), transport=httpx.MockTransport(answer))


def test_options_win_over_environment_and_demo(tmp_path: Path) -> None:
    """
    Option, environment, demo.json, default: in this order.
    """
    write_demo(tmp_path)
    environment = {"TOKENWORKS_URL": "http://env:1", "TOKENWORKS_KEY": "tw_env"}

    by_option = find_connection(
        url="http://option:2/hub/v1", key="tw_option", data=tmp_path, environment=environment
    )
    by_environment = find_connection(url=None, key=None, data=tmp_path, environment=environment)
    by_demo = find_connection(url=None, key=None, data=tmp_path, environment={})
    by_default = find_connection(url=None, key=None, data=tmp_path / "none", environment={})

    assert (by_option.url, by_option.key) == ("http://option:2", "tw_option")
    assert (by_environment.url, by_environment.key) == ("http://env:1", "tw_env")
    assert (by_demo.url, by_demo.key) == ("http://127.0.0.1:9000", ADMIN_KEY)
    assert (by_default.url, by_default.key) == ("http://127.0.0.1:8700", None)


def test_the_demos_key_stays_with_the_demo(tmp_path: Path) -> None:
    """
    A key never travels to a hub it does not belong to.
    """
    write_demo(tmp_path)

    elsewhere = find_connection(url="http://other:1", key=None, data=tmp_path, environment={})

    assert elsewhere.key is None


def test_a_broken_demo_file_is_as_none(tmp_path: Path) -> None:
    """
    A half-written hand-over file is no error.
    """
    (tmp_path / "demo.json").write_text("{")

    assert find_connection(url=None, key=None, data=tmp_path, environment={}).key is None


def test_a_key_is_never_shown_whole() -> None:
    """
    Neither the repr nor the hint of a 401 holds more than the prefix.
    """
    hub = hub_that(
        lambda _: httpx.Response(401, json={"detail": "Unknown key.", "code": "invalid_api_key"}),
        key=ADMIN_KEY,
    )

    with pytest.raises(CommandError) as caught:
        hub.get("whoami")

    assert caught.value.exit_code == EXIT_REFUSED
    assert caught.value.hint is not None
    assert ADMIN_KEY[:10] in caught.value.hint
    assert ADMIN_KEY not in caught.value.hint + repr(hub.connection)


def test_no_hub_says_how_to_start_one() -> None:
    """
    A refused connection is exit 2 with the command that starts a hub.
    """

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(CommandError) as caught:
        hub_that(refuse).get("whoami")

    assert caught.value.exit_code == EXIT_COULD_NOT_RUN
    assert "tokenworks up" in str(caught.value.hint)


def test_no_key_says_how_to_make_one() -> None:
    """
    Without a key nothing is sent.
    """
    with pytest.raises(CommandError) as caught:
        hub_that(lambda _: httpx.Response(200, json={}), key=None).get("whoami")

    assert caught.value.exit_code == EXIT_COULD_NOT_RUN
    assert "key add --admin" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (400, EXIT_REFUSED),
        (402, EXIT_REFUSED),
        (403, EXIT_REFUSED),
        (404, EXIT_REFUSED),
        (409, EXIT_REFUSED),
        (429, EXIT_REFUSED),
        (502, EXIT_REFUSED),
        (500, EXIT_COULD_NOT_RUN),
        (503, EXIT_COULD_NOT_RUN),
    ],
)
def test_refused_is_1_and_unavailable_is_2(status: int, exit_code: int) -> None:
    """
    A script can tell a no from a cannot.
    """
    hub = hub_that(lambda _: httpx.Response(status, json={"detail": "No.", "code": "x"}))

    with pytest.raises(CommandError) as caught:
        hub.get("x")

    assert (caught.value.exit_code, caught.value.message) == (exit_code, "No.")


def test_a_server_that_is_no_hub_is_told_apart() -> None:
    """
    HTML instead of JSON is exit 2.
    """
    with pytest.raises(CommandError) as caught:
        hub_that(lambda _: httpx.Response(200, text="<html>")).get("x")

    assert caught.value.exit_code == EXIT_COULD_NOT_RUN


def test_pages_are_followed_up_to_a_bound() -> None:
    """
    All pages are read, and never more rows than asked for.
    """

    def page(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("cursor", "0"))
        count = int(request.url.params["limit"])
        items = [{"n": n} for n in range(start, min(start + count, 700))]
        following = str(start + count) if start + count < 700 else None
        return httpx.Response(200, json={"items": items, "next_cursor": following})

    assert [row["n"] for row in hub_that(page).pages("calls")] == list(range(700))
    assert len(hub_that(page).pages("calls", rows_max=600)) == 600


def test_a_write_is_repeated_once_with_the_same_key() -> None:
    """
    When the answer is lost on the way, the same Idempotency-Key goes again.
    """
    keys: list[str] = []

    def lose_first(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(201, json={"done": True})

    assert hub_that(lose_first).post("parties", {"name": "a", "parent": None}) == {"done": True}
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_absent_fields_are_left_out() -> None:
    """
    An option that was not given is not sent as null.
    """
    bodies: list[Any] = []

    def keep(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={})

    hub_that(keep).patch("suppliers/x", {"base_url": None, "allow_private": False})

    assert bodies == [{"allow_private": False}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        ("a\x1b[31mb\nc", "a[31mb c"),
        ({"name": "acme", "party_id": "1"}, "acme"),
        ({"input": 5}, "input=5"),
        (["a", "b"], "a, b"),
        (12, "12"),
    ],
)
def test_values_are_shown_as_people_write_them(value: object, text: str) -> None:
    """
    Names instead of records, and never a control character.
    """
    assert to_text(value) == text


def test_text_of_others_cannot_drive_the_terminal() -> None:
    """
    Escape sequences lose their escape.
    """
    assert "\x1b" not in clean("\x1b]0;title\x07\x9b31m")
