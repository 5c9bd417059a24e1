"""
Suppliers and offers against a real database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import PartyKind
from tokenworks.identity.service import Identity
from tokenworks.postgres.pool import Pool, connect
from tokenworks.supply.costing import axis_card, share_card
from tokenworks.supply.errors import (
    InvalidOfferError,
    InvalidSupplierError,
    LegPartyNotFoundError,
    OfferExistsError,
    OfferNotFoundError,
    SupplierChangedError,
    SupplierExistsError,
    SupplierNotFoundError,
    SupplyUnavailableError,
    UrlNotAllowedError,
)
from tokenworks.supply.model import OfferState, OfferTerms, Split, SupplierState, Timeouts
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.service import Supply

API_KEY = "sk-the-suppliers-own-key"
TERMS = OfferTerms(upstream_model="smol-135m", cost_card=share_card(700_000))
NO_SUCH_ID = UUID(int=99)


async def resolve(host: str, port: int) -> Sequence[str]:
    """
    Know one public and one private name.
    """
    known = {"api.example": ["93.184.216.34"], "other.example": ["93.184.216.35"]}
    return known.get(host, ["10.0.0.7"])


@pytest.fixture
def supply(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Supply:
    """
    A supply whose names resolve without a network.
    """
    return Supply(pool, clock, ids, SecretBox(b"k" * 32), resolve=resolve)


@pytest.fixture
async def party_id(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> UUID:
    """
    A party of kind supplier.
    """
    party = await Identity(pool, clock, ids).add_party("factory", kind=PartyKind.SUPPLIER)
    return party.party_id


async def _add(supply: Supply, party_id: UUID, name: str = "fast") -> None:
    await supply.add_supplier(
        name, party_id=party_id, base_url="https://api.example/v1/", api_key=API_KEY
    )


async def test_snapshot_is_refused_before_the_first_load(supply: Supply) -> None:
    """
    A hub that has loaded nothing says so, and does not look like one without offers.
    """
    with pytest.raises(SupplyUnavailableError):
        supply.snapshot()
    await supply.reload()
    assert supply.snapshot().offers_of("smol", "standard") == ()
    assert supply.version == 1


async def test_offer_is_routable_as_soon_as_it_is_added(supply: Supply, party_id: UUID) -> None:
    """
    The snapshot holds the offer with its terms, and the supplier with its opened key.
    """
    await _add(supply, party_id)
    offer = await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    snapshot = supply.snapshot()
    assert snapshot.offers_of("smol", "standard") == (offer,)
    assert snapshot.tiers_of("smol") == ("standard",)
    access = snapshot.suppliers[offer.supplier_id]
    assert access.api_key == API_KEY
    assert access.supplier.base_url == "https://api.example/v1"
    assert offer.supplier_party_id == party_id
    assert offer.terms == TERMS
    assert snapshot.version == 2


async def test_key_is_in_no_repr_and_not_readable_in_the_database(
    supply: Supply, party_id: UUID, pool: Pool
) -> None:
    """
    The supplier's key is encrypted at rest and masked wherever an object is printed.
    """
    await _add(supply, party_id)
    await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    shown = repr(supply.snapshot()) + repr(await supply.list_suppliers())
    assert "api.example" in shown
    assert API_KEY not in shown
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT row_to_json(suppliers)::text, api_key_encrypted FROM supply.suppliers"
        )
        row = await cursor.fetchone()
    assert row is not None
    assert API_KEY not in row[0]
    assert API_KEY.encode() not in row[1]


async def test_ciphertext_of_one_supplier_is_useless_in_the_row_of_another(
    supply: Supply, party_id: UUID, pool: Pool
) -> None:
    """
    Whoever can write rows still cannot have one supplier's key sent to another.
    """
    await _add(supply, party_id, "fast")
    await _add(supply, party_id, "slow")
    await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    await supply.add_offer("slow", model="smol", tier="standard", terms=TERMS)
    slow = await supply.get_supplier("slow")
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE supply.suppliers SET api_key_encrypted ="
            " (SELECT api_key_encrypted FROM supply.suppliers WHERE name = 'fast')"
            " WHERE name = 'slow'"
        )
    snapshot = await supply.reload()
    assert list(snapshot.faults) == [slow.supplier_id]
    assert slow.supplier_id not in snapshot.suppliers
    # The other supplier goes on working.
    assert [offer.supplier_name for offer in snapshot.offers_of("smol", "standard")] == ["fast"]


async def test_offers_of_a_model_come_by_priority(supply: Supply, party_id: UUID) -> None:
    """
    The smallest priority is tried first, the older offer first among equals.
    """
    for name, priority in (("one", 100), ("two", 50), ("three", 100)):
        await _add(supply, party_id, name)
        terms = replace(TERMS, priority=priority)
        await supply.add_offer(name, model="smol", tier="standard", terms=terms)
    offers = supply.snapshot().offers_of("smol", "standard")
    assert offers[0].supplier_name == "two"
    assert {offer.supplier_name for offer in offers[1:]} == {"one", "three"}
    assert offers[1].offer_id < offers[2].offer_id


async def test_paused_and_blocked_offers_are_not_routable(supply: Supply, party_id: UUID) -> None:
    """
    Pausing and blocking take effect at once; the first reason of a block stays.
    """
    await _add(supply, party_id)
    offer = await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)

    await supply.pause_offer(offer.offer_id)
    assert supply.snapshot().offers_of("smol", "standard") == ()
    await supply.resume_offer(offer.offer_id)
    await supply.block_offer(offer.offer_id, "reported an axis\nwithout a price")
    blocked = await supply.block_offer(offer.offer_id, "second reason")
    assert blocked.state is OfferState.BLOCKED
    assert blocked.blocked_reason == "reported an axis without a price"
    assert supply.snapshot().offers_of("smol", "standard") == ()
    assert supply.snapshot().all_offers[offer.offer_id].state is OfferState.BLOCKED

    resumed = await supply.resume_offer(offer.offer_id)
    assert resumed.blocked_reason is None
    assert supply.snapshot().offers_of("smol", "standard") == (resumed,)
    with pytest.raises(OfferNotFoundError):
        await supply.block_offer(NO_SUCH_ID, "nothing there")


async def test_paused_supplier_takes_its_offers_along(supply: Supply, party_id: UUID) -> None:
    """
    A paused supplier serves no new call; its key stays for calls in flight.
    """
    await _add(supply, party_id)
    offer = await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    paused = await supply.pause_supplier("fast")
    assert paused.state is SupplierState.PAUSED
    assert supply.snapshot().offers_of("smol", "standard") == ()
    assert supply.snapshot().suppliers[offer.supplier_id].api_key == API_KEY
    await supply.resume_supplier("fast")
    assert supply.snapshot().offers_of("smol", "standard") == (offer,)


async def test_edited_terms_leave_the_old_on_record(supply: Supply, party_id: UUID) -> None:
    """
    An edit is a new version: what a past call was paid by can always be read.
    """
    await _add(supply, party_id)
    offer = await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    dearer = replace(
        offer.terms,
        cost_card=axis_card({"input": 200_000_000, "output": 800_000_000}),
        context_tokens_max=8_192,
    )
    edited = await supply.edit_offer(offer.offer_id, dearer)
    assert edited.terms_version == 2
    assert edited.context_tokens_max == 8_192
    assert edited.terms == dearer
    assert supply.snapshot().offers_of("smol", "standard") == (edited,)
    assert await supply.get_terms(offer.offer_id, 1) == TERMS
    assert await supply.get_terms(offer.offer_id, 2) == dearer
    with pytest.raises(OfferNotFoundError):
        await supply.get_terms(offer.offer_id, 3)
    with pytest.raises(OfferNotFoundError):
        await supply.edit_offer(NO_SUCH_ID, TERMS)


async def test_supplier_needs_a_party_of_its_kind(
    supply: Supply, pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Only a party of kind supplier can be owed a purchase; the database sees to it.
    """
    buyer = await Identity(pool, clock, ids).add_party("acme", kind=PartyKind.BUYER)
    for wrong in (buyer.party_id, NO_SUCH_ID):
        with pytest.raises(LegPartyNotFoundError) as refused:
            await _add(supply, wrong)
        assert refused.value.code == "party_not_found"


