-- name: relax_commit
-- Let this transaction's commit not wait for the disk.
SET LOCAL synchronous_commit = off

-- name: ensure_partitions
-- Make the months that the ledger has.
SELECT agents.ensure_partitions_v1()

-- name: ensure_profiles
-- Make rows of agents that never paid, in the order of their locks.
INSERT INTO agents.profiles (agent_id, currency, state, changed_at)
SELECT agent_id, currency, '', %(now)s
FROM unnest(%(agents)s::uuid[], %(currencies)s::text[]) AS wanted (agent_id, currency)
ORDER BY agent_id, currency
ON CONFLICT DO NOTHING

-- name: lock_profiles
-- Read profiles and keep others from changing them until the transaction ends.
SELECT profile.agent_id, profile.currency, profile.state
FROM agents.profiles AS profile
JOIN unnest(%(agents)s::uuid[], %(currencies)s::text[]) AS wanted (agent_id, currency)
    ON wanted.agent_id = profile.agent_id AND wanted.currency = profile.currency
ORDER BY profile.agent_id, profile.currency
FOR NO KEY UPDATE OF profile

-- name: known_payees
-- Read what agents know of payees.
SELECT known.agent_id, known.currency, known.payee_id, known.payments, known.recent_quanta
FROM agents.known_payees AS known
JOIN unnest(%(agents)s::uuid[], %(currencies)s::text[], %(payees)s::uuid[]) AS wanted (agent_id, currency, payee_id)
    ON wanted.agent_id = known.agent_id AND wanted.currency = known.currency AND wanted.payee_id = known.payee_id

-- name: judgements
-- Read how payments were judged that were not simply let pass.
SELECT payment_id, digest, decision::text
FROM agents.judgements
WHERE payment_id = ANY (%(payment_ids)s::uuid[])

-- name: rule_versions
-- Read the version in force of each party's rules.
SELECT DISTINCT ON (party_id) party_id, version
FROM agents.brake_rules
WHERE party_id = ANY (%(party_ids)s::uuid[])
ORDER BY party_id, version DESC

-- name: rules_by_version
-- Read rule sets.
SELECT party_id, version, rules, actor, created_at
FROM agents.brake_rules
WHERE version = ANY (%(versions)s::bigint[])

-- name: lock_rules
-- Let rule sets be written one after the other, so that versions commit in their order.
SELECT pg_advisory_xact_lock(7819)

-- name: insert_rules
-- Add a version of a party's rules.
INSERT INTO agents.brake_rules (version, party_id, rules, actor, created_at)
SELECT coalesce(max(version), 0) + 1, %(party_id)s, %(rules)s, %(actor)s, %(now)s
FROM agents.brake_rules
RETURNING version

-- name: store_profiles
-- Write profiles again.
UPDATE agents.profiles AS profile
SET state = new.state, changed_at = %(now)s
FROM unnest(%(agents)s::uuid[], %(currencies)s::text[], %(states)s::bytea[]) AS new (agent_id, currency, state)
WHERE profile.agent_id = new.agent_id AND profile.currency = new.currency

-- name: insert_judgement
-- Remember a hold or a denial.
INSERT INTO agents.judgements (payment_id, digest, agent_id, decision, judged_at)
VALUES (%(payment_id)s, %(digest)s, %(agent_id)s, %(decision)s, %(now)s)
ON CONFLICT DO NOTHING
RETURNING true

-- name: know_payees
-- Remember payees, with what they were paid lately.
INSERT INTO agents.known_payees AS known
    (agent_id, currency, payee_id, payments, recent_quanta, known_since, approved_by)
SELECT agent_id, currency, payee_id, payments, recent_quanta::bigint[], %(now)s, %(approved_by)s
FROM unnest(
    %(agents)s::uuid[], %(currencies)s::text[], %(payees)s::uuid[], %(payments)s::bigint[], %(recent_quanta)s::text[]
) AS learned (agent_id, currency, payee_id, payments, recent_quanta)
ON CONFLICT (agent_id, currency, payee_id) DO UPDATE
SET payments = excluded.payments, recent_quanta = excluded.recent_quanta
WHERE excluded.payments > 0

