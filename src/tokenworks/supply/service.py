"""
Suppliers and offers as the rest of the hub uses them.

Calls read the snapshot, which is in memory and whole. Writes run in a transaction of their
own, or in the caller's when a connection is passed; every process that watches loads again
at the commit, and so does this one after a transaction of its own.

Names are resolved before a transaction is opened, never inside: a caller with a transaction
of its own passes a URL that ``check_url`` returned.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import psycopg
from psycopg.errors import ForeignKeyViolation

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.supply import store, vetting
from tokenworks.supply.composing import compose_snapshot
from tokenworks.supply.errors import (
    InvalidSupplierError,
    LegPartyNotFoundError,
    OfferExistsError,
    OfferNotFoundError,
    SupplierChangedError,
    SupplierExistsError,
    SupplierNotFoundError,
    SupplyUnavailableError,
)
from tokenworks.supply.model import (
    Offer,
    OfferState,
    OfferTerms,
    Supplier,
    SupplierKind,
    SupplierState,
    SupplySnapshot,
    Timeouts,
    empty_snapshot,
)
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.ssrf import (
    CheckedUrl,
    Resolver,
    check_base_url,
    origin_of,
    resolve_host,
)


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
        self._pool = pool
        self._clock = clock
        self._ids = ids
        self._secrets = secrets
        self._resolve = resolve
        self._snapshot = empty_snapshot()
        # Loads take turns, or an older state could replace a newer one.
        self._loading = asyncio.Lock()

    # ----------------------------------------------------------------------- snapshot

    @property
    def version(self) -> int:
        """
        Return the version of the snapshot; zero before the first load.
        """
        return self._snapshot.version

    def snapshot(self) -> SupplySnapshot:
        """
        Return what was loaded last; no waiting, no copying.

        Raises:
            SupplyUnavailableError: Nothing was ever loaded; call ``reload`` at the start.
        """
        if self._snapshot.version == 0:
            message = "Suppliers and offers are not loaded yet."
            raise SupplyUnavailableError(message, retry_after_s=1.0)
        return self._snapshot

    async def reload(self) -> SupplySnapshot:
        """
        Load all suppliers and offers, as they are at one moment.

        A supplier whose key cannot be opened is left out with its offers and listed in
        ``faults``; the others go on working.

        Raises:
            SupplyUnavailableError: The database does not answer; the old snapshot stays.
        """
        async with self._loading:
            async with self._reader(None) as connection, connection.transaction():
                await store.read_one_state(connection)
                suppliers = await store.list_suppliers(connection)
                offers = await store.list_offers(connection)
            self._snapshot = compose_snapshot(
                version=self._snapshot.version + 1,
                suppliers=suppliers,
                offers=offers,
                secrets=self._secrets,
            )
            return self._snapshot

    async def watch(self, connection: Connection) -> None:
        """
        Load again whenever another process changes something, until this is cancelled.

        Args:
            connection: One of its own, outside any pool. When it breaks, the caller opens
                another and calls again: this begins with a load, because notifications may
                have been missed in between.

        Raises:
            psycopg.OperationalError: The connection broke.
            SupplyUnavailableError: A load failed.
        """
        await store.listen(connection)
        await self.reload()
        async for _ in connection.notifies():
            await self.reload()

    # ---------------------------------------------------------------------- suppliers

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
        async with self._change(connection) as open_connection:
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
        async with self._change(connection) as open_connection:
            await store.lock_supplier(open_connection, before.supplier_id)
            now_stored = await self._stored(open_connection, before.supplier_id)
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
        async with self._reader(connection) as open_connection:
            return (await self._stored(open_connection, reference)).supplier

    async def list_suppliers(self, *, connection: Connection | None = None) -> tuple[Supplier, ...]:
        """
        Return every supplier, by name.
        """
        async with self._reader(connection) as open_connection:
            stored = await store.list_suppliers(open_connection)
            return tuple(row.supplier for row in stored)

    # ------------------------------------------------------------------------- offers

    async def add_offer(
        self,
        supplier: UUID | str,
        *,
        model: str,
        tier: str,
        terms: OfferTerms,
        connection: Connection | None = None,
    ) -> Offer:
        """
        Add an offer, active.

        The order of the checks: model, tier, terms, supplier, offer exists, leg parties.

        Args:
            supplier: Id or name.
            model: The public name, without ``@``.
            tier: The class of service it is sold as.
            terms: Upstream name, cost card, split, context, priority.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidOfferError: A value breaks a rule.
            SupplierNotFoundError: There is no such supplier.
            OfferExistsError: The supplier already offers the model at the tier.
            LegPartyNotFoundError: A party of the split does not exist.
        """
        vetting.check_model_and_tier(model, tier)
        terms = vetting.complete_terms(terms)
        async with self._change(connection) as open_connection:
            stored = await self._stored(open_connection, supplier)
            offer_id = self._ids.mint()
            is_new = await store.insert_offer(
                open_connection,
                offer_id=offer_id,
                supplier_id=stored.supplier.supplier_id,
                model=model,
                tier=tier,
                terms=terms,
                now=self._clock.now(),
            )
            if not is_new:
                message = f"{stored.supplier.name!r} already offers {model!r} at tier {tier!r}."
                raise OfferExistsError(message)
            return await _offer_of(open_connection, offer_id)

    async def edit_offer(
        self, offer_id: UUID, terms: OfferTerms, *, connection: Connection | None = None
    ) -> Offer:
        """
        Put new terms in force for calls that begin from now on; the old stay on record.

        Args:
            offer_id: The offer.
            terms: All of them; see ``Offer.terms`` and ``dataclasses.replace``.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidOfferError: A value breaks a rule.
            OfferNotFoundError: There is no such offer.
            LegPartyNotFoundError: A party of the split does not exist.
        """
        terms = vetting.complete_terms(terms)
        async with self._change(connection) as open_connection:
            is_known = await store.replace_terms(
                open_connection, offer_id=offer_id, terms=terms, now=self._clock.now()
            )
            if not is_known:
                raise _no_offer(offer_id)
            return await _offer_of(open_connection, offer_id)

    async def pause_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Stop using an offer for new calls; a repeat changes nothing.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        return await self._set_offer_state(offer_id, OfferState.PAUSED, None, connection)

    async def resume_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Use a paused or blocked offer again; a repeat changes nothing.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        return await self._set_offer_state(offer_id, OfferState.ACTIVE, None, connection)

    async def block_offer(
        self, offer_id: UUID, reason: str, *, connection: Connection | None = None
    ) -> Offer:
        """
        Refuse to use an offer until an operator resumes it.

        A repeat keeps the first reason.

        Args:
            offer_id: The offer.
            reason: For the operator; made one line and cut to a bounded length.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        cleaned = vetting.clean_reason(reason)
        return await self._set_offer_state(offer_id, OfferState.BLOCKED, cleaned, connection)

    async def get_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Return an offer with its terms in force.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        async with self._reader(connection) as open_connection:
            return await _offer_of(open_connection, offer_id)

    async def get_terms(
        self, offer_id: UUID, version: int, *, connection: Connection | None = None
    ) -> OfferTerms:
        """
        Return one version of an offer's terms, in force or not: what a past call was paid by.

        Raises:
            OfferNotFoundError: There is no such offer or version.
        """
        async with self._reader(connection) as open_connection:
            terms = await store.find_terms(open_connection, offer_id=offer_id, version=version)
        if terms is None:
            raise _no_offer(offer_id)
        return terms

    async def list_offers(
        self,
        *,
        supplier: UUID | str | None = None,
        model: str | None = None,
        connection: Connection | None = None,
    ) -> tuple[Offer, ...]:
        """
        Return offers by model, tier and priority, paused and blocked ones included.

        Raises:
            SupplierNotFoundError: There is no such supplier.
        """
        async with self._reader(connection) as open_connection:
            supplier_id = None
            if supplier is not None:
                supplier_id = (await self._stored(open_connection, supplier)).supplier.supplier_id
            offers = await store.list_offers(open_connection, supplier_id=supplier_id, model=model)
            return tuple(offers)

    # ----------------------------------------------------------------------- privates

    async def _set_supplier_state(
        self, reference: UUID | str, state: SupplierState, connection: Connection | None
    ) -> Supplier:
        async with self._change(connection) as open_connection:
            stored = await self._stored(open_connection, reference)
            await store.update_supplier_state(
                open_connection,
                supplier_id=stored.supplier.supplier_id,
                state=state,
                now=self._clock.now(),
            )
            return dataclasses.replace(stored.supplier, state=state)

    async def _set_offer_state(
        self,
        offer_id: UUID,
        state: OfferState,
        reason: str | None,
        connection: Connection | None,
    ) -> Offer:
        async with self._change(connection) as open_connection:
            await store.update_offer_state(
                open_connection,
                offer_id=offer_id,
                state=state,
                blocked_reason=reason,
                now=self._clock.now(),
            )
            return await _offer_of(open_connection, offer_id)

    async def _checked(self, base_url: str | CheckedUrl, *, allow_private: bool) -> CheckedUrl:
        if isinstance(base_url, CheckedUrl):
            assert base_url.allow_private == allow_private, "checked under the same promise"
            return base_url
        return await self.check_url(base_url, allow_private=allow_private)

    async def _stored(self, connection: Connection, reference: UUID | str) -> store.StoredSupplier:
        if isinstance(reference, str):
            reference = vetting.parse_id(reference) or reference
        stored = await store.find_supplier(connection, reference)
        if stored is None:
            message = f"There is no supplier {str(reference)[:64]!r}."
            raise SupplierNotFoundError(message, param="supplier")
        return stored

    def _seal(self, api_key: str | None, supplier_id: UUID) -> bytes | None:
        return None if api_key is None else self._secrets.encrypt(api_key, owner_id=supplier_id)

    @asynccontextmanager
    async def _change(self, connection: Connection | None) -> AsyncGenerator[Connection]:
        """
        Open a transaction (in the caller's: a savepoint), tell of the change at its end.
        """
        try:
            async with (
                self._reader(connection) as open_connection,
                open_connection.transaction(),
            ):
                yield open_connection
                await store.notify(open_connection)
        except ForeignKeyViolation as error:
            raise LegPartyNotFoundError(_missing_party(error)) from error
        if connection is None:
            # The change is committed; if loading fails, the watch loads it later.
            with suppress(SupplyUnavailableError):
                await self.reload()

    @asynccontextmanager
    async def _reader(self, connection: Connection | None) -> AsyncGenerator[Connection]:
        if connection is not None:
            yield connection
            return
        try:
            async with self._pool.connection() as own:
                yield own
        except psycopg.OperationalError as error:
            message = "Suppliers and offers cannot be read or changed right now."
            raise SupplyUnavailableError(message, retry_after_s=1.0) from error


async def _offer_of(connection: Connection, offer_id: UUID) -> Offer:
    offer = await store.find_offer(connection, offer_id)
    if offer is None:
        raise _no_offer(offer_id)
    return offer


def _no_offer(offer_id: UUID) -> OfferNotFoundError:
    return OfferNotFoundError(f"There is no such offer as {offer_id}.", param="offer_id")


def _missing_party(error: ForeignKeyViolation) -> str:
    who = {
        "suppliers_party_is_a_supplier": "the supplier; it must be of kind supplier",
        "offer_terms_reseller": "the reseller share",
        "offer_terms_rights": "the rights share",
        "offer_terms_power": "the power share",
    }.get(error.diag.constraint_name or "", "one of the legs")
    return f"There is no such party for {who}."
