"""
Parties and keys against a real database.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity import store
from tokenworks.identity.errors import (
    IdentityUnavailableError,
    InvalidApiKeyError,
    InvalidKeyError,
    InvalidPartyError,
    KeyExpiredError,
    KeyNotActiveError,
    KeyNotFoundError,
    KeyRevokedError,
    PartyClosedError,
    PartyExistsError,
    PartyFrozenError,
    PartyNotFoundError,
    PartyStateError,
    RequestRateExceededError,
    TooManyFailuresError,
)
from tokenworks.identity.model import (
    PLATFORM_ID,
    TAX_ID,
    Level,
    PartyKind,
    PartyState,
    Role,
)
from tokenworks.identity.service import Identity
from tokenworks.postgres.pool import Pool, connect

NO_SUCH_ID = UUID(int=99)


@pytest.fixture
def identity(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Identity:
    """
    Parties and keys on the fresh database.
    """
    return Identity(pool, clock, ids)


async def _add_tree(identity: Identity) -> None:
    """
    Add acme > research > ada > crawler.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER, default_tier="premium")
    await identity.add_party("research", kind=PartyKind.BUYER, parent="acme")
    await identity.add_party("ada", kind=PartyKind.BUYER, parent="research")
    await identity.add_party("crawler", kind=PartyKind.BUYER, parent="ada")


async def test_platform_and_tax_authority_exist_from_the_start(identity: Identity) -> None:
    """
    The hub's own two parties need no set-up and come first in every list.
    """
    parties = await identity.list_parties()
    assert [(party.party_id, party.kind) for party in parties] == [
        (PLATFORM_ID, PartyKind.PLATFORM),
        (TAX_ID, PartyKind.TAX_AUTHORITY),
    ]


async def test_principal_has_the_whole_chain_and_the_nearest_tier(identity: Identity) -> None:
    """
    A key of a leaf acts for the whole chain, root first, at the nearest tier named.
    """
    await _add_tree(identity)
    chain = await identity.get_chain("crawler")
    assert [party.level for party in chain] == list(Level)

    key, secret = await identity.add_key("crawler", label="night run", models=["smol@free"])
    principal = await identity.authenticate(secret)

    assert principal.chain == tuple(party.party_id for party in chain)
    assert principal.organisation_name == "acme"
    assert principal.organisation_id == chain[0].party_id
    assert principal.party_id == chain[-1].party_id
    assert principal.default_tier == "premium"
    assert principal.spend_path_id == key.key_id
    assert principal.spend_path_version == 1
    assert principal.models == frozenset({"smol@free"})
    assert secret.startswith(key.prefix)

    await identity.set_default_tier("research", "elite")
    assert (await identity.authenticate(secret)).default_tier == "elite"


async def test_party_is_found_by_id_text_and_name(identity: Identity) -> None:
    """
    An id, its text and the name all lead to the same party.
    """
    party = await identity.add_party("acme", kind=PartyKind.BUYER)
    assert await identity.get_party("acme") == party
    assert await identity.get_party(party.party_id) == party
    assert await identity.get_party(str(party.party_id)) == party
    with pytest.raises(PartyNotFoundError):
        await identity.get_party("nobody")


async def test_name_is_unique_in_the_hub(identity: Identity) -> None:
    """
    Two parties never share a name, whatever their kinds.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    with pytest.raises(PartyExistsError) as refused:
        await identity.add_party("acme", kind=PartyKind.SUPPLIER)
    assert refused.value.code == "party_exists"


async def test_refusal_leaves_the_callers_transaction_usable(
    identity: Identity, pool: Pool
) -> None:
    """
    Inside a caller's transaction a refused write undoes only itself.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    async with pool.connection() as connection, connection.transaction():
        with pytest.raises(PartyExistsError):
            await identity.add_party("acme", kind=PartyKind.BUYER, connection=connection)
        await identity.add_party("beta", kind=PartyKind.BUYER, connection=connection)
    assert (await identity.get_party("beta")).name == "beta"


async def test_callers_rollback_takes_the_party_and_the_key_away(
    identity: Identity, pool: Pool
) -> None:
    """
    What is written on the caller's connection lives and dies with its transaction.
    """
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await identity.add_party("acme", kind=PartyKind.BUYER, connection=connection)
        _, secret = await identity.add_key("acme", connection=connection)
    with pytest.raises(PartyNotFoundError):
        await identity.get_party("acme")
    with pytest.raises(InvalidApiKeyError):
        await identity.authenticate(secret)


