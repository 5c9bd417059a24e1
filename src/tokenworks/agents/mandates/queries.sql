-- name: insert_wallet
-- Register a wallet; no row comes back when the address is registered already.
INSERT INTO agents.wallets (address, agent_id, label, created_at)
VALUES (%(address)s, %(agent_id)s, %(label)s, %(created_at)s)
ON CONFLICT ON CONSTRAINT wallets_pkey DO NOTHING
RETURNING address, agent_id, label, created_at, revoked_at;

-- name: select_wallet
-- Read one wallet.
SELECT address, agent_id, label, created_at, revoked_at
FROM agents.wallets
WHERE address = %(address)s;

-- name: select_wallets
-- Read the wallets of some agents, each one's newest first.
SELECT address, agent_id, label, created_at, revoked_at
FROM agents.wallets
WHERE agent_id = ANY (%(agent_ids)s::uuid[])
ORDER BY agent_id, created_at DESC, address;

-- name: revoke_wallet
-- Revoke a wallet; the first time stays.
UPDATE agents.wallets
SET revoked_at = %(revoked_at)s
WHERE address = %(address)s AND revoked_at IS NULL;

-- name: insert_mandate
-- Add a mandate; no row comes back when its id is taken. Both unique keys begin with the id, and
-- both have to be named (or none): of two at once the later may meet the other at either of them.
INSERT INTO agents.mandates (
    mandate_id, agent_id, issuer_id, organisation_id, parent_id, parent_depth, depth, terms,
    state, label, jws, created_at, expires_at
) VALUES (
    %(mandate_id)s, %(agent_id)s, %(issuer_id)s, %(organisation_id)s, %(parent_id)s,
    %(parent_depth)s, %(depth)s, %(terms)s, 'active', %(label)s, %(jws)s, %(created_at)s,
    %(expires_at)s
)
ON CONFLICT DO NOTHING
RETURNING mandate_id;

-- name: select_mandate_chain
-- Read a mandate and those above it, root first.
WITH RECURSIVE chain AS (
    SELECT mandates.*
    FROM agents.mandates
    WHERE mandate_id = %(mandate_id)s
    UNION ALL
    SELECT parent.*
    FROM chain
    INNER JOIN agents.mandates AS parent ON chain.parent_id = parent.mandate_id
)

SELECT
    mandate_id, agent_id, issuer_id, organisation_id, parent_id, depth, terms::text, state, label,
    jws, created_at, expires_at, revoked_at
FROM chain
ORDER BY depth;

-- name: select_above
-- Read the mandates above some others that are not among these themselves.
WITH RECURSIVE above AS (
    SELECT parent.*
    FROM agents.mandates AS parent
    WHERE parent.mandate_id = ANY (%(parent_ids)s::uuid[])
    UNION
    SELECT parent.*
    FROM above
    INNER JOIN agents.mandates AS parent ON above.parent_id = parent.mandate_id
)

SELECT
    mandate_id, agent_id, issuer_id, organisation_id, parent_id, depth, terms::text, state, label,
    jws, created_at, expires_at, revoked_at
FROM above
WHERE mandate_id <> ALL (%(known_ids)s::uuid[]);

-- name: select_mandates
-- List mandates in the order of their ids, after a cursor.
SELECT
    mandate_id, agent_id, issuer_id, organisation_id, parent_id, depth, terms::text, state, label,
    jws, created_at, expires_at, revoked_at
FROM agents.mandates
WHERE
    (%(after)s::uuid IS NULL OR mandate_id > %(after)s)
    AND (%(agent_ids)s::uuid[] IS NULL OR agent_id = ANY (%(agent_ids)s::uuid[]))
    AND (%(organisation_id)s::uuid IS NULL OR organisation_id = %(organisation_id)s)
    AND (%(state)s::text IS NULL OR state = %(state)s)
ORDER BY mandate_id
LIMIT %(count)s;

-- name: select_usable_mandates
-- The mandates of an agent that are not revoked, frozen or expired themselves; two are enough to
-- know that a signature has to name one.
SELECT mandate_id
FROM agents.mandates
WHERE agent_id = %(agent_id)s AND state = 'active' AND (expires_at IS NULL OR expires_at > %(now)s)
ORDER BY mandate_id DESC
LIMIT 2;

-- name: lock_mandate
-- Hold a mandate's row, so that its changes of state take turns.
SELECT state
FROM agents.mandates
WHERE mandate_id = %(mandate_id)s
FOR NO KEY UPDATE;

-- name: update_mandate_state
-- Change a mandate's state.
UPDATE agents.mandates
SET state = %(state)s, revoked_at = %(revoked_at)s
WHERE mandate_id = %(mandate_id)s;

-- name: insert_event
-- Note what was done to a mandate.
INSERT INTO agents.mandate_events (event_id, mandate_id, kind, happened_at, actor, details)
VALUES (%(event_id)s, %(mandate_id)s, %(kind)s, %(happened_at)s, %(actor)s, %(details)s);

-- name: select_events
-- What was done to a mandate, the first first.
SELECT event_id, kind, happened_at, actor, details::text
FROM agents.mandate_events
WHERE mandate_id = %(mandate_id)s
ORDER BY sequence
LIMIT %(count)s;

-- name: notify
-- Tell every process, at commit, which wallet, agent or mandate to read again.
SELECT pg_notify('tokenworks_agents', %(payload)s);

-- name: listen
-- Hear what to read again.
LISTEN tokenworks_agents;
