-- name: lock_supplier
-- Imports of one supplier take turns, until unlock_supplier.
SELECT pg_advisory_lock(7815, hashtext(%(supplier_id)s::uuid::text))

-- name: unlock_supplier
-- End what lock_supplier began.
SELECT pg_advisory_unlock(7815, hashtext(%(supplier_id)s::uuid::text))

-- name: statement_of_file
-- The statement that a file was imported as.
SELECT statement_id
FROM reconciliation.statements
WHERE supplier_id = %(supplier_id)s AND file_sha256 = %(file_sha256)s

-- name: known_references
-- Which references earlier statements of the supplier had.
SELECT DISTINCT reference
FROM reconciliation.lines
WHERE supplier_id = %(supplier_id)s AND reference = ANY (%(references)s::text[])

-- name: billed_attempts
-- Which attempts are billed already.
SELECT asked.call_id, asked.ordinal
FROM unnest(%(call_ids)s::uuid[], %(ordinals)s::integer[]) AS asked (call_id, ordinal)
JOIN reconciliation.lines AS line ON line.attempt_call_id = asked.call_id AND line.attempt_ordinal = asked.ordinal

-- name: add_statement
-- Store a statement as it came.
INSERT INTO reconciliation.statements (
    statement_id, supplier_id, party_id, file_name, file_sha256, content, columns, currency, since, until,
    tolerance_quanta, tolerance_ppm, window_s, line_count, total_quanta, imported_at, actor)
VALUES (
    %(statement_id)s, %(supplier_id)s, %(party_id)s, %(file_name)s, %(file_sha256)s, %(content)s, %(columns)s,
    %(currency)s, %(since)s, %(until)s, %(tolerance_quanta)s, %(tolerance_ppm)s, %(window_s)s, %(line_count)s,
    %(total_quanta)s, %(imported_at)s, %(actor)s)

-- name: copy_lines
-- Store the lines with what each was found to be.
COPY reconciliation.lines (
    statement_id, line_number, supplier_id, reference, call_id, occurred_at, model, input_tokens, output_tokens,
    quanta, verdict, attempt_call_id, attempt_ordinal, attempt_owed_quanta, day)
FROM STDIN

-- name: copy_unbilled_attempts
-- Store the attempts that no line certainly bills.
COPY reconciliation.unbilled_attempts (statement_id, call_id, ordinal, model, started_at, owed_quanta, verdict)
FROM STDIN

-- name: add_proposal
-- Store a correcting entry that nobody posted yet.
INSERT INTO reconciliation.proposals (statement_id, fact_id, quanta)
VALUES (%(statement_id)s, %(fact_id)s, %(quanta)s)

-- name: add_acceptance
-- Note who accepted a proposal first.
INSERT INTO reconciliation.acceptances (statement_id, accepted_at, actor)
VALUES (%(statement_id)s, %(now)s, %(actor)s)
ON CONFLICT DO NOTHING

-- name: get_statement
-- One statement without its file.
SELECT
    statement_id, supplier_id, party_id, file_name, file_sha256, columns, currency, since, until,
    tolerance_quanta, tolerance_ppm, window_s, line_count, total_quanta, imported_at, actor
FROM reconciliation.statements
WHERE statement_id = %(statement_id)s

-- name: list_statements
-- Statements, newest first.
SELECT
    statement_id, supplier_id, party_id, file_name, file_sha256, columns, currency, since, until,
    tolerance_quanta, tolerance_ppm, window_s, line_count, total_quanta, imported_at, actor
FROM reconciliation.statements
WHERE (%(supplier_id)s::uuid IS NULL OR supplier_id = %(supplier_id)s)
    AND (%(before)s::uuid IS NULL OR statement_id < %(before)s)
ORDER BY statement_id DESC
LIMIT %(limit)s

-- name: totals
-- What each verdict of a statement sums up to, by day.
SELECT verdict, day, sum(lines), sum(billed), sum(attempts), sum(owed)
FROM (
    SELECT verdict, day, 1 AS lines, quanta::numeric AS billed,
        (attempt_call_id IS NOT NULL)::integer AS attempts, coalesce(attempt_owed_quanta, 0)::numeric AS owed
    FROM reconciliation.lines
    WHERE statement_id = %(statement_id)s
    UNION ALL
    SELECT verdict, (started_at AT TIME ZONE 'UTC')::date, 0, 0, 1, owed_quanta
    FROM reconciliation.unbilled_attempts
    WHERE statement_id = %(statement_id)s
) AS rows
GROUP BY verdict, day
ORDER BY day NULLS FIRST, verdict

-- name: proposal
-- A statement's correcting entry, who accepted it, and whether it is in the books.
SELECT
    proposal.fact_id,
    proposal.quanta,
    acceptance.accepted_at,
    acceptance.actor,
    EXISTS (SELECT FROM ledger.entries AS entry WHERE entry.fact_id = proposal.fact_id AND entry.operation = 'post')
FROM reconciliation.proposals AS proposal
LEFT JOIN reconciliation.acceptances AS acceptance ON acceptance.statement_id = proposal.statement_id
WHERE proposal.statement_id = %(statement_id)s

-- name: differences
-- Every line and every unbilled attempt of a statement; those that are matched only when asked for.
SELECT verdict, line_number, reference, coalesce(attempt_call_id, call_id), attempt_ordinal, occurred_at, model, quanta, attempt_owed_quanta
FROM reconciliation.lines
WHERE statement_id = %(statement_id)s AND (%(with_matched)s OR verdict <> 'matched')
UNION ALL
SELECT verdict, NULL, NULL, call_id, ordinal, started_at, model, NULL, owed_quanta
FROM reconciliation.unbilled_attempts
WHERE statement_id = %(statement_id)s
ORDER BY 2 NULLS LAST, 4, 5

-- name: on_hold
-- What a party is owed for calls that ended lately and that no statement settled.
SELECT coalesce(sum((
    SELECT sum((leg.value ->> 'amount')::numeric * 1000000000)
    FROM json_each(call.receipt) AS leg (name, value)
    WHERE leg.name LIKE 'leg.%%' AND leg.value ->> 'kind' = 'supplier' AND (leg.value ->> 'payee')::uuid = %(party_id)s
)), 0)::numeric(39, 0)
FROM gateway.calls AS call
WHERE call.call_id >= ledger.identifier_floor(%(ended_after)s::timestamptz - interval '1 day')
    AND call.ended_at > %(ended_after)s
    AND call.status = 'settled'
    AND call.currency = %(currency)s
    AND call.supplier_id IN (SELECT supplier_id FROM supply.suppliers WHERE party_id = %(party_id)s)
    AND NOT EXISTS (
        SELECT
        FROM reconciliation.lines AS line
        WHERE line.attempt_call_id = call.call_id
            AND line.attempt_ordinal = call.attempt_count
            AND (
                line.verdict = 'matched'
                OR EXISTS (SELECT FROM reconciliation.acceptances AS done WHERE done.statement_id = line.statement_id)
            )
    )

-- name: accepted
-- Proposals of the last days that were accepted and are not in the books although their time has passed.
SELECT acceptance.statement_id, acceptance.actor
FROM reconciliation.acceptances AS acceptance
JOIN reconciliation.proposals AS proposal ON proposal.statement_id = acceptance.statement_id
WHERE acceptance.accepted_at > %(after)s AND acceptance.accepted_at < %(before)s
    AND NOT EXISTS (
        SELECT
        FROM ledger.entries AS entry
        WHERE entry.fact_id = proposal.fact_id AND entry.operation = 'post'
    )
ORDER BY acceptance.accepted_at
LIMIT 100
