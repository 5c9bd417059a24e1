"""
The shell scripts behind the Makefile, on machines that lack something.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str | Path, path: Path) -> subprocess.CompletedProcess[str]:
    """
    Run one script of tools/ with nothing but ``path`` and the system's tools in reach.
    """
    return subprocess.run(
        ["/bin/sh", ROOT / "tools" / script, *arguments],
        env={"PATH": f"{path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, text: str) -> Path:
    """
    Write an executable shell script.
    """
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_missing_venv_module_says_what_to_do(tmp_path: Path) -> None:
    """
    Debian ships venv apart: the message names the package and the ways around it.
    """
    python = program(
        tmp_path / "python3", 'case "$*" in *version_info*) echo 3.11 ;; *) exit 1 ;; esac'
    )
    program(tmp_path / "virtualenv", "exit 1")

    answer = run("make_venv.sh", python, tmp_path / "venv", path=tmp_path)

    assert answer.returncode == 1
    assert "apt-get install python3-venv" in answer.stderr
    assert "virtualenv" in answer.stderr


def test_old_python_is_passed_over(tmp_path: Path) -> None:
    """
    A python3 that is too old, or a shim that does not run, is not taken.
    """
    program(tmp_path / "python3", "exit 1")
    program(tmp_path / "python3.13", "exit 127")
    good = program(tmp_path / "python3.12", "exit 0")

    assert run("find_python.sh", path=tmp_path).stdout.strip() == str(good)


def test_no_python_says_what_is_needed(tmp_path: Path) -> None:
    """
    Without any Python the message says the version and how to get it.
    """
    answer = run("make_venv.sh", "", tmp_path / "venv", path=tmp_path)

    assert answer.returncode == 1
    assert "Python 3.11 or newer" in answer.stderr
    assert "apt-get install" in answer.stderr


def test_chromium_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    """
    A browser on the PATH has to answer: Ubuntu's chromium-browser may be an advice only.
    """
    program(tmp_path / "chromium", "exit 1")
    program(tmp_path / "chromium-browser", "exit 1")
    good = program(tmp_path / "google-chrome", "echo Chromium 1")

    assert run("find_chromium.sh", path=tmp_path).stdout.strip() == str(good)


def test_make_test_runs_every_folder_of_tests() -> None:
    """
    Two lists divide the folders between two cores; a folder on neither would never run.
    """
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = [
        word
        for name in ("HUB_TESTS", "OTHER_TESTS")
        for word in makefile.split(f"{name} := ", 1)[1].split("\n", 1)[0].split()
    ]
    folders = [
        f"tests/{path.name}"
        for path in (ROOT / "tests").iterdir()
        if path.is_dir() and any(path.rglob("test_*.py"))
    ]
    assert sorted(listed) == sorted(folders)
