"""
The built wheel, installed elsewhere, is the whole product.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.acceptance.hub_process import HubProcess, clean_environment, data_directory

ROOT = Path(__file__).parents[2]
STEP_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder with the installed wheel; its dependencies come from this environment.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], capture_output=True, check=True, timeout=STEP_TIMEOUT_S)
    wheel = next(folder.glob("tokenworks-*.whl"))
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(target), str(wheel)],
        check=True,
        timeout=STEP_TIMEOUT_S,
    )
    return target


def run_installed(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run Python with the installed package instead of the checkout.
    """
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        check=True,
        cwd=site,
        env=clean_environment({"PYTHONPATH": str(site)}),
        text=True,
        timeout=STEP_TIMEOUT_S,
    )


def test_installed_command_runs(installed: Path) -> None:
    """
    The module and the script of the wheel are there and say their version.
    """
    done = run_installed(installed, "-m", "tokenworks.cli.main", "--version")
    assert done.stdout.startswith("tokenworks ")
    assert (installed / "bin" / "tokenworks").is_file()


def test_installed_package_finds_its_sql_catalogue_and_console(installed: Path) -> None:
    """
    What is no Python is inside too, and is read from there.
    """
    program = """
import json, pathlib, tokenworks
from tokenworks.pricing.tiers import load_tiers
from tokenworks.postgres.queries import load
root = pathlib.Path(tokenworks.__file__).parent
print(json.dumps({
    "root": str(root),
    "tiers": sorted(load_tiers()),
    "queries": len(load("tokenworks.gateway").names),
    "migrations": len(list((root / "postgres" / "migrations").glob("*.sql"))),
    "console": sum(file.is_file() for file in (root / "web" / "console").rglob("*")
                   if file.suffix not in {".py", ".pyc"}),
}))
"""
    found = json.loads(run_installed(installed, "-c", program).stdout)
    assert found["root"] == str(installed / "tokenworks")
    assert set(found["tiers"]) >= {"free", "standard", "premium", "high_speed", "elite"}
    assert found["queries"] > 0
    assert found["migrations"] == len(list(ROOT.glob("src/tokenworks/postgres/migrations/*.sql")))
    assert found["console"] > 0


def test_installed_hub_starts_and_its_books_are_clean(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The same hub as from the checkout: it migrates, serves, stops.
    """
    assert sysconfig.get_paths()["purelib"] != str(installed)
    environment = {"PYTHONPATH": str(installed)}
    with (
        data_directory() as directory,
        HubProcess(directory, "--no-console", environment=environment) as hub,
    ):
        gateway = Path(f"/proc/{hub.children()['gateway-0']}/environ").read_bytes()
        assert str(installed).encode() in gateway
        hub.add_admin()
        assert hub.get("parties")["items"]
        hub.check_books()