async def test_pages_are_gapless(identity: Identity, clock: FakeClock) -> None:
    """
    Following the last id from page to page shows every row once.
    """
    for index in range(5):
        clock.advance(timedelta(milliseconds=1))
        await identity.add_party(f"buyer-{index}", kind=PartyKind.BUYER)
    names: list[str] = []
    after = None
    while page := await identity.list_parties(kind=PartyKind.BUYER, after=after, count=2):
        names += [party.name for party in page]
        after = page[-1].party_id
    assert names == [f"buyer-{index}" for index in range(5)]
    with pytest.raises(InvalidError) as refused:
        await identity.list_parties(count=0)
    assert refused.value.code == "invalid_page"


async def test_lists_can_be_kept_to_one_organisation(identity: Identity) -> None:
    """
    A page of one organisation shows its whole tree and nothing else.
    """
    await _add_tree(identity)
    await identity.add_party("beta", kind=PartyKind.BUYER)
    await identity.add_key("ada")
    await identity.add_key("acme")
    await identity.add_key("beta")
    acme = await identity.get_party("acme")
    assert len(await identity.list_parties(organisation_id=acme.party_id)) == 4
    assert len(await identity.list_keys(organisation_id=acme.party_id)) == 2
    assert len(await identity.list_keys(party_id=acme.party_id)) == 1
    assert len(await identity.list_keys()) == 3


# -------------------------------------------------------------------------------- keys


async def test_database_holds_no_secret(identity: Identity, pool: Pool) -> None:
    """
    The secret is shown once: the database holds its hash and ten characters of it.
    """
    key, secret = await identity.add_key(PLATFORM_ID, role=Role.ADMIN)
    assert secret not in repr(key)
    assert secret not in repr(await identity.authenticate(secret))
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT row_to_json(key_secrets)::text FROM identity.key_secrets"
            " UNION ALL SELECT row_to_json(api_keys)::text FROM identity.api_keys"
        )
        rows = [str(row[0]) for row in await cursor.fetchall()]
    assert len(rows) == 2
    assert not any(secret[10:] in row for row in rows)


async def test_first_admin_key_belongs_to_the_platform(identity: Identity) -> None:
    """
    An admin acts as the platform, which has a chain of one.
    """
    _, secret = await identity.add_key(party=PLATFORM_ID, role=Role.ADMIN)
    principal = await identity.authenticate(secret)
    assert principal.role is Role.ADMIN
    assert principal.chain == (PLATFORM_ID,)
    assert principal.default_tier == "standard"


async def test_role_must_suit_the_kind(identity: Identity) -> None:
    """
    A buyer never gets an admin or supplier key, the platform only admin keys.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    for role in (Role.ADMIN, Role.SUPPLIER):
        with pytest.raises(InvalidKeyError) as refused:
            await identity.add_key("acme", role=role)
        assert refused.value.param == "role"
    with pytest.raises(InvalidKeyError):
        await identity.add_key(PLATFORM_ID, role=Role.BUYER)


async def test_database_refuses_an_admin_key_of_anyone_else(
    identity: Identity, pool: Pool, ids: IdentifierSource, clock: FakeClock
) -> None:
    """
    Even a program that skips the checks cannot make a buyer an admin.
    """
    party = await identity.add_party("acme", kind=PartyKind.BUYER)
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.CheckViolation, match="api_keys_admin_is_platform"):
            await store.insert_key(
                connection,
                key_id=ids.mint(),
                party_id=party.party_id,
                role=Role.ADMIN,
                label="",
                models=None,
                requests_per_minute=None,
                expires_at=None,
                created_at=clock.now(),
            )


async def test_unknown_and_malformed_secrets_are_refused_without_repeating_them(
    identity: Identity,
) -> None:
    """
    The error never holds what was presented.
    """
    for presented in ("", "tw_", "sk-" + "a" * 43, "tw_" + "a" * 43, "tw_" + "ä" * 43, "x" * 9999):
        with pytest.raises(InvalidApiKeyError) as refused:
            await identity.authenticate(presented)
        assert refused.value.code == "invalid_api_key"
        assert not presented or presented == "tw_" or presented not in refused.value.message


async def test_key_expires_while_it_is_remembered(identity: Identity, clock: FakeClock) -> None:
    """
    The expiry is judged on each call, not when the key was last read.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    expiry = clock.now() + timedelta(seconds=2)
    _, secret = await identity.add_key("acme", expires_at=expiry)
    clock.advance(timedelta(seconds=1))
    await identity.authenticate(secret)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(KeyExpiredError):
        await identity.authenticate(secret)


