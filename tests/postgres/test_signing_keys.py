"""
Signing keys as stored: made once, certified, published for ever.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from tests.unit.receipt_samples import position, sample_draft
from tokenworks.foundation.clock import FakeClock
from tokenworks.postgres.pool import Pool, open_pool
from tokenworks.receipts.certificates import LEEWAY_S
from tokenworks.receipts.errors import SigningKeyNotFoundError, SigningKeysUnreadableError
from tokenworks.receipts.jws import thumbprint, to_base64url
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_receipt
from tokenworks.receipts.views import AUDITOR, present
from tokenworks.supply.secrets import SecretBox


def box(master_key: bytes = bytes(32)) -> SecretBox:
    """
    Return the hub's own secret box, so that the port and its implementation stay one.
    """
    return SecretBox(master_key)


@pytest.fixture
def keys(pool: Pool, clock: FakeClock) -> ReceiptKeys:
    """
    The keys of a hub that starts for the first time.
    """
    return ReceiptKeys(pool, box(), clock)


def signed(signer: LaneSigner, clock: FakeClock, *, lane: int) -> object:
    """
    Return a document signed now, with its certificate, as a reader has it.
    """
    content = sample_draft()
    jws = signer.sign(content, position(lane=lane), clock.now())
    document = present(content, AUDITOR, jws, certificate=signer.certificate)
    return json.loads(json.dumps(document))


async def count(pool: Pool, table: str = "signing_keys") -> int:
    """
    Return how many rows a table has.
    """
    async with pool.connection() as connection:
        query = sql.SQL("SELECT count(*) FROM receipts.{}").format(sql.Identifier(table))
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return int(row[0])


async def test_first_start_makes_a_root_and_a_lane_key(keys: ReceiptKeys, clock: FakeClock) -> None:
    """
    A receipt verifies with the root's public key from the first start on.
    """
    root = await keys.ensure_root()
    signer = await keys.ensure_lane_key(4)
    found = verify_receipt(signed(signer, clock, lane=4), TrustedKeys([root]))
    assert found.ok
    assert found.issuer is not None
    assert found.issuer.endswith(thumbprint(root))


async def test_second_start_finds_the_same_keys(
    keys: ReceiptKeys, pool: Pool, clock: FakeClock
) -> None:
    """
    Keys and salts are made once; a restart changes nothing.
    """
    first = (await keys.ensure_root(), (await keys.ensure_lane_key(1)).kid)
    salt_key = await keys.ensure_salt_key()
    again = ReceiptKeys(pool, box(), clock)
    assert (await again.ensure_root(), (await again.ensure_lane_key(1)).kid) == first
    assert await again.ensure_salt_key() == salt_key
    assert len(salt_key) == 32
    assert await count(pool) == 2


async def test_processes_that_start_at_once_agree(dsn: str, clock: FakeClock) -> None:
    """
    Eight starts at the same moment make one root, one key a lane and one salt key.
    """
    pool = await open_pool(dsn, name="starts", size_max=8)
    try:
        hubs = [ReceiptKeys(pool, box(), clock) for _ in range(8)]
        roots = await asyncio.gather(*(hub.ensure_root() for hub in hubs))
        signers = await asyncio.gather(*(hub.ensure_lane_key(2) for hub in hubs))
        salts = await asyncio.gather(*(hub.ensure_salt_key() for hub in hubs))
        assert len(set(roots)) == 1
        assert len({signer.kid for signer in signers}) == 1
        assert len(set(salts)) == 1
        assert await count(pool) == 2
    finally:
        await pool.close()


async def test_lane_keys_asked_for_at_once_share_one_root(dsn: str, clock: FakeClock) -> None:
    """
    Nobody has to make the root first.
    """
    pool = await open_pool(dsn, name="starts", size_max=8)
    try:
        hubs = [ReceiptKeys(pool, box(), clock) for _ in range(8)]
        signers = await asyncio.gather(
            *(hub.ensure_lane_key(lane) for lane, hub in enumerate(hubs))
        )
        trusted = TrustedKeys([await hubs[0].ensure_root()])
        for lane, signer in enumerate(signers):
            assert verify_receipt(signed(signer, clock, lane=lane), trusted).ok
        assert await count(pool) == 9
    finally:
        await pool.close()


async def test_retired_key_stays_published_and_proves_old_receipts(
    keys: ReceiptKeys, clock: FakeClock
) -> None:
    """
    After a rotation old receipts verify, new ones use the new key, and the old key can
    sign nothing dated later.
    """
    old = await keys.ensure_lane_key(1)
    receipt = signed(old, clock, lane=1)
    clock.advance(timedelta(days=1))
    new = await keys.rotate_lane_key(1)
    assert new.kid != old.kid
    assert (await keys.ensure_lane_key(1)).kid == new.kid
    published = json.dumps(await keys.jwks())
    trusted = TrustedKeys.from_json(published)
    assert verify_receipt(receipt, trusted).ok
    assert verify_receipt(signed(new, clock, lane=1), trusted).ok
    clock.advance(timedelta(seconds=LEEWAY_S + 1))
    (problem,) = verify_receipt(signed(old, clock, lane=1), trusted).problems
    assert problem.code.value == "key_not_valid_then"


async def test_old_receipt_is_signed_again_with_its_retired_key(
    keys: ReceiptKeys, clock: FakeClock
) -> None:
    """
    A receipt asked for years later is the same, byte for byte.
    """
    old = await keys.ensure_lane_key(1)
    moment = clock.now()
    jws = old.sign(sample_draft(), position(lane=1), moment)
    clock.advance(timedelta(days=400))
    await keys.rotate_lane_key(1)
    again = await keys.signer(old.kid)
    assert again.sign(sample_draft(), position(lane=1), moment) == jws


async def test_rotations_at_once_leave_one_key_in_use(pool: Pool, keys: ReceiptKeys) -> None:
    """
    However they interleave, every rotation ends with the one key that is in use.
    """
    await keys.ensure_lane_key(1)
    signers = await asyncio.gather(*(keys.rotate_lane_key(1) for _ in range(3)))
    current = await keys.ensure_lane_key(1)
    assert current.kid in {signer.kid for signer in signers}
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM receipts.signing_keys WHERE lane = 1 AND retired_at IS NULL"
        )
        assert await cursor.fetchone() == (1,)


async def test_published_keys_hold_nothing_private(keys: ReceiptKeys, pool: Pool) -> None:
    """
    The key set has RFC 7517's members and the certificate; private parts stay sealed.
    """
    root = await keys.ensure_root()
    signer = await keys.ensure_lane_key(1)
    published = await keys.jwks()
    listed = published["keys"]
    assert isinstance(listed, list)
    assert [key["kid"] for key in listed] == [thumbprint(root), signer.kid] or [
        key["kid"] for key in listed
    ] == [signer.kid, thumbprint(root)]
    assert {key["kind"] for key in listed} == {"root", "lane"}
    for key in listed:
        assert set(key) == {
            *("kty", "crv", "x", "kid", "alg", "use"),
            *("kind", "lane", "valid_from", "retired_at", "certificate"),
        }
    private = signer._private_key.private_bytes_raw()
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT private_encrypted FROM receipts.signing_keys")
        sealed = b"".join([bytes(row[0]) for row in await cursor.fetchall()])
    for spelling in (private, private.hex().encode(), to_base64url(private).encode()):
        assert spelling not in sealed
        assert spelling not in json.dumps(published).encode()


async def test_another_master_key_opens_nothing(
    keys: ReceiptKeys, pool: Pool, clock: FakeClock
) -> None:
    """
    With the wrong master key the hub refuses to sign instead of making new keys.
    """
    await keys.ensure_lane_key(1)
    stranger = ReceiptKeys(pool, box(b"x" * 32), clock)
    with pytest.raises(SigningKeysUnreadableError):
        await stranger.ensure_lane_key(1)
    assert await count(pool) == 2


async def test_swapped_private_keys_are_noticed(keys: ReceiptKeys, pool: Pool) -> None:
    """
    A private key must be of the public key beside it.
    """
    await keys.ensure_lane_key(1)
    other = await keys.ensure_lane_key(2)
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE receipts.signing_keys SET private_encrypted ="
            " (SELECT private_encrypted FROM receipts.signing_keys WHERE kid = %s)"
            " WHERE lane = 1",
            (other.kid,),
        )
    with pytest.raises(SigningKeysUnreadableError):
        await keys.ensure_lane_key(1)


async def test_unknown_kid_is_not_found(keys: ReceiptKeys) -> None:
    """
    Neither a stranger's key nor the root signs receipts.
    """
    root = await keys.ensure_root()
    for kid in ("unknown", thumbprint(root)):
        with pytest.raises(SigningKeyNotFoundError) as refusal:
            await keys.signer(kid)
        assert refusal.value.code == "signing_key_not_found"


async def test_posting_role_can_neither_delete_keys_nor_replace_them(
    keys: ReceiptKeys, pool: Pool
) -> None:
    """
    The running hub may add and retire keys; it cannot make one disappear.
    """
    await keys.ensure_lane_key(1)
    forbidden = (
        "DELETE FROM receipts.signing_keys",
        "DELETE FROM receipts.salt_keys",
        "UPDATE receipts.signing_keys SET private_encrypted = ''",
        "UPDATE receipts.signing_keys SET valid_from = valid_from",
        "UPDATE receipts.salt_keys SET key_encrypted = ''",
        "TRUNCATE receipts.signing_keys",
    )
    async with pool.connection() as connection:
        await connection.execute("SET ROLE tokenworks_posting")
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)
        await connection.execute("RESET ROLE")


async def test_keys_can_be_managed_with_the_posting_role(dsn: str, clock: FakeClock) -> None:
    """
    The grants suffice for everything the service does.
    """
    pool = await open_pool(dsn, name="posting", size_max=1)
    try:
        async with pool.connection() as connection:
            await connection.execute("SET ROLE tokenworks_posting")
        keys = ReceiptKeys(pool, box(), clock)
        first = await keys.ensure_lane_key(1)
        assert (await keys.rotate_lane_key(1)).kid != first.kid
        assert len(await keys.ensure_salt_key()) == 32
        assert (await keys.signer(first.kid)).kid == first.kid
        assert await keys.jwks()
    finally:
        await pool.close()
