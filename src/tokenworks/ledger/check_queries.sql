-- name: lanes
-- The head of every lane, as the writers left it.
SELECT lane, batch, head_hash, receipt_sequence, receipt_head
FROM ledger.lanes
ORDER BY lane

-- name: batches
-- Every batch, lane by lane; moments are microseconds since 1970, here and below.
SELECT lane, batch, epoch, ledger.microseconds(recorded_at), operations, previous_hash, hash
FROM ledger.batches
ORDER BY lane, batch

-- name: batches_since
-- The same after each lane's head of the start.
SELECT batch.lane, batch.batch, batch.epoch, ledger.microseconds(batch.recorded_at), batch.operations, batch.previous_hash, batch.hash
FROM ledger.lanes AS lane
LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = lane.lane
CROSS JOIN LATERAL (SELECT * FROM ledger.batches AS later WHERE later.lane = lane.lane AND later.batch > coalesce(head.batch, 0) OFFSET 0) AS batch
ORDER BY batch.lane, batch.batch

-- name: entries
-- Every record in the order in which the chain hashed it.
SELECT lane, batch, position, fact_id, operation, ordinal, ledger.microseconds(recorded_at), record, receipt_sequence, receipt_previous
FROM ledger.entries
ORDER BY lane, batch, position

-- name: entries_since
-- The same after each lane's head of the start.
SELECT entry.lane, entry.batch, entry.position, entry.fact_id, entry.operation, entry.ordinal, ledger.microseconds(entry.recorded_at), entry.record, entry.receipt_sequence, entry.receipt_previous
FROM ledger.entries AS entry
LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
WHERE entry.fact_id >= %(floor)s AND entry.batch > coalesce(head.batch, 0)
ORDER BY entry.lane, entry.batch, entry.position

-- name: operations_since
-- How many operations the batches after the start say they have.
SELECT coalesce(sum(batch.operations), 0)::bigint
FROM ledger.lanes AS lane
LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = lane.lane
CROSS JOIN LATERAL (SELECT * FROM ledger.batches AS later WHERE later.lane = lane.lane AND later.batch > coalesce(head.batch, 0) OFFSET 0) AS batch

-- name: entries_from
-- How many of their records have an identifier from a moment on.
SELECT count(*), ledger.identifier_floor(%(moment)s)
FROM ledger.entries AS entry
LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
WHERE entry.fact_id >= ledger.identifier_floor(%(moment)s) AND entry.batch > coalesce(head.batch, 0)

-- name: facts
-- Every record of a hold's life, hold by hold.
SELECT fact_id, record
FROM ledger.entries
WHERE operation IN ('place', 'extend', 'capture', 'void', 'expire')
ORDER BY fact_id

-- name: facts_since
-- The whole life of every hold that is open or has a record after the start.
WITH touched AS MATERIALIZED (
    SELECT entry.fact_id
    FROM ledger.entries AS entry
    LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
    WHERE entry.fact_id >= %(floor)s AND entry.batch > coalesce(head.batch, 0)
        AND entry.operation IN ('place', 'extend', 'capture', 'void', 'expire')
    UNION
    SELECT hold_id FROM ledger.holds WHERE state = 'open'
)
SELECT touched.fact_id, life.record
FROM touched
CROSS JOIN LATERAL (
    SELECT entry.record
    FROM ledger.entries AS entry
    WHERE entry.fact_id = touched.fact_id AND entry.operation IN ('place', 'extend', 'capture', 'void', 'expire')
    OFFSET 0) AS life
ORDER BY touched.fact_id

-- name: holds
-- Every hold, in the order of its records.
SELECT hold_id, state, ledger.microseconds(placed_at), ledger.microseconds(expires_at), ledger.microseconds(closed_at), on_expiry, part_accounts, part_held, part_captured
FROM ledger.holds
ORDER BY hold_id

-- name: holds_since
-- Every hold that is open or has a record after the start.
WITH touched AS MATERIALIZED (
    SELECT entry.fact_id
    FROM ledger.entries AS entry
    LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
    WHERE entry.fact_id >= %(floor)s AND entry.batch > coalesce(head.batch, 0)
        AND entry.operation IN ('place', 'extend', 'capture', 'void', 'expire')
    UNION
    SELECT hold_id FROM ledger.holds WHERE state = 'open'
)
SELECT hold.hold_id, hold.state, ledger.microseconds(hold.placed_at), ledger.microseconds(hold.expires_at), ledger.microseconds(hold.closed_at), hold.on_expiry, hold.part_accounts, hold.part_held, hold.part_captured
FROM touched
CROSS JOIN LATERAL (SELECT * FROM ledger.holds AS one WHERE one.hold_id = touched.fact_id OFFSET 0) AS hold
ORDER BY hold.hold_id