-- name: insert_review
-- Open a review; a repeat changes nothing.
INSERT INTO agents.reviews (
    review_id, digest, organisation_id, agent_id, party_chain, subject, decision, approvals_needed, state, created_at, expires_at
) VALUES (
    %(review_id)s, %(digest)s, %(organisation_id)s, %(agent_id)s, %(party_chain)s, %(subject)s, %(decision)s,
    %(approvals_needed)s, 'pending', %(now)s, %(expires_at)s
)
ON CONFLICT DO NOTHING
RETURNING true

-- name: count_pending
-- How many payments of an agent wait for people right now.
SELECT count(*)
FROM agents.reviews
WHERE agent_id = %(agent_id)s AND state = 'pending' AND expires_at > %(now)s

-- name: reviews
-- Read reviews with what was said about them.
SELECT
    review.review_id, review.subject::text, review.decision::text, review.state, review.approvals_needed,
    review.created_at, review.expires_at, review.decided_at, review.note,
    ARRAY(
        SELECT said.actor FROM agents.review_decisions AS said
        WHERE said.review_id = review.review_id AND said.word = 'approve' ORDER BY said.ordinal
    ),
    (SELECT said.actor FROM agents.review_decisions AS said WHERE said.review_id = review.review_id AND said.word = 'deny')
FROM agents.reviews AS review
WHERE review.review_id = ANY (%(review_ids)s::uuid[])

-- name: lock_review
-- Keep others from deciding until the transaction ends.
SELECT review_id FROM agents.reviews WHERE review_id = %(review_id)s FOR NO KEY UPDATE

-- name: approvals
-- Read who approved, and how far.
SELECT person_id, scope, raise_window, raise_quanta
FROM agents.review_decisions
WHERE review_id = %(review_id)s AND word = 'approve'
ORDER BY ordinal

-- name: list_reviews
-- One page of reviews, newest first.
SELECT
    review.review_id, review.subject::text, review.decision::text, review.state, review.approvals_needed,
    review.created_at, review.expires_at, review.decided_at, review.note,
    ARRAY(
        SELECT said.actor FROM agents.review_decisions AS said
        WHERE said.review_id = review.review_id AND said.word = 'approve' ORDER BY said.ordinal
    ),
    (SELECT said.actor FROM agents.review_decisions AS said WHERE said.review_id = review.review_id AND said.word = 'deny')
FROM agents.reviews AS review
WHERE
    (%(organisation_id)s::uuid IS NULL OR review.organisation_id = %(organisation_id)s)
    AND (%(party_id)s::uuid IS NULL OR %(party_id)s = ANY (review.party_chain))
    AND (%(agent_id)s::uuid IS NULL OR review.agent_id = %(agent_id)s)
    AND (%(before)s::uuid IS NULL OR review.review_id < %(before)s)
    AND (
        %(state)s::text IS NULL
        OR (%(state)s = 'pending' AND review.state = 'pending' AND review.expires_at > %(now)s)
        OR (%(state)s = 'expired' AND review.state = 'pending' AND review.expires_at <= %(now)s)
        OR (%(state)s <> 'pending' AND review.state = %(state)s)
    )
ORDER BY review.review_id DESC
LIMIT %(count)s

-- name: insert_decision
-- Add what a person, or the clock, said.
INSERT INTO agents.review_decisions (review_id, ordinal, word, digest, person_id, actor, scope, raise_window, raise_quanta, note, decided_at)
SELECT
    %(review_id)s, coalesce(max(ordinal), 0) + 1, %(word)s, %(digest)s, %(person_id)s, %(actor)s, %(scope)s,
    %(raise_window)s, %(raise_quanta)s, %(note)s, %(now)s
