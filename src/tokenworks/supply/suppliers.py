"""
Suppliers: added, edited, paused.

Owns: how a supplier is reached, and its key, which is stored encrypted and never shown.
Does not own: what it offers (``offers``), what a URL may be (``ssrf``), the rules for values
(``vetting``).
Invariants: a stored key goes to the host it was entered for, and to no other; names are resolved
before a transaction is opened, never inside.
"""

from __future__ import annotations

import dataclasses
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Connection
from tokenworks.supply import store, vetting
from tokenworks.supply.connections import Connections
from tokenworks.supply.errors import (
    InvalidSupplierError,
    SupplierChangedError,
    SupplierExistsError,
    SupplierNotFoundError,
)
from tokenworks.supply.model import Supplier, SupplierKind, SupplierState, Timeouts
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.ssrf import CheckedUrl, Resolver, check_base_url, origin_of


class Suppliers:
    """
    The suppliers of a hub.

    Args:
        connections: Where statements run.
        clock: The time of changes.
        ids: Mints the ids of suppliers.
        secrets: Encrypts the suppliers' keys.
        resolve: Turns host names into addresses.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        clock: Clock,
        ids: IdentifierSource,
        secrets: SecretBox,
        resolve: Resolver,
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._ids = ids
        self._secrets = secrets
        self._resolve = resolve

    async def check_url(self, base_url: str, *, allow_private: bool) -> CheckedUrl:
        """
        Return a supplier's base URL in normal form if the hub may call it.

        Raises:
            UrlNotAllowedError: Malformed, or it leads where the hub may not go.
        """
        return await check_base_url(base_url, allow_private=allow_private, resolve=self._resolve)

    async def add_supplier(
        self,
        name: str,
        *,
        party_id: UUID,
        base_url: str | CheckedUrl,
        kind: SupplierKind = SupplierKind.OPENAI,
        api_key: str | None = None,
        allow_private: bool = False,
        sends_call_id: bool = False,
        timeouts: Timeouts | None = None,
        connection: Connection | None = None,
    ) -> Supplier:
        """
        Add a supplier, active.

        The order of the checks: name, key, timeouts, URL, party, name taken.

        Args:
            name: Unique among suppliers; ``[a-z0-9][a-z0-9._-]{0,62}``.
            party_id: Who is owed; a party of kind supplier.
            base_url: What the paths of the protocol are appended to, e.g. ``…/v1``.
            kind: The protocol.
            api_key: Sent with every call, stored encrypted; ``None``: the supplier wants none.
            allow_private: The operator vouches for a private address and for plain http.
            sends_call_id: Whether each request carries the hub's call id.
            timeouts: ``None``: the hub's.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidSupplierError: Name, key or timeouts break a rule.
            UrlNotAllowedError: The hub may not call the URL.
            LegPartyNotFoundError: No party of kind supplier has that id.
            SupplierExistsError: The name is taken.
        """
        timeouts = timeouts or Timeouts()
        vetting.check_supplier_name(name)
        vetting.check_api_key(api_key)
        vetting.check_timeouts(timeouts)
        checked = await self._checked(base_url, allow_private=allow_private)
        supplier = Supplier(
            supplier_id=self._ids.mint(),
            party_id=party_id,
            name=name,
            kind=kind,
            base_url=checked.url,
            has_api_key=api_key is not None,
            allow_private=allow_private,
            sends_call_id=sends_call_id,
            timeouts=timeouts,
            state=SupplierState.ACTIVE,
            created_at=self._clock.now(),
        )
        async with self._connections.changing(connection) as open_connection:
            stored = await store.insert_supplier(
                open_connection,
                supplier,
                api_key_encrypted=self._seal(api_key, supplier.supplier_id),
            )
            if stored is None:
                message = f"There is already a supplier named {name!r}."
                raise SupplierExistsError(message, param="name")
        return stored.supplier

    async def edit_supplier(
        self,
        reference: UUID | str,
        *,
        base_url: str | CheckedUrl | None = None,
        api_key: str | None = None,
        drop_api_key: bool = False,
        allow_private: bool | None = None,
        sends_call_id: bool | None = None,
        timeouts: Timeouts | None = None,
        connection: Connection | None = None,
    ) -> Supplier:
        """
        Change how a supplier is reached; what is ``None`` stays.

        A new origin (scheme, host or port) needs the key anew or dropped: else whoever may
        edit a URL could have the stored key sent to a host of their own.

        Args:
            reference: Id or name.
            base_url: Checked again whenever it or ``allow_private`` changes.
            api_key: Replaces the stored one.
            drop_api_key: Forget the stored one.
            allow_private: As in ``add_supplier``.
            sends_call_id: As in ``add_supplier``.
            timeouts: As in ``add_supplier``.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidSupplierError: A value breaks a rule, or a new origin came without a key.
            SupplierNotFoundError: There is no such supplier.
            UrlNotAllowedError: The hub may not call the URL.
            SupplierChangedError: Somebody else edited it meanwhile.
        """
        vetting.check_api_key(api_key)
        if timeouts is not None:
            vetting.check_timeouts(timeouts)
        before = await self.get_supplier(reference, connection=connection)
        vouched = before.allow_private if allow_private is None else allow_private
        url = before.base_url
        if base_url is not None or vouched != before.allow_private:
            checked = await self._checked(
                before.base_url if base_url is None else base_url, allow_private=vouched
            )
            url = checked.url
        is_moved = origin_of(url) != origin_of(before.base_url)
        if is_moved and before.has_api_key and api_key is None and not drop_api_key:
            message = "The new URL is another host: enter the supplier's key again, or drop it."
            raise InvalidSupplierError(message, code="api_key_required", param="api_key")
        async with self._connections.changing(connection) as open_connection:
            await store.lock_supplier(open_connection, before.supplier_id)
            now_stored = await stored_supplier(open_connection, before.supplier_id)
            if now_stored.supplier != before:
                message = f"The supplier {before.name!r} was changed meanwhile; look again."
                raise SupplierChangedError(message)
            sealed = now_stored.api_key_encrypted
            if api_key is not None or drop_api_key:
                sealed = self._seal(api_key, before.supplier_id)
            after = dataclasses.replace(
                before,
                base_url=url,
                has_api_key=sealed is not None,
                allow_private=vouched,
                sends_call_id=before.sends_call_id if sends_call_id is None else sends_call_id,
                timeouts=timeouts or before.timeouts,
            )
            await store.update_supplier(
                open_connection, after, api_key_encrypted=sealed, now=self._clock.now()
            )
        return after

    async def pause_supplier(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> Supplier:
        """
        Stop using a supplier for new calls; a repeat changes nothing.

        Raises:
            SupplierNotFoundError: There is no such supplier.
        """
        return await self._set_supplier_state(reference, SupplierState.PAUSED, connection)

    async def resume_supplier(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> Supplier:
        """
        Use a paused supplier again; a repeat changes nothing.

        Raises:
            SupplierNotFoundError: There is no such supplier.
        """
        return await self._set_supplier_state(reference, SupplierState.ACTIVE, connection)

    async def get_supplier(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> Supplier:
        """
        Return a supplier by id, by the text of an id, or by name.

        Raises:
            SupplierNotFoundError: There is none.
        """
        async with self._connections.reading(connection) as open_connection:
            return (await stored_supplier(open_connection, reference)).supplier

    async def list_suppliers(self, *, connection: Connection | None = None) -> tuple[Supplier, ...]:
        """
        Return every supplier, by name.
        """
        async with self._connections.reading(connection) as open_connection:
            stored = await store.list_suppliers(open_connection)
            return tuple(row.supplier for row in stored)

    async def _set_supplier_state(
        self, reference: UUID | str, state: SupplierState, connection: Connection | None
    ) -> Supplier:
        async with self._connections.changing(connection) as open_connection:
            stored = await stored_supplier(open_connection, reference)
            await store.update_supplier_state(
                open_connection,
                supplier_id=stored.supplier.supplier_id,
                state=state,
                now=self._clock.now(),
            )
            return dataclasses.replace(stored.supplier, state=state)

    async def _checked(self, base_url: str | CheckedUrl, *, allow_private: bool) -> CheckedUrl:
        if isinstance(base_url, CheckedUrl):
            assert base_url.allow_private == allow_private, "checked under the same promise"
            return base_url
        return await self.check_url(base_url, allow_private=allow_private)

    def _seal(self, api_key: str | None, supplier_id: UUID) -> bytes | None:
        return None if api_key is None else self._secrets.encrypt(api_key, owner_id=supplier_id)


async def stored_supplier(connection: Connection, reference: UUID | str) -> store.StoredSupplier:
    """
    Return a supplier by id, by the text of an id, or by name, with its key as it is stored.

    Raises:
        SupplierNotFoundError: There is none.
    """
    if isinstance(reference, str):
        reference = vetting.parse_id(reference) or reference
    stored = await store.find_supplier(connection, reference)
    if stored is None:
        message = f"There is no supplier {str(reference)[:64]!r}."
        raise SupplierNotFoundError(message, param="supplier")
    return stored
