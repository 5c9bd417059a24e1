"""
Run one of PostgreSQL's own tools, e.g. ``pg_basebackup``.

How a tool reaches a server goes through the environment, never the argument list: a
connection string may hold a password, and every user of a machine can read arguments.
"""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from psycopg import pq

from tokenworks.adapters.embedded_postgres.binaries import program
from tokenworks.adapters.embedded_postgres.errors import PostgresToolError
from tokenworks.adapters.embedded_postgres.system_user import HUB_USER, ServerUser

OUTPUT_LINES_KEPT: Final = 20

_ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
_PERCENT: Final = re.compile(r"\((\d+)%\)")

Progressed = Callable[[int], None]
"""Told how much of a long work is done, in percent."""


def run_tool(
    name: str,
    *arguments: str,
    dsn: str | None = None,
    user: ServerUser = HUB_USER,
    on_progress: Progressed | None = None,
) -> None:
    """
    Run a tool to its end.

    Args:
        name: The program.
        arguments: What it is told; no secrets.
        dsn: The server it works on.
        user: Who runs it, and owns what it makes.
        on_progress: For tools that print ``(42%)``.

    Raises:
        PostgresToolError: It failed; the message ends with what it said.
    """
    process = subprocess.Popen(
        [program(name), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={**_ENVIRONMENT, **libpq_environment(dsn)},
        umask=0o077,
        text=True,
        errors="replace",
        user=user.user_id,
        group=user.group_id,
        extra_groups=user.extra_groups,
    )
    said: deque[str] = deque(maxlen=OUTPUT_LINES_KEPT)
    assert process.stdout is not None, "it is a pipe"
    try:
        with process.stdout as output:
            # Universal newlines: a progress line ends with a carriage return.
            for line in output:
                percent = _PERCENT.search(line)
                if percent is None:
                    said.append(line.rstrip())
                elif on_progress is not None:
                    on_progress(int(percent[1]))
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code != 0:
        message = f"{name} failed (exit code {code}):\n" + "\n".join(said)
        raise PostgresToolError(message)


def libpq_environment(dsn: str | None) -> dict[str, str]:
    """
    Return a connection string as the environment variables that PostgreSQL's tools read.

    Options that have no variable (``keepalives``) are left out.
    """
    if dsn is None:
        return {}
    options: Sequence[pq.ConninfoOption] = pq.Conninfo.parse(dsn.encode())
    return {
        option.envvar.decode(): option.val.decode()
        for option in options
        if option.envvar and option.val is not None
    }
