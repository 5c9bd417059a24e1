"""
A hub of the last release goes on selling while this version's migrations are applied.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop, open_shop
from tests.acceptance.hub_process import (
    ANSWER_TIMEOUT_S,
    data_directory,
    raw_call,
    run_command,
    wait_for,
)

ROOT: Final = Path(__file__).resolve().parents[2]
RELEASE: Final = "v0.1.0"
RELEASE_COMMIT: Final = "abf81a8f8d9c71ea3e80ec4141a54d688fd8da86"
"""What the tag names: a clone may lack tags, and still have this commit in its history."""
ASKED: Final = os.environ.get("UPGRADE_FROM")
FROM: Final = (RELEASE, RELEASE_COMMIT) if ASKED is None else (ASKED,)
"""Tags or commits whose code is the old one; the first that the clone has is taken."""
CLIENTS: Final = 4
PAUSE_S: Final = 0.02
CALLS: Final = 50
BODY: Final = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "go on"}],
    "max_tokens": 8,
}


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The sources of the last release, as git has them.
    """
    packed = next(filter(None, map(sources_of, FROM)), None)
    if packed is None:
        pytest.skip(f"SKIPPED: {' and '.join(FROM)} are not in this clone: no upgrade is tried")
    folder = tmp_path_factory.mktemp("old-code")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def sources_of(revision: str) -> bytes | None:
    """
    Return the packed sources of a revision; ``None`` where the clone does not have it.
    """
    command = ["git", "archive", revision, "src"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def calls_meanwhile(shop: Shop) -> Generator[list[int]]:
    """
    Let clients call one time after the other; their answers' statuses are collected.
    """
    statuses: list[int] = []
    is_over = threading.Event()

    def call() -> None:
        with httpx.Client(timeout=ANSWER_TIMEOUT_S) as client:
            while not is_over.wait(PAUSE_S):
                request = raw_call(shop.buyer_key, BODY)
                statuses.append(
                    client.post(f"{shop.base_url}/chat/completions", **request).status_code
                )

    threads = [threading.Thread(target=call) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_old_code_sells_on_while_the_database_is_migrated(
    old_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No call fails before, during or after the pre-migrations; then the new code takes over.
    """
    monkeypatch.setenv("PYTHONPATH", str(old_code))
    with data_directory() as directory, open_shop(directory, workers=1) as shop:
        monkeypatch.delenv("PYTHONPATH")
        at = ("--data", str(directory), "--json")
        assert run_command("database", "status", *at).returncode == 1, "something is pending"
        with calls_meanwhile(shop) as statuses:
            wait_for("calls before", lambda: len(statuses) > CALLS)
            migrated = run_command("database", "migrate", *at)
            assert migrated.returncode == 0, migrated.stderr
            assert "_pre_" in migrated.stdout
            after = len(statuses) + CALLS
            wait_for("calls after", lambda: len(statuses) > after)
        assert set(statuses) == {200}
        assert run_command("database", "migrate", *at).returncode == 0
        shop.check_books()

        shop.stop()
        shop.start()
        assert shop.chat(shop.buyer_key, BODY).status_code == 200
        assert run_command("database", "migrate", "--post", *at).returncode == 0
        assert run_command("database", "status", *at).returncode == 0
        assert len(shop.all_calls(status="settled")) == len(statuses) + 1
        shop.check_books()
