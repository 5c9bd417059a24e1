-- name: ensure_partitions
-- Make the partitions of the ledger's months.
SELECT agents.ensure_partitions_v1()

-- name: add
-- Write an escrow down before its money is held; no row when it is there already.
INSERT INTO agents.escrows (
    escrow_id, payer_agent_id, organisation_id, mandate_id, payee_id, payee_organisation_id, arbiter_id,
    currency, quanta, terms, terms_sha256, authorisation, digest, authorisation_ends_at, created_at,
    state, due_at, events_count)
VALUES (
    %(escrow_id)s, %(payer_agent_id)s, %(organisation_id)s, %(mandate_id)s, %(payee_id)s,
    %(payee_organisation_id)s, %(arbiter_id)s, %(currency)s, %(quanta)s, %(terms)s, %(terms_sha256)s,
    %(authorisation)s, %(digest)s, %(authorisation_ends_at)s, %(now)s, 'opening', %(due_at)s, 0)
ON CONFLICT (escrow_id) DO NOTHING
RETURNING escrow_id

-- name: get
-- One escrow.
SELECT * FROM agents.escrows
WHERE escrow_id = %(escrow_id)s

-- name: lock
-- One escrow, for whoever decides about it.
SELECT * FROM agents.escrows
WHERE escrow_id = %(escrow_id)s
FOR NO KEY UPDATE

-- name: events
-- Everything that happened to one escrow, without the results.
SELECT kind, occurred_at, actor, content FROM agents.escrow_events
WHERE escrow_id = %(escrow_id)s
ORDER BY sequence

-- name: events_of_some
-- Everything that happened to some escrows, without the results.
SELECT escrow_id, kind, occurred_at, actor, content FROM agents.escrow_events
WHERE escrow_id = ANY(%(escrow_ids)s)
ORDER BY escrow_id, sequence

-- name: last_result
-- What was last submitted for a milestone.
SELECT result FROM agents.escrow_events
WHERE escrow_id = %(escrow_id)s AND kind = 'submitted' AND (content ->> 'milestone')::integer = %(milestone)s
ORDER BY sequence DESC
LIMIT 1

-- name: append
-- One more fact; the number says that no other came between.
INSERT INTO agents.escrow_events (escrow_id, sequence, kind, occurred_at, actor, content, result)
VALUES (%(escrow_id)s, %(sequence)s, %(kind)s, %(occurred_at)s, %(actor)s, %(content)s, %(result)s)

-- name: claim_calls
-- Bind calls to a milestone, in their order; those that are bound stay as they are.
INSERT INTO agents.escrow_calls (call_id, escrow_id, milestone, claimed_at)
SELECT call_id, %(escrow_id)s, %(milestone)s, %(now)s
FROM unnest(%(call_ids)s::uuid[]) AS named (call_id)
ORDER BY call_id
ON CONFLICT (call_id) DO NOTHING

-- name: calls_of_others
-- Of some calls those that are bound to another milestone, or another escrow.
SELECT call_id FROM agents.escrow_calls
WHERE call_id = ANY(%(call_ids)s) AND (escrow_id, milestone) <> (%(escrow_id)s, %(milestone)s)
ORDER BY call_id

-- name: move
-- Where an escrow stands after its new facts.
UPDATE agents.escrows
SET state = %(state)s, due_at = %(due_at)s, events_count = %(events_count)s
WHERE escrow_id = %(escrow_id)s

-- name: due
-- Escrows that somebody has to look at, the most overdue first.
SELECT escrow_id FROM agents.escrows
WHERE due_at <= %(now)s
ORDER BY due_at
LIMIT %(limit)s

-- name: list
-- Escrows a party has a part in (as payer, payee or arbiter, itself or above), newest first.
WITH RECURSIVE below AS (
    SELECT party_id FROM identity.parties WHERE party_id = %(within_party_id)s
    UNION ALL
    SELECT child.party_id FROM identity.parties AS child JOIN below ON child.parent_id = below.party_id
)
SELECT escrow.* FROM agents.escrows AS escrow
WHERE (%(within_party_id)s::uuid IS NULL
        OR escrow.organisation_id = %(within_party_id)s
        OR escrow.payer_agent_id IN (SELECT party_id FROM below)
        OR escrow.payee_id IN (SELECT party_id FROM below)
        OR escrow.arbiter_id IN (SELECT party_id FROM below))
    AND (%(state)s::text IS NULL OR escrow.state = %(state)s)
    AND (%(before)s::uuid IS NULL OR escrow.escrow_id < %(before)s)
ORDER BY escrow.escrow_id DESC
LIMIT %(limit)s
