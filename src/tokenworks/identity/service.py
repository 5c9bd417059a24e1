"""
Parties and keys as the rest of the hub uses them: one face of what the concept does.

Writes run in a transaction of their own, or in the caller's when a connection is passed:
then the caller commits, and what other processes remember is dropped at that moment by a
notification. Each act stands under its name in the module of its part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.authentication import Authenticator
from tokenworks.identity.connections import Connections
from tokenworks.identity.keys import Keys
from tokenworks.identity.parties import Parties
from tokenworks.postgres.pool import Pool


class Identity:
    """
    Know every party and key, and turn a presented secret into a principal.

    Args:
        pool: Connections to the database.
        clock: The time, for expiries, and monotonic seconds, for rates and the cache.
        ids: Mints the ids of parties and keys.
        random_bytes: Makes the secrets; unpredictable outside simulations.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        ids: IdentifierSource,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        authenticator = Authenticator(pool, clock)
        connections = Connections(pool)
        parties = Parties(
            connections, clock=clock, ids=ids, forget_all=authenticator.invalidate_all
        )
        keys = Keys(
            connections,
            clock=clock,
            ids=ids,
            random_bytes=random_bytes,
            forget=authenticator.invalidate,
        )

        self.authenticate: Final = authenticator.authenticate
        self.count_request: Final = authenticator.count_request
        self.invalidate: Final = authenticator.invalidate
        self.invalidate_all: Final = authenticator.invalidate_all
        self.watch: Final = authenticator.watch

        self.add_party: Final = parties.add_party
        self.get_party: Final = parties.get_party
        self.get_chain: Final = parties.get_chain
        self.get_chains: Final = parties.get_chains
        self.list_parties: Final = parties.list_parties
        self.list_tree: Final = parties.list_tree
        self.stopped: Final = parties.stopped
        self.set_party_state: Final = parties.set_party_state
        self.set_default_tier: Final = parties.set_default_tier

        self.add_key: Final = keys.add_key
        self.get_key: Final = keys.get_key
        self.list_keys: Final = keys.list_keys
        self.revoke_key: Final = keys.revoke_key
        self.rotate_key: Final = keys.rotate_key
        self.set_spend_path_version: Final = keys.set_spend_path_version
