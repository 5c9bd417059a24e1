"""
An operator archives an old month of a running hub by command, and checks across the cut.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psycopg

from tests.acceptance.conftest import STUB_MODEL, Shop
from tests.acceptance.hub_process import run_command

BODY = {
    "model": STUB_MODEL,
    "messages": [{"role": "user", "content": "go on"}],
    "max_tokens": 8,
}


def test_month_is_archived_by_command_while_the_hub_sells(small_shop: Shop, tmp_path: Path) -> None:
    """
    The command writes, proves and drops; the quick check goes on, the full one asks for the files.
    """
    shop, place = small_shop, tmp_path / "archive"
    assert shop.chat(shop.buyer_key, BODY).status_code == 200
    runtime = json.loads((shop.data_dir / "runtime.json").read_text(encoding="utf-8"))
    with psycopg.connect(runtime["dsn_owner"], autocommit=True) as owner:
        # A hub is too young for an old month, so it is given an empty one.
        owner.execute("SELECT ledger.ensure_partitions_v1('2026-01-15Z', 1)")
    at = ("--data", str(shop.data_dir), "--json")
    archived = run_command("ledger", "archive", "--before", "2026-02-01", "--to", str(place), *at)
    shop.archive = place
    assert archived.returncode == 0, archived.stderr
    (month,) = json.loads(archived.stdout)["months"]
    assert month["starts_at"] == "2026-01-01T00:00:00Z"
    assert (place / "2026-01" / "ledger.entries.parquet").exists()
    assert (place / "2026-01").stat().st_mode & 0o077 == 0, "calls are nobody else's business"
    assert shop.chat(shop.buyer_key, BODY).status_code == 200

    assert run_command("ledger", "check", *at).returncode == 0
    unnamed = run_command("ledger", "check", "--full", *at)
    assert unnamed.returncode == 2
    assert "--archive" in unnamed.stderr
    full = run_command("ledger", "check", "--archive", str(place), *at)
    assert full.returncode == 0, full.stdout
    files = len(list((place / "2026-01").glob("*.parquet")))
    assert json.loads(full.stdout)["counts"]["archived_files"] == files
    changed = tmp_path / "changed"
    shutil.copytree(place, changed)
    with (changed / "2026-01" / "ledger.batches.parquet").open("ab") as file:
        file.write(b"x")
    assert run_command("ledger", "check", "--archive", str(changed), *at).returncode == 1