async def test_expiry_must_lie_ahead(identity: Identity, clock: FakeClock) -> None:
    """
    A key that could never be used, or whose expiry has no zone, is not made.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    for expiry in (clock.now(), clock.now().replace(tzinfo=None)):
        with pytest.raises(InvalidKeyError) as refused:
            await identity.add_key("acme", expires_at=expiry)
        assert refused.value.param == "expires_at"


async def test_revoked_key_is_refused_at_once_and_for_good(
    identity: Identity, clock: FakeClock
) -> None:
    """
    A revocation works on the next call, and a repeat keeps the first time.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, secret = await identity.add_key("acme")
    await identity.authenticate(secret)
    first = await identity.revoke_key(key.key_id)
    with pytest.raises(KeyRevokedError):
        await identity.authenticate(secret)
    clock.advance(timedelta(days=1))
    assert (await identity.revoke_key(key.key_id)).revoked_at == first.revoked_at
    with pytest.raises(KeyNotActiveError):
        await identity.rotate_key(key.key_id)
    with pytest.raises(KeyNotFoundError):
        await identity.revoke_key(NO_SUCH_ID)


async def test_rotation_replaces_the_secret_and_keeps_the_key(identity: Identity) -> None:
    """
    Only the secret changes: id, limits and history stay the key's.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, old = await identity.add_key("acme", requests_per_minute=7)
    await identity.authenticate(old)
    rotated, new = await identity.rotate_key(key.key_id)
    assert rotated.key_id == key.key_id
    assert rotated.requests_per_minute == 7
    assert new.startswith(rotated.prefix)
    assert (await identity.authenticate(new)).key_id == key.key_id
    with pytest.raises(KeyRevokedError):
        await identity.authenticate(old)


async def test_rotation_with_grace_lets_both_secrets_work_for_a_while(
    identity: Identity, clock: FakeClock
) -> None:
    """
    With a grace, programs can change over one by one.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, old = await identity.add_key("acme")
    _, new = await identity.rotate_key(key.key_id, grace=timedelta(hours=1))
    await identity.authenticate(old)
    clock.advance(timedelta(hours=1))
    with pytest.raises(KeyRevokedError):
        await identity.authenticate(old)
    await identity.authenticate(new)
    with pytest.raises(InvalidKeyError):
        await identity.rotate_key(key.key_id, grace=timedelta(days=31))


async def test_rotation_without_grace_ends_an_earlier_grace(identity: Identity) -> None:
    """
    Whoever rotates because a secret leaked wants every older secret dead.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, first = await identity.add_key("acme")
    _, second = await identity.rotate_key(key.key_id, grace=timedelta(days=1))
    await identity.rotate_key(key.key_id)
    for secret in (first, second):
        with pytest.raises(KeyRevokedError):
            await identity.authenticate(secret)


async def test_concurrent_rotations_leave_one_current_secret(identity: Identity) -> None:
    """
    Rotations of one key take turns; the last secret is the one that works.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, _ = await identity.add_key("acme")
    rotated = await asyncio.gather(*(identity.rotate_key(key.key_id) for _ in range(4)))
    working = 0
    for _, secret in rotated:
        try:
            await identity.authenticate(secret)
            working += 1
        except KeyRevokedError:
            pass
    assert working == 1