async def test_parties_of_the_split_must_exist(supply: Supply, party_id: UUID) -> None:
    """
    A share is owed to somebody; which share is at fault is said.
    """
    await _add(supply, party_id)
    shares = {
        "reseller": Split(reseller_ppm=1, reseller_id=NO_SUCH_ID),
        "rights": Split(rights_ppm=1, rights_id=NO_SUCH_ID),
        "power": Split(power_ppm=1, power_id=NO_SUCH_ID),
    }
    for name, split in shares.items():
        terms = replace(TERMS, split=split)
        with pytest.raises(LegPartyNotFoundError, match=name):
            await supply.add_offer("fast", model="smol", tier="standard", terms=terms)
    with pytest.raises(InvalidOfferError, match="together take 1000001 of 1000000"):
        await supply.add_offer(
            "fast",
            model="smol",
            tier="standard",
            terms=replace(TERMS, split=Split(tax_ppm=1_000_000, rights_ppm=1, rights_id=party_id)),
        )


async def test_names_and_offers_are_unique(supply: Supply, party_id: UUID) -> None:
    """
    One supplier of a name; one offer of a supplier for a model and tier.
    """
    await _add(supply, party_id)
    with pytest.raises(SupplierExistsError):
        await _add(supply, party_id)
    await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    await supply.add_offer("fast", model="smol", tier="premium", terms=TERMS)
    with pytest.raises(OfferExistsError):
        await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    with pytest.raises(SupplierNotFoundError):
        await supply.add_offer("nobody", model="smol", tier="standard", terms=TERMS)
    assert len(await supply.list_offers(model="smol")) == 2
    assert len(await supply.list_offers(supplier="fast")) == 2
    with pytest.raises(SupplierNotFoundError):
        await supply.list_offers(supplier="nobody")


