"""
Suppliers and offers as the rest of the hub uses them: one face of what the concept does.

Calls read the snapshot, which is in memory and whole. Writes run in a transaction of their
own, or in the caller's when a connection is passed; every process that watches loads again
at the commit, and so does this one after a transaction of its own. Each act stands under its
name in the module of its part.

Names are resolved before a transaction is opened, never inside: a caller with a transaction
of its own passes a URL that ``check_url`` returned.
"""

from __future__ import annotations

from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Pool
from tokenworks.supply.connections import Connections
from tokenworks.supply.offers import Offers
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.snapshots import Snapshots
from tokenworks.supply.ssrf import Resolver, resolve_host
from tokenworks.supply.suppliers import Suppliers


class Supply:
    """
    Know every supplier and offer.

    Args:
        pool: Connections to the database.
        clock: The time of changes.
        ids: Mints the ids of suppliers and offers.
        secrets: Encrypts the suppliers' keys.
        resolve: Turns host names into addresses; replaced in tests.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        ids: IdentifierSource,
        secrets: SecretBox,
        *,
        resolve: Resolver = resolve_host,
    ) -> None:
        snapshots = Snapshots(pool, secrets)
        connections = Connections(pool, reload=snapshots.reload)
        suppliers = Suppliers(connections, clock=clock, ids=ids, secrets=secrets, resolve=resolve)
        offers = Offers(connections, clock=clock, ids=ids)

        self._snapshots = snapshots
        self.snapshot: Final = snapshots.snapshot
        self.reload: Final = snapshots.reload
        self.watch: Final = snapshots.watch

        self.check_url: Final = suppliers.check_url
        self.add_supplier: Final = suppliers.add_supplier
        self.edit_supplier: Final = suppliers.edit_supplier
        self.pause_supplier: Final = suppliers.pause_supplier
        self.resume_supplier: Final = suppliers.resume_supplier
        self.get_supplier: Final = suppliers.get_supplier
        self.list_suppliers: Final = suppliers.list_suppliers

        self.add_offer: Final = offers.add_offer
        self.edit_offer: Final = offers.edit_offer
        self.pause_offer: Final = offers.pause_offer
        self.resume_offer: Final = offers.resume_offer
        self.block_offer: Final = offers.block_offer
        self.get_offer: Final = offers.get_offer
        self.get_terms: Final = offers.get_terms
        self.list_offers: Final = offers.list_offers

    @property
    def version(self) -> int:
        """
        Return the version of the snapshot; zero before the first load.
        """
        return self._snapshots.version
