"""
What can go wrong with the embedded server.
"""

from __future__ import annotations

from tokenworks.foundation.errors import ConflictError, InvalidError, UnavailableError


class PostgresAbsentError(UnavailableError):
    """
    The wheel with PostgreSQL's programs is not installed.
    """

    code = "postgres_absent"


class PostgresStartError(UnavailableError):
    """
    PostgreSQL did not become ready; the end of its log is part of the message.
    """

    code = "postgres_start_failed"


class PostgresSystemUserError(UnavailableError):
    """
    Running as root, and no system user could be made for PostgreSQL.
    """

    code = "postgres_system_user"


class PostgresVersionError(UnavailableError):
    """
    The data directory was written by another major version of PostgreSQL.
    """

    code = "postgres_version"


class PostgresToolError(UnavailableError):
    """
    One of PostgreSQL's tools failed; the end of its output is part of the message.
    """

    code = "postgres_tool_failed"


class BackupUnusableError(InvalidError):
    """
    A backup cannot be used for what was asked; the message says why.
    """

    code = "backup_unusable"


class DatabaseUnreachableError(UnavailableError):
    """
    A server that a command works on cannot be reached, or refused.
    """

    code = "database_unreachable"


class StandbyError(ConflictError):
    """
    A standby cannot be made, joined, promoted or removed as things are.
    """

    code = "standby_refused"
