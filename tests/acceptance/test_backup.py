"""
Back up a selling hub, restore it to a moment: exactly what was acknowledged until then.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.conftest import STUB_MODEL, Shop, open_shop
from tests.acceptance.hub_process import Document, HubProcess, data_directory, run_command

CALL: Final = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 5,
}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """
    A backup folder, and what clients had been answered by when.
    """

    folder: Path
    admin_key: str
    buyer_key: str
    backup: Document
    before: dict[str, Decimal]  # charge by call, answered before the moment
    moment: datetime
    after: dict[str, Decimal]
    events: list[Document]


@pytest.fixture(scope="module")
def saved() -> Iterator[Saved]:
    """
    The backup of a hub that has stopped since: a call before it, calls after it.
    """
    with data_directory() as directory:
        folder = directory.parent / "backups"
        environment = {"TOKENWORKS_BACKUP_DIR": str(folder)}
        with open_shop(directory, workers=1, environment=environment) as shop:
            before = dict([sell(shop)])
            backup = tell(shop, "backup", "create", "--with-keys")
            before |= [sell(shop), sell(shop)]
            moment = datetime.now(UTC)
            after = dict([sell(shop), sell(shop)])
            admin_key, buyer_key = shop.admin_key, shop.buyer_key
            assert tell(shop, "backup", "status")["is_archiving"] is True
            events = shop.events
        yield Saved(
            folder=folder,
            admin_key=admin_key,
            buyer_key=buyer_key,
            backup=backup,
            before=before,
            moment=moment,
            after=after,
            events=events,
        )


def sell(shop: Shop) -> tuple[str, Decimal]:
    """
    Make a call; return its id and its charge.
    """
    answer = shop.chat(shop.buyer_key, CALL)
    assert answer.status_code == 200, answer.text
    charge = Decimal(answer.headers["x-tokenworks-charge"])
    return answer.headers["x-tokenworks-call-id"], charge


def tell(shop: HubProcess, *arguments: str) -> Document:
    """
    Run an operator's command on the hub's machine.
    """
    done = run_command(
        *arguments, "--data", str(shop.data_dir), "--json", environment=shop.environment
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def restore(saved: Saved, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Restore the backup into a directory.
    """
    places = ("--folder", str(saved.folder), "--data", str(data_dir))
    return run_command("restore", *places, *arguments, "--json")


def charges_in(saved: Saved, data_dir: Path) -> dict[str, Decimal]:
    """
    Start a hub on restored books; return each call's charge, and check money and books.
    """
    with HubProcess(data_dir, "--no-console") as hub:
        hub.admin_key = saved.admin_key
        calls = {call["call_id"]: Decimal(call["charge"]) for call in hub.all_calls(party="buyer")}
        cash = hub.get("balance", party="buyer")["cash"][0]
        assert Decimal(cash["posted"]) == Decimal(10) - sum(calls.values())
        assert Decimal(cash["held"]) == 0
        assert hub.check_books()["is_clean"] is True
        return calls


def test_restored_books_hold_what_was_acknowledged_until_the_moment(saved: Saved) -> None:
    """
    Calls answered before the moment are there with their charges; later ones are absent.
    """
    with data_directory() as data_dir:
        done = restore(saved, data_dir, "--to", saved.moment.isoformat())
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["is_clean"] is True
        assert report["promotion"] == 1
        assert report["timeline"] == 2
        assert report["keys"] == "restored"
        for key in (data_dir / "keys").iterdir():
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert charges_in(saved, data_dir) == saved.before


def test_without_a_moment_everything_is_restored(saved: Saved) -> None:
    """
    A hub that stopped has archived its log to the end: nothing acknowledged is missing.
    """
    with data_directory() as data_dir:
        done = restore(saved, data_dir)
        assert done.returncode == 0, done.stderr
        assert charges_in(saved, data_dir) == {**saved.before, **saved.after}
        again = restore(saved, data_dir)
        assert again.returncode == 2
        assert "backup_unusable" in again.stderr, "books are never overwritten"