FROM agents.review_decisions
WHERE review_id = %(review_id)s

-- name: end_review
-- End a review.
UPDATE agents.reviews
SET state = %(state)s, decided_at = %(now)s, note = %(note)s
WHERE review_id = %(review_id)s AND state = 'pending'

-- name: due_reviews
-- Reviews whose time is over; those that somebody decides on right now are left for the next time.
SELECT review_id, digest
FROM agents.reviews
WHERE state = 'pending' AND expires_at <= %(now)s
ORDER BY expires_at
LIMIT %(count)s
FOR NO KEY UPDATE SKIP LOCKED

-- name: decisions_of
-- Read everything that was said about a review.
SELECT word, actor, person_id, scope, note, digest, decided_at, raise_window, raise_quanta
FROM agents.review_decisions
WHERE review_id = %(review_id)s
ORDER BY ordinal

-- name: enqueue_deliveries
-- Put a message for each webhook of the owners above the agent, and the operator's, into the outbox.
INSERT INTO agents.webhook_deliveries (review_id, party_id, event, state, attempts, next_attempt_at, created_at)
SELECT review.review_id, webhook.party_id, %(event)s, 'waiting', 0, %(now)s, %(now)s
FROM agents.reviews AS review
JOIN agents.webhooks AS webhook
    ON (webhook.party_id = ANY (review.party_chain) OR webhook.party_id = %(operator)s) AND webhook.party_id <> review.agent_id
WHERE review.review_id = %(review_id)s
ON CONFLICT DO NOTHING

-- name: claim_deliveries
-- Take due messages for one sender: until its lease is over nobody else tries.
UPDATE agents.webhook_deliveries AS delivery
SET attempts = delivery.attempts + 1, next_attempt_at = %(leased_until)s, attempted_at = %(now)s
FROM (
    SELECT review_id, party_id, event
    FROM agents.webhook_deliveries
    WHERE state = 'waiting' AND next_attempt_at <= %(now)s
    ORDER BY next_attempt_at
    LIMIT %(count)s
    FOR NO KEY UPDATE SKIP LOCKED
) AS due
WHERE delivery.review_id = due.review_id AND delivery.party_id = due.party_id AND delivery.event = due.event
RETURNING delivery.review_id, delivery.party_id, delivery.event, delivery.attempts, delivery.created_at

-- name: webhooks
-- Read webhooks.
SELECT party_id, url, secret_encrypted, allow_private, actor, created_at
FROM agents.webhooks
WHERE party_id = ANY (%(party_ids)s::uuid[])

-- name: put_webhook
-- Set where a party is told.
INSERT INTO agents.webhooks (party_id, url, secret_encrypted, allow_private, actor, created_at)
VALUES (%(party_id)s, %(url)s, %(secret_encrypted)s, %(allow_private)s, %(actor)s, %(now)s)
ON CONFLICT (party_id) DO UPDATE
SET
    url = excluded.url, secret_encrypted = excluded.secret_encrypted, allow_private = excluded.allow_private,
    actor = excluded.actor, created_at = excluded.created_at

-- name: delete_webhook
-- Forget where a party is told.
DELETE FROM agents.webhooks WHERE party_id = %(party_id)s

-- name: end_attempt
-- Write down what became of an attempt.
UPDATE agents.webhook_deliveries
SET state = %(state)s, next_attempt_at = %(next_attempt_at)s, http_status = %(http_status)s, error = %(error)s
WHERE review_id = %(review_id)s AND party_id = %(party_id)s AND event = %(event)s AND attempts = %(attempts)s

-- name: deliveries_of
-- The last messages to a party's webhook, newest first.
SELECT review_id, event, state, attempts, created_at, attempted_at, next_attempt_at, http_status, error
FROM agents.webhook_deliveries
WHERE party_id = %(party_id)s
ORDER BY review_id DESC, created_at DESC
LIMIT %(count)s