async def test_private_address_needs_the_operators_word(supply: Supply, party_id: UUID) -> None:
    """
    A name in a private network is refused unless the operator vouches for it.
    """
    with pytest.raises(UrlNotAllowedError) as refused:
        await supply.add_supplier("llama", party_id=party_id, base_url="https://inside.lan")
    assert refused.value.code == "url_not_allowed"
    assert await supply.list_suppliers() == ()
    added = await supply.add_supplier(
        "llama", party_id=party_id, base_url="http://inside.lan:8080", allow_private=True
    )
    assert not added.has_api_key
    with pytest.raises(UrlNotAllowedError):
        await supply.edit_supplier("llama", allow_private=False)


async def test_moving_to_another_host_needs_the_key_anew(supply: Supply, party_id: UUID) -> None:
    """
    Whoever edits a URL cannot have the stored key sent to a host of their own.
    """
    await _add(supply, party_id)
    with pytest.raises(InvalidSupplierError) as refused:
        await supply.edit_supplier("fast", base_url="https://other.example/v1")
    assert refused.value.code == "api_key_required"
    # The same origin with another path is the same receiver.
    same = await supply.edit_supplier("fast", base_url="https://api.example/v2")
    assert supply.snapshot().suppliers[same.supplier_id].api_key == API_KEY
    await supply.edit_supplier("fast", base_url="https://other.example", api_key="sk-new")
    assert supply.snapshot().suppliers[same.supplier_id].api_key == "sk-new"
    bare = await supply.edit_supplier("fast", base_url="https://api.example", drop_api_key=True)
    assert not bare.has_api_key
    assert supply.snapshot().suppliers[same.supplier_id].api_key is None


async def test_timeouts_are_edited_without_a_look_at_the_url(
    supply: Supply, party_id: UUID
) -> None:
    """
    What is not given stays, the key included.
    """
    await _add(supply, party_id)
    edited = await supply.edit_supplier("fast", timeouts=Timeouts(idle_timeout_ms=1_500))
    assert edited.timeouts.idle_timeout_ms == 1_500
    assert await supply.get_supplier(str(edited.supplier_id)) == edited
    assert supply.snapshot().suppliers[edited.supplier_id].api_key == API_KEY
    with pytest.raises(InvalidSupplierError):
        await supply.edit_supplier("fast", timeouts=Timeouts(idle_timeout_ms=0))