@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ("yesterday", "moment_invalid"),
        ("2026-01-31T12:00:00", "moment_invalid"),
        ("9999-01-01T00:00:00Z", "moment_invalid"),
        ("2020-01-01T00:00:00Z", "backup_unusable"),
    ],
)
def test_moment_that_cannot_be_reached_is_refused(saved: Saved, moment: str, code: str) -> None:
    """
    No zone, no time, not yet, or before the oldest backup: refused before anything is made.
    """
    with data_directory() as data_dir:
        done = restore(saved, data_dir, "--to", moment)
        assert done.returncode == 2
        assert json.loads(done.stderr)["error"]["code"] == code
        assert not (data_dir / "postgres").exists()


def test_moment_behind_the_end_of_the_archive_is_refused(saved: Saved) -> None:
    """
    Whether anything was committed until then cannot be known: it is not guessed.
    """
    with data_directory() as data_dir:
        late = datetime.now(UTC) - timedelta(milliseconds=1)
        done = restore(saved, data_dir, "--to", late.isoformat())
        assert done.returncode == 2
        assert "The archive ends before" in done.stderr
        assert not (data_dir / "postgres").exists()
        assert not (data_dir / "restoring").exists()


def test_damage_and_holes_are_found(saved: Saved) -> None:
    """
    A changed byte and a lost segment fail the verification, and nothing is restored.
    """
    with data_directory() as data_dir:
        copy = data_dir.parent / "copy"
        shutil.copytree(saved.folder, copy)
        arguments = ("backup", "verify", "--folder", str(copy), "--json")
        assert run_command(*arguments).returncode == 0
        segments = sorted((copy / "wal").glob("0*[0-9A-F].gz"))
        assert len(segments) >= 3
        segments[-2].unlink()
        done = run_command(*arguments)
        assert done.returncode == 1
        assert "lacks" in json.loads(done.stdout)["problems"][0]
        hole = restore(replace(saved, folder=copy), data_dir)
        assert hole.returncode == 2
        assert "lacks" in hole.stderr
        shutil.copy(saved.folder / "wal" / segments[-2].name, copy / "wal")
        books = copy / "base" / saved.backup["name"] / "postgres" / "base"
        table = max(books.rglob("[0-9]*"), key=lambda path: path.stat().st_size)
        with table.open("r+b") as file:
            file.seek(5000)
            file.write(b"\xff")
        damaged = run_command(*arguments)
        assert damaged.returncode == 1
        assert "is damaged" in json.loads(damaged.stdout)["problems"][0]
        refused = restore(replace(saved, folder=copy), data_dir)
        assert refused.returncode == 2
        assert "is damaged" in refused.stderr


def test_backup_says_what_is_in_it(saved: Saved) -> None:
    """
    The list shows each backup; its files and keys are for their owner only.
    """
    listed = run_command("backup", "list", "--folder", str(saved.folder), "--json")
    items = json.loads(listed.stdout)["items"]
    assert [item["name"] for item in items] == [saved.backup["name"]]
    assert items[0]["has_keys"] is True
    base = saved.folder / "base" / saved.backup["name"]
    assert (base / "keys" / "master.key").exists()
    for path in (base, *base.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_backup_without_a_folder_or_a_hub_says_what_to_do() -> None:
    """
    Neither is guessed.
    """
    with data_directory() as data_dir:
        nowhere = run_command("backup", "create", "--data", str(data_dir), "--json")
        assert json.loads(nowhere.stderr)["error"]["code"] == "backup_folder_missing"
        folder = ("--folder", str(data_dir.parent / "b"))
        alone = run_command("backup", "create", "--data", str(data_dir), *folder, "--json")
        assert json.loads(alone.stderr)["error"]["code"] == "hub_not_running"
