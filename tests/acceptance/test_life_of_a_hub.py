"""
A hub from its start to its stop: what it writes, prints, refuses, and finds again.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import time

from tests.acceptance.conftest import STUB_MODEL, Demo, Shop
from tests.acceptance.hub_process import (
    COMMAND,
    READY_TIMEOUT_S,
    STOP_TIMEOUT_S,
    clean_environment,
    data_directory,
    run_command,
    still_running,
    wait_for,
)
from tokenworks.testing.supplier_behaviour import Behaviour


def test_demo_file_has_its_fields_for_its_owner_only(demo: Demo) -> None:
    """
    Whoever may read `demo.json` may spend: nobody but its owner.
    """
    assert set(demo.fields) == {
        "base_url",
        "console_url",
        "admin_key",
        "buyer_key",
        "model",
        "receipt_public_key",
    }
    assert stat.S_IMODE(demo.file.stat().st_mode) == 0o600
    for private in ("keys", "logs"):
        assert stat.S_IMODE((demo.data_dir / private).stat().st_mode) & 0o077 == 0
    assert demo.fields["base_url"] == demo.base_url


def test_every_start_up_step_is_reported(demo: Demo) -> None:
    """
    Each step says its name and its seconds.
    """
    steps = [event["step"] for event in demo.events if event.get("event") == "step"]
    assert steps == ["postgres", "migrations", "model", "demo", "gateway", "console"]


def test_public_doors_answer_without_a_key(demo: Demo) -> None:
    """
    Health, metrics, receipt keys and the API's description are open; the root key of the
    receipts is the one in `demo.json`.
    """
    assert demo.http.get(f"{demo.url}/healthz").status_code == 200
    assert "tokenworks_calls_total" in demo.http.get(f"{demo.url}/metrics").text
    published = demo.http.get(f"{demo.url}/.well-known/jwks.json").json()["keys"]
    root = demo.fields["receipt_public_key"]
    assert root["x"] in {key["x"] for key in published}
    assert not any("d" in key for key in published), "a private key is published"
    description = demo.http.get(f"{demo.url}/hub/v1/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert "/hub/v1/balance" in description["paths"] or "/balance" in description["paths"]


def test_console_answers_and_wants_a_login(demo: Demo) -> None:
    """
    The console shows nothing of the books to a visitor without a key.
    """
    console = str(demo.fields["console_url"])
    answer = demo.http.get(console, follow_redirects=True, headers={"accept": "text/html"})
    assert answer.status_code in {200, 401}
    assert "acme" not in answer.text
    assert "<form" in answer.text
    assert 'type="password"' in answer.text


def test_second_hub_on_the_directory_is_refused_with_the_firsts_pid(demo: Demo) -> None:
    """
    One hub a data directory.
    """
    done = run_command("up", "--data", str(demo.data_dir), "--port", "0")
    assert done.returncode == 2
    assert str(demo.pid) in done.stderr
    assert str(demo.data_dir) in done.stderr


def test_port_in_use_is_refused_with_what_to_do() -> None:
    """
    The message names the port and the flag that chooses another.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken, data_directory() as directory:
        port = taken.getsockname()[1]
        done = run_command("up", "--data", str(directory), "--port", str(port), "--no-console")
        assert done.returncode == 2
        assert str(port) in done.stderr
        assert "--port" in done.stderr