-- name: accounts
-- Every account with its counters; also one that was slipped in without being an account.
SELECT
    balance.account_id,
    coalesce(asset.code, '?'),
    coalesce(account.purpose, '?'),
    balance.no_overdraft,
    balance.money_role,
    balance.debits_pending,
    balance.credits_pending,
    balance.debits_posted,
    balance.credits_posted
FROM ledger.balances AS balance
LEFT JOIN ledger.accounts AS account ON account.account_id = balance.account_id
LEFT JOIN ledger.assets AS asset ON asset.asset_id = balance.asset_id
ORDER BY balance.account_id

-- name: windows
-- Windows that were opened or open after their limit was last changed, and what it should have granted.
SELECT lim.limit_id, spot.account_id, lim.quanta, spot.owed
FROM ledger.limits AS lim
JOIN ledger.limit_windows AS spot ON spot.limit_id = lim.limit_id
WHERE lim.closed_at IS NULL
    AND coalesce(ledger.window_end(lim.window_kind, lim.time_zone, spot.window_start), 'infinity')
        > (SELECT max(change.changed_at) FROM ledger.limit_changes AS change WHERE change.limit_id = lim.limit_id)
ORDER BY lim.limit_id, spot.window_start

-- name: checkpoints
-- Every checkpoint.
SELECT taken_at, lanes, balances_hash, signature, version
FROM ledger.checkpoints
ORDER BY taken_at

-- name: checkpoint_heads
-- Heads that a checkpoint or a cut saw, in the order of the batches, with the first that did.
SELECT (head.value ->> 0)::integer, (head.value ->> 1)::bigint, head.value ->> 2, min(seen.at)
FROM (
    SELECT taken_at AS at, lanes FROM ledger.checkpoints
    UNION ALL
    SELECT dropped_at, lanes FROM ledger.archives) AS seen
CROSS JOIN LATERAL jsonb_array_elements(seen.lanes::jsonb) AS head
WHERE (head.value ->> 1)::bigint > 0
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3

-- name: starts
-- Where a check may begin, the latest first: checkpoints since the last cut, and that cut.
SELECT kind, at, lanes, balances_hash, signature
FROM (
    (SELECT 'checkpoint' AS kind, taken_at AS at, lanes, balances_hash, signature
    FROM ledger.checkpoints
    WHERE version = 2 AND taken_at >= coalesce((SELECT max(dropped_at) FROM ledger.archives), '-infinity')
    ORDER BY taken_at DESC
    LIMIT 10)
    UNION ALL
    SELECT 'cut', dropped_at, lanes, balances_hash, NULL
    FROM (SELECT * FROM ledger.archives ORDER BY starts_at DESC LIMIT 1) AS last) AS known
ORDER BY at DESC

-- name: heads
-- The hash of the batches that a start names; NULL where there is no such batch.
SELECT head.lane, head.batch, coalesce(
    (SELECT found.hash FROM ledger.batches AS found WHERE found.lane = head.lane AND found.batch = head.batch),
    (SELECT decode(span.value ->> 3, 'hex')
    FROM ledger.archives CROSS JOIN LATERAL jsonb_array_elements(archives.batches) AS span
    WHERE (span.value ->> 0)::integer = head.lane AND (span.value ->> 2)::bigint = head.batch LIMIT 1))
FROM unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch)
WHERE head.batch > 0

-- name: archives
-- What was archived, the oldest first.
SELECT starts_at, ends_at, folder, files, batches, ledger.microseconds(recorded_last)
FROM ledger.archives
ORDER BY starts_at

-- name: last_cut
-- The heads and the hash of all balances at the last cut.
SELECT starts_at, lanes, balances_hash
FROM ledger.archives
ORDER BY starts_at DESC
LIMIT 1

-- name: cut_balances
-- The balances kept with the last cut.
SELECT account_id, debits_pending, credits_pending, debits_posted, credits_posted
FROM ledger.archive_balances
WHERE starts_at = (SELECT max(starts_at) FROM ledger.archives)
ORDER BY account_id

