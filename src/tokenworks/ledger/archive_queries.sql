-- name: lock
-- One archiver at a time; the lock lives as long as the connection.
SELECT pg_try_advisory_lock(7814)

-- name: unlock
-- Let the next archiver in.
SELECT pg_advisory_unlock(7814)

-- name: months
-- Months that are over before a moment, the oldest first.
SELECT starts_at, ends_at, first_id, last_id
FROM ledger.partitions
WHERE ends_at <= %(before)s
ORDER BY starts_at

-- name: tables
-- What follows the months, with the columns to keep.
SELECT
    retained.name,
    retained.order_columns,
    to_regclass(retained.name || '_' || %(suffix)s) IS NOT NULL AS is_there,
    columns.names,
    columns.types,
    key.attname::text AS key_column,
    key.atttypid = 'uuid'::regtype AS is_by_identifier
FROM ledger.retained_tables AS retained
CROSS JOIN LATERAL (
    SELECT array_agg(attribute.attname::text ORDER BY attribute.attnum) AS names,
        array_agg(format_type(attribute.atttypid, NULL) ORDER BY attribute.attnum) AS types
    FROM pg_attribute AS attribute
    WHERE attribute.attrelid = to_regclass(retained.name) AND attribute.attnum > 0 AND NOT attribute.attisdropped) AS columns
JOIN pg_partitioned_table AS parent ON parent.partrelid = to_regclass(retained.name)
JOIN pg_attribute AS key ON key.attrelid = parent.partrelid AND key.attnum = parent.partattrs[0]
ORDER BY retained.name

-- name: open_holds
-- Holds of a month that are still open.
SELECT hold_id
FROM ledger.holds
WHERE hold_id >= %(first_id)s AND hold_id < %(last_id)s AND state = 'open'
ORDER BY hold_id
LIMIT 5

-- name: earlier
-- What was archived before, the oldest first.
SELECT starts_at, ends_at, folder, files, batches, ledger.microseconds(recorded_last)
FROM ledger.archives
ORDER BY starts_at

-- name: later_records
-- Records of batches of this month whose identifiers belong to a later one.
SELECT entry.lane, entry.batch, entry.position, entry.record
FROM ledger.entries AS entry
WHERE entry.fact_id >= %(last_id)s AND entry.fact_id < ledger.identifier_floor(%(ends_at)s + interval '10 minutes')
    AND entry.recorded_at < %(ends_at)s
ORDER BY entry.lane, entry.batch, entry.position

-- name: drop_month
-- Drop a month that was archived and verified.
SELECT ledger.drop_month_v1(%(starts_at)s, %(now)s, %(folder)s, %(files)s::jsonb)
