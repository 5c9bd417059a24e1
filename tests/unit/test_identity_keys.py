"""
Secrets, the cache of keys, and the judgement of what is recorded.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tokenworks.foundation.errors import TokenworksError
from tokenworks.identity import issuing, placing
from tokenworks.identity.admission import ChainLink, KeyRecord, admit, make_record, resolve_tier
from tokenworks.identity.cache import KeyCache
from tokenworks.identity.errors import (
    InvalidKeyError,
    InvalidPartyError,
    KeyExpiredError,
    KeyRevokedError,
    ModelNotAllowedError,
    PartyClosedError,
    PartyFrozenError,
    RoleNotAllowedError,
)
from tokenworks.identity.model import PartyState, Role
from tokenworks.identity.secret import digest_secret, is_secret_shaped, mint_secret, prefix_of

NOW = datetime(2026, 5, 4, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


def record(
    *,
    key: int = 7,
    models: frozenset[str] | None = None,
    state: PartyState = PartyState.ACTIVE,
    expires_at: datetime | None = None,
    revoked_at: datetime | None = None,
    secret_valid_until: datetime | None = None,
) -> KeyRecord:
    """
    Return what is recorded of a key of a team whose organisation is in ``state``.
    """
    return make_record(
        secret_sha256=f"{key:064x}",
        key_id=UUID(int=key),
        role=Role.BUYER,
        models=models,
        requests_per_minute=None,
        spend_path_version=1,
        expires_at=expires_at,
        revoked_at=revoked_at,
        secret_valid_until=secret_valid_until,
        chain=[
            ChainLink(party_id=UUID(int=10), name="acme", state=state, default_tier="premium"),
            ChainLink(
                party_id=UUID(int=11), name="team", state=PartyState.ACTIVE, default_tier=None
            ),
        ],
    )


# ----------------------------------------------------------------------------- secrets


def test_secret_has_its_documented_form() -> None:
    """
    ``tw_`` and 43 URL-safe characters; stored as SHA-256 and the first ten characters.
    """
    secret = mint_secret(os.urandom)
    assert len(secret) == 46
    assert is_secret_shaped(secret)
    assert digest_secret(secret) == hashlib.sha256(secret.encode()).hexdigest()
    assert prefix_of(secret) == secret[:10]
    assert mint_secret(os.urandom) != secret


@pytest.mark.parametrize(
    "text", ["", "tw_", "tw_" + "a" * 42, "tw_" + "a" * 44, "sk_" + "a" * 43, "tw_" + "é" * 43]
)
def test_other_text_is_no_secret(text: str) -> None:
    """
    Text of another form is refused before anything is hashed or looked up.
    """
    assert not is_secret_shaped(text)
    assert not is_secret_shaped("tw_" + "a" * 43 + "\n")


# --------------------------------------------------------------------------- admission


def test_checks_have_a_fixed_order() -> None:
    """
    Revoked, replaced, expired, closed, frozen: the first that applies is told.
    """
    everything = {
        "revoked_at": NOW,
        "secret_valid_until": NOW,
        "expires_at": NOW,
        "state": PartyState.CLOSED,
    }
    expected: list[type[TokenworksError]] = [
        KeyRevokedError,
        KeyRevokedError,
        KeyExpiredError,
        PartyClosedError,
    ]
    for dropped, error in zip(("", *everything), expected, strict=False):
        everything.pop(dropped, None)
        with pytest.raises(error):
            admit(record(**everything), now=NOW, may_be_frozen=False)  # pyright: ignore[reportArgumentType] # A table of fields.
    with pytest.raises(PartyFrozenError):
        admit(record(state=PartyState.FROZEN), now=NOW, may_be_frozen=False)
    assert admit(record(state=PartyState.FROZEN), now=NOW, may_be_frozen=True).is_frozen


def test_expiry_is_the_first_moment_that_is_refused() -> None:
    """
    One microsecond before the expiry the key works, at the expiry it does not.
    """
    expiring = record(expires_at=LATER)
    admit(expiring, now=LATER - timedelta(microseconds=1), may_be_frozen=False)
    with pytest.raises(KeyExpiredError):
        admit(expiring, now=LATER, may_be_frozen=False)


def test_tier_is_the_nearest_one_named() -> None:
    """
    The leaf's tier, else its parent's, else the hub's.
    """
    assert record().principal.default_tier == "premium"
    nameless = ChainLink(party_id=UUID(int=1), name="x", state=PartyState.ACTIVE, default_tier=None)
    assert resolve_tier([nameless]) == "standard"


def test_key_allows_a_model_at_every_tier_or_at_one() -> None:
    """
    ``smol`` allows every tier of smol, ``big@free`` only the free one of big.
    """
    principal = record(models=frozenset({"smol", "big@free"})).principal
    assert principal.allows_model("smol", "elite")
    assert principal.allows_model("big", "free")
    with pytest.raises(ModelNotAllowedError) as refused:
        principal.require_model("big", "standard")
    assert refused.value.code == "model_not_allowed"
    assert record().principal.allows_model("anything", "elite")


def test_role_is_required_by_name() -> None:
    """
    A buyer's key opens nothing that is the admin's.
    """
    principal = record().principal
    principal.require_role(Role.ADMIN, Role.BUYER)
    with pytest.raises(RoleNotAllowedError):
        principal.require_role(Role.ADMIN)


# ------------------------------------------------------------------------------- cache


def test_record_is_remembered_for_its_lifetime_only() -> None:
    """
    At five seconds a record is too old to be used, but the hash is known to be real.
    """
    cache, kept = KeyCache(), record()
    cache.keep("hash", kept, generation=0, now_s=10.0)
    assert cache.find("hash", now_s=14.9) is kept
    assert cache.find("hash", now_s=15.0) is None
    assert cache.has_seen("hash")


def test_record_read_before_an_invalidation_is_not_kept() -> None:
    """
    A slow read must not bring back what was revoked while it ran.
    """
    cache = KeyCache()
    generation = cache.generation
    cache.forget(UUID(int=7))
    cache.keep("hash", record(), generation=generation, now_s=0.0)
    assert cache.find("hash", now_s=0.0) is None


def test_forgetting_a_key_forgets_every_secret_of_it_and_no_other() -> None:
    """
    After a rotation two hashes lead to one key; both go, other keys stay.
    """
    cache = KeyCache()
    cache.keep("old", record(), generation=0, now_s=0.0)
    cache.keep("new", record(), generation=0, now_s=0.0)
    cache.keep("other", record(key=8), generation=0, now_s=0.0)
    cache.forget(UUID(int=7))
    assert [cache.find(name, now_s=0.0) is None for name in ("old", "new", "other")] == [
        True,
        True,
        False,
    ]
    cache.forget_all()
    assert len(cache) == 0


def test_flood_of_unknown_hashes_cannot_push_out_a_key_that_works() -> None:
    """
    Both memories are bounded, and apart.
    """
    cache = KeyCache(keys_max=3, unknown_max=5)
    cache.keep("good", record(), generation=0, now_s=0.0)
    for index in range(100):
        cache.keep(f"bad-{index}", None, generation=0, now_s=0.0)
    assert cache.find("good", now_s=0.0) is not None
    assert cache.is_unknown("bad-99", now_s=4.9)
    assert not cache.is_unknown("bad-99", now_s=5.0)
    assert not cache.is_unknown("bad-0", now_s=0.0)
    for index in range(100):
        cache.keep(f"key-{index}", record(key=100 + index), generation=0, now_s=0.0)
    assert len(cache) == 8


# ------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "name",
    ["", "Acme", "-acme", "a" * 64, "a b", "acme\n", "0190a1b2-0000-7000-8000-000000000000", "é"],
)
def test_name_is_a_short_lower_case_word_and_no_id(name: str) -> None:
    """
    A party cannot be named like another party's id.
    """
    with pytest.raises(InvalidPartyError):
        placing.check_name(name)


@pytest.mark.parametrize("tier", ["", "Premium", "high speed", "x" * 33])
def test_tier_is_a_lower_case_word(tier: str) -> None:
    """
    Whether a tier is sold is not known here, but its form is.
    """
    with pytest.raises(InvalidPartyError):
        placing.check_tier_name(tier)


def test_values_of_a_key_have_bounds() -> None:
    """
    Labels, models and rates are bounded, and the field at fault is named.
    """
    with pytest.raises(InvalidKeyError, match="label"):
        issuing.check_label("x" * 201)
    with pytest.raises(InvalidKeyError):
        issuing.check_label("a\x1b[31m")
    for models in (frozenset[str](), frozenset({"a b"}), frozenset({""})):
        with pytest.raises(InvalidKeyError):
            issuing.check_models(models)
    with pytest.raises(InvalidKeyError):
        issuing.check_models(frozenset(f"m{index}" for index in range(1_001)))
    for rate in (0, -1, 1_000_001):
        with pytest.raises(InvalidKeyError):
            issuing.check_rate(rate)
    with pytest.raises(InvalidKeyError):
        issuing.check_grace(timedelta(seconds=-1))