-- name: has_calls
-- Whether a gateway keeps its records in this database and this role may read them.
SELECT coalesce(has_table_privilege(to_regclass('gateway.calls'), 'SELECT'), false)

-- name: calls
-- What each call was billed.
SELECT call_id, charge_quanta
FROM gateway.calls
ORDER BY call_id

-- name: calls_since
-- What each call was billed whose hold has a record after the start.
WITH touched AS MATERIALIZED (
    SELECT entry.fact_id
    FROM ledger.entries AS entry
    LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
    WHERE entry.fact_id >= %(floor)s AND entry.batch > coalesce(head.batch, 0)
        AND entry.operation IN ('place', 'extend', 'capture', 'void', 'expire')
    UNION
    SELECT hold_id FROM ledger.holds WHERE state = 'open'
)
SELECT call.call_id, call.charge_quanta
FROM touched
CROSS JOIN LATERAL (SELECT * FROM gateway.calls AS one WHERE one.call_id = touched.fact_id OFFSET 0) AS call
ORDER BY call.call_id

-- name: has_payments
-- Whether payments are kept in this database and this role may read them.
SELECT coalesce(has_table_privilege(to_regclass('agents.payments'), 'SELECT'), false)

-- name: payments
-- What each capture or release of a payment says it took.
SELECT payment_id, operation, ordinal, captured_quanta
FROM agents.payments
ORDER BY payment_id

-- name: payments_since
-- The same of payments whose hold has a record after the start.
WITH touched AS MATERIALIZED (
    SELECT entry.fact_id
    FROM ledger.entries AS entry
    LEFT JOIN unnest(%(lanes)s::integer[], %(heads)s::bigint[]) AS head (lane, batch) ON head.lane = entry.lane
    WHERE entry.fact_id >= %(floor)s AND entry.batch > coalesce(head.batch, 0)
        AND entry.operation IN ('place', 'extend', 'capture', 'void', 'expire')
    UNION
    SELECT hold_id FROM ledger.holds WHERE state = 'open'
)
SELECT payment.payment_id, payment.operation, payment.ordinal, payment.captured_quanta
FROM touched
CROSS JOIN LATERAL (SELECT * FROM agents.payments AS one WHERE one.payment_id = touched.fact_id OFFSET 0) AS payment
ORDER BY payment.payment_id

-- name: has_energy
-- Whether energy is kept in this database and this role may read it.
SELECT coalesce(has_table_privilege(to_regclass('factory.shares'), 'SELECT'), false)

-- name: energy
-- Posted intervals whose rows do not agree with themselves or with their entry.
WITH said AS (
    SELECT
        division.interval_id,
        division.revision,
        division.metered_uj,
        division.unattributed_uj + coalesce(sum(share.energy_uj), 0) AS given_uj,
        encode(sha256(convert_to(
            coalesce(string_agg(share.call_id || ' ' || share.energy_uj || E'\n', '' ORDER BY share.call_id), ''), 'UTF8')), 'hex') AS shares
    FROM factory.intervals AS division
    LEFT JOIN factory.shares AS share ON share.interval_id = division.interval_id AND share.revision = division.revision
    WHERE division.posted_at IS NOT NULL AND division.interval_id >= %(floor)s
    GROUP BY division.interval_id, division.revision, division.metered_uj, division.unattributed_uj
), judged AS (
    SELECT
        said.interval_id,
        said.revision,
        CASE
            WHEN said.given_uj <> said.metered_uj THEN 'not_conserved'
            WHEN entry.said IS NULL AND said.revision = 0 AND said.metered_uj > 0 THEN 'entry_missing'
            WHEN entry.said -> 'meta' ->> 'shares_sha256' <> said.shares THEN 'shares_differ'
            WHEN said.revision = 0 AND entry.moved <> said.metered_uj THEN 'entry_differs'
        END AS fault
    FROM said
    LEFT JOIN LATERAL (
        SELECT record::json AS said, (SELECT sum((moved.leg ->> 2)::bigint) FROM json_array_elements(record::json -> 'transfers') AS moved (leg)) AS moved
        FROM ledger.entries
        WHERE fact_id = said.interval_id AND operation = 'post' AND ordinal = said.revision
    ) AS entry ON true
)
SELECT interval_id, revision, fault
FROM judged
WHERE fault IS NOT NULL
ORDER BY interval_id, revision
LIMIT 1000

-- name: closings
-- Closes, in the order of their dates.
SELECT closed_date, statement, signature
FROM ledger.closings
ORDER BY closed_date
