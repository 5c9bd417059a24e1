-- name: attempts_of_supplier
-- Each attempt of one supplier in ended calls; tokens of the one that answered, which is the last.
SELECT
    call.call_id,
    attempt.ordinal,
    call.model,
    terms.upstream_model,
    (attempt.value ->> 'started_at')::timestamptz,
    call.ended_at,
    CASE WHEN call.receipt IS NOT NULL AND attempt.ordinal = call.attempt_count THEN call.input_tokens END,
    CASE WHEN call.receipt IS NOT NULL AND attempt.ordinal = call.attempt_count THEN call.output_tokens END,
    (attempt.value ->> 'payable_quanta')::bigint
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
LEFT JOIN supply.offer_terms AS terms
    ON terms.offer_id = (attempt.value ->> 'offer')::uuid
    AND terms.version = (attempt.value ->> 'terms_version')::integer
WHERE (
    call.call_id = ANY (%(call_ids)s::uuid[])
    OR (call.call_id >= ledger.identifier_floor(%(since)s) AND call.call_id < ledger.identifier_floor(%(until)s))
)
    AND (call.supplier_id = %(supplier_id)s OR call.attempt_count > 1)
    AND (attempt.value ->> 'supplier_id')::uuid = %(supplier_id)s
LIMIT %(limit)s
