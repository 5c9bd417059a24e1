-- name: attempts_at_supplier
-- Each attempt at one supplier in ended calls; tokens of the one that answered, which is the last.
-- Calls are found by their ids, which say when they began, and those that were booked long after it
-- by an index of those few.
WITH found AS (
    SELECT *
    FROM gateway.calls
    WHERE call_id = ANY (%(call_ids)s::uuid[])
    UNION ALL
    SELECT *
    FROM gateway.calls
    WHERE call_id >= ledger.identifier_floor(%(since)s)
        AND call_id < ledger.identifier_floor(%(until)s)
        AND call_id <> ALL (%(call_ids)s::uuid[])
        AND ended_at >= %(booked_since)s
    UNION ALL
    SELECT *
    FROM gateway.calls
    WHERE ended_at - started_at > '00:14:00'::interval
        AND call_id < ledger.identifier_floor(%(since)s)
        AND call_id <> ALL (%(call_ids)s::uuid[])
        AND ended_at >= %(booked_since)s
)
SELECT
    call.call_id,
    call.organisation_id,
    call.model,
    call.tier,
    (attempt.value ->> 'started_at')::timestamptz,
    (attempt.value ->> 'duration_us')::bigint,
    attempt.value -> 'timings',
    call.receipt IS NOT NULL AND attempt.ordinal = call.attempt_count,
    call.first_token_ms,
    call.usage,
    call.charge_quanta,
    call.payable_quanta,
    call.ended_at,
    call.receipt IS NOT NULL
FROM found AS call
CROSS JOIN LATERAL (
    SELECT substr(field.name, 9)::integer AS ordinal, field.value
    FROM json_each(call.receipt) AS field (name, value)
    WHERE field.name LIKE 'attempt.%%'
    UNION ALL
    SELECT listed.place::integer, listed.value
    FROM json_array_elements(call.attempts) WITH ORDINALITY AS listed (value, place)
    WHERE call.receipt IS NULL
) AS attempt
WHERE (call.supplier_id = %(supplier_id)s OR call.attempt_count > 1)
    AND (attempt.value ->> 'supplier_id')::uuid = %(supplier_id)s
    AND attempt.value ->> 'duration_us' IS NOT NULL
ORDER BY 5, 1
