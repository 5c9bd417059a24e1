"""
Add the first admin key, before there is a key to ask the hub with.
"""

from __future__ import annotations

from tokenworks.bootstrap.database import make_fence, posting_dsn
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import PLATFORM_ID, ApiKey, Role
from tokenworks.identity.service import Identity
from tokenworks.postgres.pool import open_pool
from tokenworks.settings import Settings


async def create_admin_key(settings: Settings) -> tuple[ApiKey, str]:
    """
    Add an admin key directly in the database; return it with its secret.
    """
    fence = make_fence(settings)
    pool = await open_pool(posting_dsn(settings), name="admin", size_max=1, fence=fence)
    try:
        clock = SystemClock()
        identity = Identity(pool, clock, IdentifierSource(clock))
        return await identity.add_key(PLATFORM_ID, role=Role.ADMIN, label="admin")
    finally:
        await pool.close()