async def test_spend_path_version_only_rises(identity: Identity) -> None:
    """
    A late writer cannot bring back an older spend path.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    key, secret = await identity.add_key("acme")
    await identity.authenticate(secret)
    await identity.set_spend_path_version(key.key_id, 3)
    await identity.set_spend_path_version(key.key_id, 2)
    assert (await identity.authenticate(secret)).spend_path_version == 3


# ------------------------------------------------------------------------------ states


async def test_frozen_ancestor_stops_every_key_below(identity: Identity) -> None:
    """
    Freezing the organisation stops the agent's key at once; thawing lets it act again.
    """
    await _add_tree(identity)
    _, secret = await identity.add_key("crawler")
    await identity.authenticate(secret)
    await identity.set_party_state("acme", PartyState.FROZEN)
    with pytest.raises(PartyFrozenError):
        await identity.authenticate(secret)
    reader = await identity.authenticate(secret, may_be_frozen=True)
    assert reader.is_frozen
    await identity.set_party_state("acme", PartyState.ACTIVE)
    assert not (await identity.authenticate(secret)).is_frozen


async def test_closed_party_is_closed_for_good(identity: Identity) -> None:
    """
    A closed party acts no more, takes no children or keys, and stays closed.
    """
    await _add_tree(identity)
    _, secret = await identity.add_key("crawler")
    await identity.set_party_state("research", PartyState.CLOSED)
    await identity.set_party_state("research", PartyState.CLOSED)
    with pytest.raises(PartyStateError):
        await identity.set_party_state("research", PartyState.ACTIVE)
    with pytest.raises(PartyClosedError):
        await identity.authenticate(secret, may_be_frozen=True)
    with pytest.raises(PartyStateError):
        await identity.add_key("research")
    with pytest.raises(PartyStateError):
        await identity.add_party("bob", kind=PartyKind.BUYER, parent="research")


async def test_platform_cannot_be_frozen(identity: Identity) -> None:
    """
    A frozen platform would lock out the only ones who could thaw it.
    """
    for party_id in (PLATFORM_ID, TAX_ID):
        with pytest.raises(PartyStateError):
            await identity.set_party_state(party_id, PartyState.FROZEN)


async def test_database_refuses_a_child_of_another_organisation(
    identity: Identity, pool: Pool, ids: IdentifierSource
) -> None:
    """
    The tree's rules are constraints: parent, level, kind and organisation cannot disagree.
    """
    acme = await identity.add_party("acme", kind=PartyKind.BUYER)
    beta = await identity.add_party("beta", kind=PartyKind.BUYER)
    insert = (
        "INSERT INTO identity.parties (party_id, organisation_id, kind, level, name, parent_id,"
        " parent_level, state, created_at)"
        " VALUES (%s, %s, %s, %s, 'child', %s, %s, 'active', '2026-01-01Z')"
    )
    bad = [
        (beta.party_id, "buyer", "team", acme.party_id, "organisation"),
        (acme.party_id, "supplier", "team", acme.party_id, "organisation"),
        (acme.party_id, "buyer", "team", acme.party_id, "team"),
        (acme.party_id, "buyer", "organisation", acme.party_id, "organisation"),
        (acme.party_id, "buyer", "user", acme.party_id, "agent"),
    ]
    async with pool.connection() as connection:
        for row in bad:
            with pytest.raises(psycopg.errors.IntegrityError):
                await connection.execute(insert, (ids.mint(), *row))


async def test_database_refuses_a_second_platform(identity: Identity, pool: Pool) -> None:
    """
    There is one operator; neither the service nor the database makes another.
    """
    with pytest.raises(InvalidPartyError):
        await identity.add_party("other", kind=PartyKind.PLATFORM)
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.CheckViolation, match="parties_one_platform"):
            await connection.execute(
                "INSERT INTO identity.parties (party_id, organisation_id, kind, level, name, state,"
                " created_at) VALUES (%s, %s, 'platform', 'organisation', 'x', 'active',"
                " '2026-01-01Z')",
                (NO_SUCH_ID, NO_SUCH_ID),
            )


# ------------------------------------------------------------------------------ limits


async def test_request_rate_may_only_refuse(identity: Identity, clock: FakeClock) -> None:
    """
    A key's own rate refuses with the seconds to wait.
    """
    await identity.add_party("acme", kind=PartyKind.BUYER)
    _, secret = await identity.add_key("acme", requests_per_minute=2)
    principal = await identity.authenticate(secret)
    identity.count_request(principal)
    identity.count_request(principal)
    with pytest.raises(RequestRateExceededError) as refused:
        identity.count_request(principal)
    assert refused.value.retry_after_s == pytest.approx(30.0)
    clock.advance(timedelta(seconds=30))
    identity.count_request(principal)


async def test_flood_of_unknown_keys_is_slowed_but_keys_that_work_pass(
    identity: Identity, clock: FakeClock
) -> None:
    """
    After twenty unknown keys an address waits; a key that worked there lately does not.
    """
    _, good = await identity.add_key(PLATFORM_ID, role=Role.ADMIN)
    address = "203.0.113.9"
    await identity.authenticate(good, address=address)
    for index in range(20):
        with pytest.raises(InvalidApiKeyError):
            await identity.authenticate(f"tw_{index:043d}", address=address)
    with pytest.raises(TooManyFailuresError) as refused:
        await identity.authenticate("tw_" + "z" * 43, address=address)
    assert refused.value.retry_after_s == pytest.approx(3.0)
    clock.advance(timedelta(seconds=2))
    await identity.authenticate(good, address=address)
    with pytest.raises(InvalidApiKeyError):
        await identity.authenticate("tw_" + "z" * 43, address="203.0.113.10")
    clock.advance(timedelta(seconds=2))
    with pytest.raises(InvalidApiKeyError):
        await identity.authenticate("tw_" + "z" * 43, address=address)


# ----------------------------------------------------------------- caches and processes


async def test_waiting_callers_share_one_read(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A hundred calls with a key that is not remembered ask the database once.
    """
    _, secret = await identity.add_key(PLATFORM_ID, role=Role.ADMIN)
    reads = 0
    find_presented = store.find_presented

    async def counted(*args: object) -> object:
        nonlocal reads
        reads += 1
        return await find_presented(*args)  # pyright: ignore[reportArgumentType] # Passed on.

    monkeypatch.setattr(store, "find_presented", counted)
    await asyncio.gather(*(identity.authenticate(secret) for _ in range(100)))
    assert reads == 1


