"""
Say how a process reaches the books: as which role, and behind which fence.
"""

from __future__ import annotations

from typing import Final

from psycopg import conninfo

from tokenworks.adapters.operating_system.private_file import SharedPrivateFile
from tokenworks.postgres.fence import Fence
from tokenworks.settings import Settings, read_runtime

MARK_FILE_NAME: Final = "promotion.json"
RETENTION_ROLE: Final = "tokenworks_retention"


def posting_dsn(settings: Settings) -> str:
    """
    Return the connection string of the posting role.

    Raises:
        HubNotRunningError: No database is set and no hub runs on the data directory.
    """
    if settings.database_url is not None:
        return settings.posting_database_url or settings.database_url
    return read_runtime(settings.data_dir).dsn_posting


def retention_dsn(settings: Settings, dsn: str) -> str:
    """
    Return the connection string of the retention role.
    """
    if settings.database_url is not None:
        return settings.retention_database_url or settings.database_url
    return conninfo.make_conninfo(dsn, user=RETENTION_ROLE, options="")


def make_fence(settings: Settings) -> Fence:
    """
    Return what keeps a hub's processes away from a server whose books have gone on elsewhere.
    """
    path = settings.data_dir / MARK_FILE_NAME
    return Fence(SharedPrivateFile(path), place=str(path))
