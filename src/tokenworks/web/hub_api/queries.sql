-- name: claim_key
-- Claim the key for this run: a new row, or one whose run failed or died.
INSERT INTO hub.idempotency_keys AS known
    (party_id, idempotency_key, request_hash, state, run_id, started_at)
VALUES (%(party_id)s, %(key)s, %(request_hash)s, 'running', %(run_id)s, %(now)s)
ON CONFLICT (party_id, idempotency_key) DO UPDATE
SET
    state = 'running',
    run_id = excluded.run_id,
    started_at = excluded.started_at
WHERE known.request_hash = excluded.request_hash
    AND (
        known.state = 'failed'
        OR (known.state = 'running' AND known.started_at < %(dead_before)s)
    )
RETURNING run_id;

-- name: read_key
-- Read what is known about the key.
SELECT request_hash, state, status, body
FROM hub.idempotency_keys
WHERE party_id = %(party_id)s AND idempotency_key = %(key)s;

-- name: store_answer
-- Remember the answer of this run, unless another run took over.
UPDATE hub.idempotency_keys
SET state = 'answered', answered_at = %(now)s, status = %(status)s, body = %(body)s
WHERE party_id = %(party_id)s AND idempotency_key = %(key)s AND run_id = %(run_id)s
    AND state = 'running';

-- name: release_key
-- Let the key be used again, because this run did nothing.
UPDATE hub.idempotency_keys
SET state = 'failed'
WHERE party_id = %(party_id)s AND idempotency_key = %(key)s AND run_id = %(run_id)s
    AND state = 'running';
