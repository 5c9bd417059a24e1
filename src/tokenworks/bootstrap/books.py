"""
Check and archive the books with no hub open: what the command line does beside one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psycopg

from tokenworks.bootstrap.database import posting_dsn, retention_dsn
from tokenworks.foundation.clock import SystemClock
from tokenworks.ledger.archive import ArchiveReport, archive_months
from tokenworks.ledger.check import CheckReport, check_books
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.postgres.pool import connect
from tokenworks.receipts.service import published_keys
from tokenworks.receipts.statements import is_statement_good
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.settings import Settings


async def check_ledger(
    settings: Settings,
    *,
    dsn: str | None = None,
    full: bool = False,
    archive: Path | None = None,
    root: bytes | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> CheckReport:
    """
    Rebuild the books from the entries and compare, on one snapshot.

    Args:
        settings: Say where the books are.
        dsn: Another connection string.
        full: From the first batch, not from the last checkpoint.
        archive: The folder of archived months.
        root: A file's content with the root key to trust; the database's own when omitted.
        on_progress: Told a stage and its rows.

    Raises:
        KeyFileInvalidError: ``root`` holds no key.
    """
    dsn = dsn or posting_dsn(settings)
    return await check_books(
        dsn,
        clock=SystemClock(),
        full=full,
        archive=archive,
        on_progress=on_progress,
        verify_checkpoint=await _checkpoint_verifier(dsn, root),
    )


async def _checkpoint_verifier(dsn: str, root: bytes | None) -> Callable[[bytes, str], bool] | None:
    try:
        async with await connect(dsn, name="ledger check keys") as connection:
            published = await published_keys(connection)
    except psycopg.Error as error:
        message = f"The books could not be read: {error}"
        raise LedgerUnavailableError(message) from error
    if not published["keys"] and root is None:
        return None  # nobody ever signed here
    trusted = None if root is None else TrustedKeys.from_json(root)
    keys = TrustedKeys.from_json(json.dumps(published))
    if trusted is not None and not keys.root_kids <= trusted.root_kids:
        # Signed by a root that is not the one that was kept elsewhere: nothing is trusted.
        return lambda _payload, _signature: False
    return lambda payload, signature: is_statement_good(payload, signature, keys)


def archive_ledger(
    settings: Settings,
    *,
    dsn: str,
    folder: Path,
    before: datetime,
    on_progress: Callable[[str, int], None] | None = None,
) -> ArchiveReport:
    """
    Archive and drop old months; blocks until it is done.

    Args:
        settings: Say whether the database is the hub's own.
        dsn: Any role of the hub's own database; an external one is taken as the setting
            ``retention_database_url`` says, or as its owner.
        folder: Where the files go.
        before: Months that end later stay.
        on_progress: Told each step.
    """
    return archive_months(
        retention_dsn(settings, dsn),
        folder,
        before=before,
        clock=SystemClock(),
        on_progress=on_progress,
    )
