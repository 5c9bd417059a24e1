-- name: attempts_at_supplier
-- Each attempt at one supplier in ended calls; tokens of the one that answered, which is the last.
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
FROM gateway.calls AS call
CROSS JOIN LATERAL (
    SELECT substr(field.name, 9)::integer AS ordinal, field.value
    FROM json_each(call.receipt) AS field (name, value)
    WHERE field.name LIKE 'attempt.%%'
    UNION ALL
    SELECT listed.place::integer, listed.value
    FROM json_array_elements(call.attempts) WITH ORDINALITY AS listed (value, place)
    WHERE call.receipt IS NULL
) AS attempt
WHERE (
    call.call_id = ANY (%(call_ids)s::uuid[])
    OR (call.call_id >= ledger.identifier_floor(%(since)s) AND call.call_id < ledger.identifier_floor(%(until)s))
)
    AND call.ended_at >= %(ended_since)s
    AND (call.supplier_id = %(supplier_id)s OR call.attempt_count > 1)
    AND (attempt.value ->> 'supplier_id')::uuid = %(supplier_id)s
    AND attempt.value ->> 'duration_us' IS NOT NULL
ORDER BY 5, 1
