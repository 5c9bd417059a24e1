"""
What is installed: the locks and the wheel.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tokenworks"
LOCKS = sorted(ROOT.glob("requirements*.lock"))
SHIPPED_SUFFIXES = {".py", ".sql", ".yaml", ".json", ".css", ".js", ".svg", ".html", ".typed"}


def pins(lock: Path) -> dict[str, str]:
    """
    Return the version of each package of a lock.
    """
    return dict(re.findall(r"^(\S+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_pins_with_hashes_and_names_no_host(lock: Path) -> None:
    """
    A lock installs from any index: exact versions, hashes, no address.
    """
    text = lock.read_text()
    starts = re.findall(r"^[A-Za-z][^\n]*", text, re.MULTILINE)
    requirements = re.findall(
        r"^[a-z][^\n]*(?:\\\n {4}--hash=sha256:[0-9a-f]{64} ?)+", text, re.MULTILINE
    )

    assert starts
    assert len(requirements) == len(starts)
    assert all("==" in start for start in starts)
    assert not re.search(r"://|index-url|find-links|trusted-host", text)


def test_development_sits_on_the_shipped_versions() -> None:
    """
    What is tested is what is shipped: the two locks agree where they overlap.
    """
    shipped = pins(ROOT / "requirements.lock")
    tested = pins(ROOT / "requirements-dev.lock")

    assert {name: tested.get(name) for name in shipped} == shipped


def test_wheel_holds_code_sql_catalogue_and_assets(tmp_path: Path) -> None:
    """
    `pip install .` gives the same program: every file below the package is in the wheel.
    """
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("tokenworks-*.whl")

    names = set(zipfile.ZipFile(wheel).namelist())

    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in SHIPPED_SUFFIXES
    }
    assert expected - names == set()
    assert any(name.endswith("entry_points.txt") for name in names)
