-- name: claim_refund
-- Claim a refund under the call's row lock, or the one that has the reference.
SELECT refund_id, call_id, reference, quanta, before_quanta, borne_by, reason, actor, requested_at
FROM gateway.claim_refund_v1(
    %(refund_id)s, %(call_id)s, %(reference)s, %(quanta)s, %(borne_by)s, %(reason)s, %(actor)s, %(now)s
)

-- name: refunded
-- What was charged and refunded of a call.
SELECT charge_quanta, refunded_quanta
FROM gateway.calls
WHERE call_id = %(call_id)s

-- name: claimed
-- Claims of the last days that are not in the books although their time has passed.
SELECT refund_id, call_id, reference, quanta, before_quanta, borne_by, reason, actor, requested_at
FROM gateway.refunds AS refund
WHERE requested_at > %(after)s AND requested_at < %(before)s
    AND NOT EXISTS (
        SELECT
        FROM ledger.entries AS entry
        WHERE entry.fact_id = refund.refund_id AND entry.operation = 'post'
    )
ORDER BY requested_at
LIMIT %(limit)s