async def test_edit_of_a_supplier_that_changed_meanwhile_is_refused(
    supply: Supply, party_id: UUID, pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    The address that was checked is the address that is stored, or nothing is.
    """
    await _add(supply, party_id)
    other = Supply(pool, clock, ids, SecretBox(b"k" * 32), resolve=resolve)

    async def slow_resolve(host: str, port: int) -> Sequence[str]:
        await other.pause_supplier("fast")
        return await resolve(host, port)

    slow = Supply(pool, clock, ids, SecretBox(b"k" * 32), resolve=slow_resolve)
    with pytest.raises(SupplierChangedError):
        await slow.edit_supplier("fast", base_url="https://api.example/v2")


async def test_callers_transaction_decides(supply: Supply, party_id: UUID, pool: Pool) -> None:
    """
    With the caller's connection nothing is kept unless the caller commits.
    """
    checked = await supply.check_url("https://api.example/v1", allow_private=False)
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await supply.add_supplier(
            "fast", party_id=party_id, base_url=checked, connection=connection
        )
    assert await supply.list_suppliers() == ()
    async with pool.connection() as connection, connection.transaction():
        await supply.add_supplier(
            "fast", party_id=party_id, base_url=checked, connection=connection
        )
        with pytest.raises(SupplierExistsError):
            await supply.add_supplier(
                "fast", party_id=party_id, base_url=checked, connection=connection
            )
        await supply.add_offer(
            "fast", model="smol", tier="standard", terms=TERMS, connection=connection
        )
    assert len((await supply.reload()).offers_of("smol", "standard")) == 1


async def test_another_process_hears_of_a_change(
    supply: Supply, party_id: UUID, pool: Pool, dsn: str, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    A process that watches routes to a new offer soon after the commit that adds it.
    """
    other = Supply(pool, clock, ids, SecretBox(b"k" * 32), resolve=resolve)
    listening = await connect(dsn, name="watch")
    watching = asyncio.create_task(other.watch(listening))
    try:
        async with asyncio.timeout(60):
            await _until(lambda: other.version > 0)
            await _add(supply, party_id)
            await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
            await _until(lambda: other.snapshot().offers_of("smol", "standard"))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await listening.close()


async def test_old_snapshot_stays_when_the_database_is_out_of_reach(
    supply: Supply, party_id: UUID, pool: Pool
) -> None:
    """
    Routes stay known; it is the ledger that refuses calls without a database.
    """
    await _add(supply, party_id)
    before = supply.snapshot()
    await pool.close()
    with pytest.raises(SupplyUnavailableError):
        await supply.reload()
    assert supply.snapshot() is before


async def test_terms_cannot_be_changed_by_the_posting_role(
    supply: Supply, party_id: UUID, dsn: str, pool: Pool
) -> None:
    """
    The hub's own role runs every operation and can neither edit nor delete old terms.
    """
    connection = await connect(dsn, name="posting")
    checked = await supply.check_url("https://api.example", allow_private=False)
    try:
        await connection.execute("SET ROLE tokenworks_posting")
        async with connection.transaction():
            await supply.add_supplier(
                "fast", party_id=party_id, base_url=checked, connection=connection
            )
            offer = await supply.add_offer(
                "fast", model="smol", tier="standard", terms=TERMS, connection=connection
            )
            await supply.edit_offer(offer.offer_id, TERMS, connection=connection)
            await supply.block_offer(offer.offer_id, "test", connection=connection)
            await supply.edit_supplier("fast", timeouts=Timeouts(), connection=connection)
            await supply.pause_supplier("fast", connection=connection)
        for statement in (
            "UPDATE supply.offer_terms SET tax_ppm = 1",
            "DELETE FROM supply.offer_terms",
            "UPDATE supply.offers SET model = 'x'",
            "DELETE FROM supply.suppliers",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_database_refuses_terms_that_do_not_add_up(
    supply: Supply, party_id: UUID, pool: Pool
) -> None:
    """
    Even a program that skips the checks cannot give away more than the charge.
    """
    await _add(supply, party_id)
    offer = await supply.add_offer("fast", model="smol", tier="standard", terms=TERMS)
    insert = (
        "INSERT INTO supply.offer_terms (offer_id, version, upstream_model, priority,"
        " supplier_share_ppm, costs, tax_ppm, reseller_ppm, rights_ppm, power_ppm, created_at)"
        " VALUES (%s, 2, 'm', 1, %s, %s, %s, 0, %s, 0, '2026-01-01Z')"
    )
    bad = [
        (700_000, None, 1_000_000, 1),
        (1_000_001, None, 0, 0),
        (None, None, 0, 0),
        (700_000, "{}", 0, 0),
        (None, "[]", 0, 0),
        (700_000, None, 0, 1),
    ]
    async with pool.connection() as connection:
        for row in bad:
            with pytest.raises(psycopg.errors.CheckViolation):
                await connection.execute(insert, (offer.offer_id, *row))


async def _until(condition: Callable[[], object]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0)