async def test_another_process_forgets_a_revoked_key(
    identity: Identity, pool: Pool, dsn: str, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    A change reaches every process that watches, at the commit of the change.
    """
    other = Identity(pool, clock, ids)
    listening = await connect(dsn, name="watch")
    watching = asyncio.create_task(other.watch(listening))
    try:
        await identity.add_party("acme", kind=PartyKind.BUYER)
        key, secret = await identity.add_key("acme")
        _, frozen = await identity.add_key("acme")
        await _until_listening(pool)
        await other.authenticate(secret)
        await other.authenticate(frozen)
        await identity.revoke_key(key.key_id)
        await _until_refused(other, secret, KeyRevokedError)
        await identity.set_party_state("acme", PartyState.FROZEN)
        await _until_refused(other, frozen, PartyFrozenError)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await listening.close()


async def test_process_that_hears_nothing_is_stale_for_seconds_only(
    identity: Identity, pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Without notifications a revocation still works after the life of a record.
    """
    other = Identity(pool, clock, ids)
    key, secret = await identity.add_key(PLATFORM_ID, role=Role.ADMIN)
    await other.authenticate(secret)
    await identity.revoke_key(key.key_id)
    clock.advance(timedelta(seconds=5))
    with pytest.raises(KeyRevokedError):
        await other.authenticate(secret)


async def test_database_out_of_reach_refuses_even_a_key_that_worked(
    identity: Identity, pool: Pool, clock: FakeClock
) -> None:
    """
    A cache may refuse, never grant: without the database an old record is no proof.
    """
    _, secret = await identity.add_key(PLATFORM_ID, role=Role.ADMIN)
    await identity.authenticate(secret)
    clock.advance(timedelta(seconds=6))
    await pool.close()
    with pytest.raises(IdentityUnavailableError) as refused:
        await identity.authenticate(secret)
    assert refused.value.code == "identity_unavailable"
    with pytest.raises(IdentityUnavailableError):
        await identity.get_party(PLATFORM_ID)


async def test_posting_role_can_do_all_of_it_but_delete(pool: Pool) -> None:
    """
    The hub's own role adds and changes parties and keys, and can delete nothing.
    """
    async with pool.connection() as connection:
        for table in ("parties", "api_keys", "key_secrets"):
            cursor = await connection.execute(
                "SELECT has_table_privilege('tokenworks_posting', %(name)s, 'INSERT'),"
                " has_table_privilege('tokenworks_posting', %(name)s, 'DELETE'),"
                " has_table_privilege('tokenworks_posting', %(name)s, 'UPDATE')",
                {"name": f"identity.{table}"},
            )
            assert await cursor.fetchone() == (True, False, False)


async def test_posting_role_runs_every_operation(
    dsn: str, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    The grants suffice for the hub's own role.
    """
    connection = await connect(dsn, name="posting")
    identity = Identity(None, clock, ids)  # pyright: ignore[reportArgumentType] # Only the given connection is used.
    try:
        await connection.execute("SET ROLE tokenworks_posting")
        async with connection.transaction():
            await identity.add_party("acme", kind=PartyKind.BUYER, connection=connection)
            await identity.add_party(
                "ada", kind=PartyKind.BUYER, parent="acme", connection=connection
            )
            key, _ = await identity.add_key("ada", connection=connection)
            await identity.rotate_key(key.key_id, connection=connection)
            await identity.set_spend_path_version(key.key_id, 2, connection=connection)
            await identity.revoke_key(key.key_id, connection=connection)
            await identity.set_default_tier("acme", "free", connection=connection)
            await identity.set_party_state("acme", PartyState.FROZEN, connection=connection)
    finally:
        await connection.close()


async def _until_listening(pool: Pool) -> None:
    async with asyncio.timeout(60), pool.connection() as connection:
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'tokenworks watch' AND state = 'idle'"
                " AND query LIKE '%LISTEN%'"
            )
            row = await cursor.fetchone()
            if row is not None and row[0] == 1:
                return
            await asyncio.sleep(0)


async def _until_refused(
    identity: Identity, secret: str, error: type[KeyRevokedError | PartyFrozenError]
) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await identity.authenticate(secret)
            except error:
                return
            await asyncio.sleep(0)
