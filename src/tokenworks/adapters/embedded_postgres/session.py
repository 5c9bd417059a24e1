"""
One short conversation with a server, for the operator's commands.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from tokenworks.adapters.embedded_postgres.errors import DatabaseUnreachableError

CONNECT_TIMEOUT_S: Final = 5

Session = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def open_session(dsn: str) -> Generator[Session]:
    """
    Connect in autocommit mode; whatever goes wrong between us becomes one error.

    What an operator changes (roles, slots) does not wait for a standby: a new standby must be
    possible while the old one is away and every other commit waits for it.

    Raises:
        DatabaseUnreachableError: No connection, or a statement failed.
    """
    try:
        with psycopg.connect(
            dsn,
            autocommit=True,
            application_name="tokenworks operator",
            connect_timeout=CONNECT_TIMEOUT_S,
        ) as connection:
            connection.execute("SET synchronous_commit = local")
            yield connection
    except psycopg.Error as error:
        message = f"The database refused or did not answer: {str(error).strip()}"
        raise DatabaseUnreachableError(message) from error