def test_interrupt_stops_everything_and_the_books_are_found_again(demo: Demo) -> None:
    """
    Ctrl-C leaves no process behind; the next start serves the same keys and the same books.
    """
    keys = {name: demo.fields[name] for name in ("admin_key", "buyer_key", "model")}
    root = demo.fields["receipt_public_key"]
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
    assert demo.chat(demo.buyer_key, body).status_code == 200
    calls, balance = demo.all_calls(), demo.get("balance", party="acme")
    receipt = demo.get(f"receipts/{calls[0]['call_id']}")
    tree = demo.tree_of(demo.pid)
    assert len(tree) > 5

    try:
        assert demo.stop(signal.SIGINT) == 0
        assert demo.left_behind == []
        assert still_running(tree) == []
        assert not (demo.data_dir / "runtime.json").exists()
        demo.check_books()
    finally:
        demo.start()  # Others use it, whatever became of this test.

    assert {name: demo.fields[name] for name in keys} == keys
    assert demo.fields["receipt_public_key"] == root
    assert demo.all_calls() == calls
    assert demo.get("balance", party="acme") == balance
    assert demo.get(f"receipts/{calls[0]['call_id']}") == receipt
    assert demo.chat(demo.buyer_key, body).status_code == 200


def test_killed_supervisor_takes_its_children_along(small_shop: Shop) -> None:
    """
    After ``kill -9`` of `up` nothing keeps running, and the next start takes the lock over.
    """
    hub = small_shop
    tree = hub.tree_of(hub.pid)
    os.kill(hub.pid, signal.SIGKILL)
    hub.stop()
    wait_for("its children end", lambda: not still_running(tree))
    hub.start()
    assert any("taking over" in event.get("text", "") for event in hub.events)
    assert hub.http.get(f"{hub.url}/healthz").status_code == 200


def test_terminal_shows_progress_and_what_to_try_next() -> None:
    """
    On a terminal each step is a line; the end names a curl call, Python and the console, and
    shows no key.
    """
    with data_directory() as directory:
        master, slave = pty.openpty()
        command = [*COMMAND, "up", "--demo", "--data", str(directory)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--console-port", "0"],
            env=clean_environment({"TERM": "xterm", "COLUMNS": "200"}),
            start_new_session=True,
            stderr=slave,
            stdout=slave,
        )
        os.close(slave)
        text = ""
        try:
            text = read_terminal(master, until="The console:")
            secrets = json.loads((directory / "demo.json").read_text())
        finally:
            process.send_signal(signal.SIGINT)
            text += read_terminal(master, until=None) if process.poll() is None else ""
            process.wait(STOP_TIMEOUT_S)
            os.close(master)
    assert process.returncode == 0
    for word in ("PostgreSQL", "Books", "Demo model", "Gateway on port", "Console on port"):
        assert word in text
    for word in ("curl ", "openai.OpenAI(", "chat.completions.create", "Ctrl-C"):
        assert word in text
    assert secrets["admin_key"] not in text
    assert secrets["buyer_key"] not in text
    assert "Stopped." in text


def read_terminal(master: int, *, until: str | None) -> str:
    """
    Read what a terminal shows until a word comes, or until nobody writes any more.
    """
    text = ""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            text += os.read(master, 65_536).decode(errors="replace")
        except OSError:
            return text
        if until is not None and until in text:
            return text
    message = f"{until!r} did not come: {text}"
    raise AssertionError(message)


def test_calls_in_flight_are_finished_before_a_stop(small_shop: Shop) -> None:
    """
    SIGTERM drains: the stream that runs ends whole, with its receipt, and is charged.
    """
    shop = small_shop
    before = shop.check_books()["counts"].get("receipts", 0)  # none yet, none counted
    shop.stub.set_behaviour(Behaviour(completion_tokens=60, chunk_pace_ms=20, gate_after_chunks=3))
    question = [{"role": "user", "content": "a"}]
    body = {"model": STUB_MODEL, "messages": question, "max_tokens": 60, "stream": True}
    with shop.stream(shop.buyer_key, body) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        os.kill(shop.pid, signal.SIGTERM)
        shop.stub.release()
        text = [first, *lines]
    assert text[-2] == "data: [DONE]"
    assert any(line.startswith(": tokenworks-receipt ") for line in text)
    wait_for("the hub has stopped", lambda: not shop.is_running)
    assert shop.check_books()["counts"]["receipts"] == before + 1
