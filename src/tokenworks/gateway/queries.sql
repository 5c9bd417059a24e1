-- name: record_attempt
-- A second or later attempt, noted before it is sent.
INSERT INTO gateway.attempts (call_id, ordinal, offer_id, supplier_id, started_at)
VALUES (%(call_id)s, %(ordinal)s, %(offer_id)s, %(supplier_id)s, %(started_at)s)
ON CONFLICT DO NOTHING

-- name: claim_key
-- Take an idempotency key for a call; nothing happens when it is taken already.
INSERT INTO gateway.idempotency_keys (organisation_id, idempotency_key, call_id, body_sha256, claimed_at)
VALUES (%(organisation_id)s, %(idempotency_key)s, %(call_id)s, %(body_sha256)s, %(now)s)
ON CONFLICT DO NOTHING

-- name: find_key
-- Which call an idempotency key stands for.
SELECT call_id, body_sha256
FROM gateway.idempotency_keys
WHERE organisation_id = %(organisation_id)s AND idempotency_key = %(idempotency_key)s

-- name: has_refund
-- Whether a refund of a call has a reference.
SELECT
FROM gateway.refunds
WHERE call_id = %(call_id)s AND reference = %(reference)s

-- name: get_call
-- One ended call, with its key's prefix and label.
SELECT call.*, key.prefix AS key_prefix, key.label AS key_label
FROM gateway.calls AS call
LEFT JOIN gateway.key_names AS key ON key.key_id = call.key_id
WHERE call.call_id = %(call_id)s

-- name: metered_calls
-- What was metered in some ended calls; the answer's status is that of the last attempt.
SELECT
    call_id,
    party_id,
    status = 'settled' AS is_settled,
    ended_at,
    model,
    tier,
    usage,
    input_tokens,
    output_tokens,
    is_estimate,
    currency,
    charge_quanta,
    duration_ms,
    first_token_ms,
    (receipt -> ('attempt.' || attempt_count) ->> 'http_status')::integer AS http_status
FROM gateway.calls
WHERE call_id = ANY(%(call_ids)s)

-- name: list_calls
-- Calls of all organisations, newest first; every filter is optional.
SELECT call.*, key.prefix AS key_prefix, key.label AS key_label
FROM gateway.calls AS call
LEFT JOIN gateway.key_names AS key ON key.key_id = call.key_id
WHERE (%(within_party_id)s::uuid IS NULL OR %(within_party_id)s IN (call.organisation_id, call.team_id, call.party_id))
    AND (%(team_id)s::uuid IS NULL OR call.team_id = %(team_id)s)
    AND (%(key_id)s::uuid IS NULL OR call.key_id = %(key_id)s)
    AND (%(model)s::text IS NULL OR call.model = %(model)s)
    AND (%(tier)s::text IS NULL OR call.tier = %(tier)s)
    AND (%(status)s::text IS NULL OR call.status = %(status)s)
    AND (%(supplier_id)s::uuid IS NULL OR call.supplier_id = %(supplier_id)s)
    AND (%(since)s::timestamptz IS NULL OR call.call_id >= ledger.identifier_floor(%(since)s))
    AND (%(until)s::timestamptz IS NULL OR call.call_id < ledger.identifier_floor(%(until)s))
    AND (%(before)s::uuid IS NULL OR call.call_id < %(before)s)
ORDER BY call.call_id DESC
LIMIT %(limit)s

