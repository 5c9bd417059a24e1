-- name: insert_party
-- Add a party; no row comes back when the name is taken.
INSERT INTO identity.parties (
    party_id, organisation_id, kind, level, name, parent_id, parent_level, default_tier,
    state, created_at
) VALUES (
    %(party_id)s, %(organisation_id)s, %(kind)s, %(level)s, %(name)s, %(parent_id)s,
    %(parent_level)s, %(default_tier)s, 'active', %(created_at)s
)
ON CONFLICT ON CONSTRAINT parties_name_unique DO NOTHING
RETURNING party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at;

-- name: select_party_by_id
-- Read one party.
SELECT party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at
FROM identity.parties
WHERE party_id = %(party_id)s;

-- name: select_party_by_name
-- Read one party by its unique name.
SELECT party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at
FROM identity.parties
WHERE name = %(name)s;

-- name: lock_party
-- Keep a party's state as it is until the transaction ends, so that nothing is added to one
-- that is being closed.
SELECT state
FROM identity.parties
WHERE party_id = %(party_id)s
FOR SHARE;

-- name: select_parties
-- List parties in the order of their ids, after a cursor.
SELECT party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at
FROM identity.parties
WHERE
    (%(after)s::uuid IS NULL OR party_id > %(after)s)
    AND (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(level)s::text IS NULL OR level = %(level)s)
    AND (%(organisation_id)s::uuid IS NULL OR organisation_id = %(organisation_id)s)
ORDER BY party_id
LIMIT %(count)s;

-- name: select_chains
-- Read some parties, each with its ancestors, root first.
WITH RECURSIVE chain AS (
    SELECT parties.*, parties.party_id AS asked_id, 1 AS height
    FROM identity.parties
    WHERE party_id = ANY (%(party_ids)s::uuid[])
    UNION ALL
    SELECT parent.*, chain.asked_id, chain.height + 1
    FROM chain
    INNER JOIN identity.parties AS parent ON chain.parent_id = parent.party_id
)

SELECT
    party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at,
    asked_id
FROM chain
ORDER BY asked_id, height DESC;

-- name: select_stopped
-- Which of some parties may not act, because they or somebody above them is frozen or closed.
WITH RECURSIVE above AS (
    SELECT party_id AS asked_id, parent_id, state
    FROM identity.parties
    WHERE party_id = ANY (%(party_ids)s::uuid[])
    UNION ALL
    SELECT above.asked_id, parent.parent_id, parent.state
    FROM above
    INNER JOIN identity.parties AS parent ON above.parent_id = parent.party_id
)

SELECT asked_id, CASE WHEN bool_or(state = 'closed') THEN 'closed' ELSE 'frozen' END
FROM above
WHERE state <> 'active'
GROUP BY asked_id;

-- name: select_tree
-- Read a party and those below it, or all buyers where the party is NULL; parents first.
WITH RECURSIVE tree AS (
    SELECT parties.*, 1 AS depth
    FROM identity.parties
    WHERE
        party_id = %(party_id)s
        OR (%(party_id)s::uuid IS NULL AND kind = 'buyer' AND parent_id IS NULL)
    UNION ALL
    SELECT child.*, tree.depth + 1
    FROM tree
    INNER JOIN identity.parties AS child ON tree.party_id = child.parent_id
)

SELECT party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at
FROM tree
ORDER BY depth, party_id
LIMIT %(count)s;

-- name: update_party_state
-- Change a party's state; a closed party never comes back.
UPDATE identity.parties
SET state = %(state)s
WHERE party_id = %(party_id)s AND (state <> 'closed' OR %(state)s = 'closed')
RETURNING party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at;

-- name: update_party_tier
-- Change the tier that serves a party's calls when they name none.
UPDATE identity.parties
SET default_tier = %(default_tier)s
WHERE party_id = %(party_id)s
RETURNING party_id, kind, level, name, organisation_id, parent_id, default_tier, state, created_at;

-- name: insert_key
-- Add a key.
INSERT INTO identity.api_keys (
    key_id, party_id, role, label, models, requests_per_minute, spend_path_version,
    expires_at, created_at, mandate_id, call_quanta_max
) VALUES (
    %(key_id)s, %(party_id)s, %(role)s, %(label)s, %(models)s, %(requests_per_minute)s, 1,
    %(expires_at)s, %(created_at)s, %(mandate_id)s, %(call_quanta_max)s
);

-- name: insert_secret
-- Add the hash of a key's newest secret.
INSERT INTO identity.key_secrets (
    secret_sha256, key_id, prefix, is_current, created_at
) VALUES (
    %(secret_sha256)s, %(key_id)s, %(prefix)s, TRUE, %(created_at)s
);