-- name: list_calls_of_organisation
-- The same of one organisation: span after span, from the newest on, until there are enough. The
-- bounds of a span are named too, so that only its month is looked at.
SELECT call.*, key.prefix AS key_prefix, key.label AS key_label
FROM (
    SELECT found.*
    FROM (
        SELECT
            gateway.call_span(greatest((SELECT call_id FROM gateway.calls ORDER BY call_id LIMIT 1), ledger.identifier_floor(%(since)s))) AS first_span,
            gateway.call_span(least((SELECT call_id FROM gateway.calls ORDER BY call_id DESC LIMIT 1), ledger.identifier_floor(%(until)s), %(before)s)) AS last_span
    ) AS ends
    CROSS JOIN LATERAL generate_series(ends.last_span, ends.first_span, -1) AS spans (span)
    CROSS JOIN LATERAL (
        SELECT *
        FROM gateway.calls AS one
        WHERE gateway.call_span(one.call_id) = spans.span
            AND one.organisation_id = %(organisation_id)s
            AND one.call_id >= gateway.span_floor(spans.span)
            AND one.call_id < gateway.span_floor(spans.span + 1)
            AND (%(within_party_id)s::uuid IS NULL OR %(within_party_id)s IN (one.organisation_id, one.team_id, one.party_id))
            AND (%(team_id)s::uuid IS NULL OR one.team_id = %(team_id)s)
            AND (%(key_id)s::uuid IS NULL OR one.key_id = %(key_id)s)
            AND (%(model)s::text IS NULL OR one.model = %(model)s)
            AND (%(tier)s::text IS NULL OR one.tier = %(tier)s)
            AND (%(status)s::text IS NULL OR one.status = %(status)s)
            AND (%(supplier_id)s::uuid IS NULL OR one.supplier_id = %(supplier_id)s)
            AND (%(since)s::timestamptz IS NULL OR one.call_id >= ledger.identifier_floor(%(since)s))
            AND (%(until)s::timestamptz IS NULL OR one.call_id < ledger.identifier_floor(%(until)s))
            AND (%(before)s::uuid IS NULL OR one.call_id < %(before)s)
        ORDER BY one.call_id DESC
        LIMIT %(limit)s
    ) AS found
    LIMIT %(limit)s
) AS call
LEFT JOIN gateway.key_names AS key ON key.key_id = call.key_id
ORDER BY call.call_id DESC

-- name: spend
-- What calls cost, by one dimension.
SELECT
    coalesce(CASE %(by)s
        WHEN 'team' THEN call.team_id::text
        WHEN 'user' THEN call.party_id::text
        WHEN 'key' THEN call.key_id::text
        WHEN 'model' THEN call.model
        WHEN 'tier' THEN call.tier
        WHEN 'supplier' THEN call.supplier_name
        WHEN 'organisation' THEN call.organisation_id::text
        ELSE to_char(call.ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
    END, '') AS "group",
    count(*),
    sum(call.input_tokens),
    sum(call.output_tokens),
    sum(call.charge_quanta)
FROM gateway.calls AS call
WHERE call.call_id >= ledger.identifier_floor(%(since)s)
    AND call.call_id < ledger.identifier_floor(%(until)s)
    AND call.status = 'settled'
    AND (%(party_id)s::uuid IS NULL OR %(party_id)s IN (call.organisation_id, call.team_id, call.party_id))
GROUP BY 1
ORDER BY 1

-- name: flow_totals
-- Calls, tokens and charge of the last seconds. A call is looked for up to an hour after its start.
SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0), coalesce(sum(charge_quanta), 0)
FROM gateway.calls
WHERE call_id >= ledger.identifier_floor(%(since)s::timestamptz - interval '1 hour')
    AND ended_at >= %(since)s AND status = 'settled'
    AND (%(organisation_id)s::uuid IS NULL OR organisation_id = %(organisation_id)s)

-- name: flow_legs
-- Money of the last seconds by leg and party.
SELECT
    leg.value ->> 'kind',
    (leg.value ->> 'payee')::uuid,
    CASE WHEN leg.value ->> 'kind' = 'power' THEN (call.receipt -> ('attempt.' || call.attempt_count) ->> 'supplier')::uuid END,
    sum((leg.value ->> 'amount')::numeric * 1000000000)::numeric(39, 0)
FROM gateway.calls AS call
CROSS JOIN LATERAL json_each(call.receipt) AS leg (name, value)
WHERE call.call_id >= ledger.identifier_floor(%(since)s::timestamptz - interval '1 hour')
    AND call.ended_at >= %(since)s AND call.status = 'settled'
    AND leg.name LIKE 'leg.%%'
    AND (%(organisation_id)s::uuid IS NULL OR call.organisation_id = %(organisation_id)s)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3

-- name: flow_sales
-- What each buyer was charged in the last seconds.
SELECT organisation_id, sum(charge_quanta)
FROM gateway.calls
WHERE call_id >= ledger.identifier_floor(%(since)s::timestamptz - interval '1 hour')
    AND ended_at >= %(since)s AND status = 'settled'
    AND (%(organisation_id)s::uuid IS NULL OR organisation_id = %(organisation_id)s)
GROUP BY organisation_id
HAVING sum(charge_quanta) > 0
ORDER BY 2 DESC

-- name: ensure_partitions
-- Make the partitions of the ledger's months.
SELECT gateway.ensure_partitions_v1()