-- name: retire_secrets
-- End the current secret, and shorten the grace of those replaced before it.
UPDATE identity.key_secrets
SET is_current = FALSE, valid_until = %(valid_until)s
WHERE key_id = %(key_id)s AND (is_current OR valid_until > %(valid_until)s);

-- name: select_key
-- Read one key with the prefix of its current secret.
SELECT
    api_keys.key_id, api_keys.party_id, api_keys.role, key_secrets.prefix, api_keys.label,
    api_keys.models, api_keys.requests_per_minute, api_keys.spend_path_version,
    api_keys.expires_at, api_keys.revoked_at, api_keys.created_at, api_keys.mandate_id
FROM identity.api_keys
INNER JOIN identity.key_secrets
    ON api_keys.key_id = key_secrets.key_id AND key_secrets.is_current
WHERE api_keys.key_id = %(key_id)s;

-- name: lock_key
-- Hold a key's row, so that a rotation and a revocation take turns.
SELECT key_id
FROM identity.api_keys
WHERE key_id = %(key_id)s
FOR NO KEY UPDATE;

-- name: select_keys
-- List keys in the order of their ids, after a cursor.
SELECT
    api_keys.key_id, api_keys.party_id, api_keys.role, key_secrets.prefix, api_keys.label,
    api_keys.models, api_keys.requests_per_minute, api_keys.spend_path_version,
    api_keys.expires_at, api_keys.revoked_at, api_keys.created_at, api_keys.mandate_id
FROM identity.api_keys
INNER JOIN identity.key_secrets
    ON api_keys.key_id = key_secrets.key_id AND key_secrets.is_current
INNER JOIN identity.parties ON api_keys.party_id = parties.party_id
WHERE
    (%(after)s::uuid IS NULL OR api_keys.key_id > %(after)s)
    AND (%(party_id)s::uuid IS NULL OR api_keys.party_id = %(party_id)s)
    AND (%(organisation_id)s::uuid IS NULL OR parties.organisation_id = %(organisation_id)s)
ORDER BY api_keys.key_id
LIMIT %(count)s;

-- name: revoke_key
-- Revoke a key; the first time stays.
UPDATE identity.api_keys
SET revoked_at = %(revoked_at)s
WHERE key_id = %(key_id)s AND revoked_at IS NULL;

-- name: update_spend_path_version
-- Remember the version of the spend path that the ledger now has for a key.
UPDATE identity.api_keys
SET spend_path_version = %(spend_path_version)s
WHERE key_id = %(key_id)s AND spend_path_version <= %(spend_path_version)s;

-- name: select_presented_key
-- Read all there is to know about a presented secret: one row for each party of the chain of
-- its key, root first.
WITH RECURSIVE presented AS (
    SELECT
        key_secrets.secret_sha256, key_secrets.valid_until, api_keys.key_id, api_keys.party_id,
        api_keys.role, api_keys.models, api_keys.requests_per_minute,
        api_keys.spend_path_version, api_keys.expires_at, api_keys.revoked_at,
        api_keys.mandate_id, api_keys.call_quanta_max
    FROM identity.key_secrets
    INNER JOIN identity.api_keys ON key_secrets.key_id = api_keys.key_id
    WHERE key_secrets.secret_sha256 = %(secret_sha256)s
),

chain AS (
    SELECT parties.party_id, parties.parent_id, parties.name, parties.state,
        parties.default_tier, 1 AS height
    FROM presented
    INNER JOIN identity.parties ON presented.party_id = parties.party_id
    UNION ALL
    SELECT parent.party_id, parent.parent_id, parent.name, parent.state,
        parent.default_tier, chain.height + 1
    FROM chain
    INNER JOIN identity.parties AS parent ON chain.parent_id = parent.party_id
)

SELECT
    presented.secret_sha256, presented.key_id, presented.role, presented.models,
    presented.requests_per_minute, presented.spend_path_version, presented.expires_at,
    presented.revoked_at, presented.valid_until,
    chain.party_id, chain.name, chain.state, chain.default_tier,
    presented.mandate_id, presented.call_quanta_max
FROM presented
CROSS JOIN chain
ORDER BY chain.height DESC;

-- name: notify
-- Tell every process, at commit, what to forget: a key's id, or '*' for everything.
SELECT pg_notify('tokenworks_identity', %(payload)s);

-- name: listen
-- Hear what to forget.
LISTEN tokenworks_identity;
