-- name: closing
-- The close of one date.
SELECT closed_date, closed_at, actor, statement, signature
FROM ledger.closings
WHERE closed_date = %(date)s

-- name: closings
-- Closes, the newest first.
SELECT closed_date, closed_at, actor, statement, signature
FROM ledger.closings
ORDER BY closed_date DESC
LIMIT %(limit)s

-- name: patience
-- How long a close waits for a batch under way.
SELECT set_config('lock_timeout', %(milliseconds)s, false)

-- name: lanes
-- Every lane, live or dead; one that is new later starts after the date that is over.
SELECT lane
FROM ledger.lanes
ORDER BY lane

-- name: raise_lane
-- Let a lane book nothing before a moment any more.
SELECT ledger.raise_lane_v1(%(lane)s, %(until)s)

-- name: stop_lanes
-- Let no batch begin until this transaction ends.
SELECT ledger.stop_lanes_v1()

-- name: first_open_date
-- The first date after the last close, and before this one, that something was booked on.
SELECT min(booked)
FROM (
    SELECT min(recorded_at AT TIME ZONE 'UTC')::date AS booked
    FROM ledger.batches
    WHERE recorded_at >= %(since)s AND recorded_at < %(start)s
    UNION ALL
    SELECT min((record::json ->> 'date')::date)
    FROM ledger.entries
    WHERE record LIKE '{"v":1,"op":"post",%%,"date":"%%'
        AND (record::json ->> 'date')::date >= %(after)s AND (record::json ->> 'date')::date < %(date)s
) AS found

-- name: movements
-- What the entries of one date moved, by kind of account: those booked on it that name no other date.
WITH counted AS MATERIALIZED (
    SELECT entry.record::json AS record
    FROM ledger.entries AS entry
    WHERE entry.recorded_at >= %(start)s AND entry.recorded_at < %(end)s
),
moved AS (
    SELECT (leg.value ->> 0)::bigint AS debit, (leg.value ->> 1)::bigint AS credit, (leg.value ->> 2)::numeric AS quanta
    FROM counted
    CROSS JOIN LATERAL json_array_elements(counted.record -> 'transfers') AS leg
    WHERE counted.record ->> 'date' IS NULL
),
sides AS (
    SELECT account_id, sum(debits) AS debits, sum(credits) AS credits
    FROM (
        SELECT debit AS account_id, quanta AS debits, 0 AS credits FROM moved
        UNION ALL
        SELECT credit, 0, quanta FROM moved
    ) AS halves
    GROUP BY account_id
)
SELECT asset.code, account.purpose, account.account_class, account.normal_side, balance.money_role, sum(sides.debits), sum(sides.credits)
FROM sides
JOIN ledger.accounts AS account ON account.account_id = sides.account_id
JOIN ledger.assets AS asset ON asset.asset_id = account.asset_id
JOIN ledger.balances AS balance ON balance.account_id = sides.account_id
GROUP BY 1, 2, 3, 4, 5

-- name: count_entries
-- How many entries count in a date, those that name it apart.
SELECT count(*)
FROM ledger.entries
WHERE recorded_at >= %(start)s AND recorded_at < %(end)s AND record::json ->> 'date' IS NULL

-- name: dated_movements
-- The same for the entries that name the date themselves, and how many they are.
WITH counted AS MATERIALIZED (
    SELECT entry.record::json AS record
    FROM ledger.entries AS entry
    WHERE entry.record LIKE '{"v":1,"op":"post",%%,"date":"%%' AND (entry.record::json ->> 'date')::date = %(date)s
),
sides AS (
    SELECT (leg.value ->> 0)::bigint AS account_id, (leg.value ->> 2)::numeric AS debits, 0 AS credits
    FROM counted CROSS JOIN LATERAL json_array_elements(counted.record -> 'transfers') AS leg
    UNION ALL
    SELECT (leg.value ->> 1)::bigint, 0, (leg.value ->> 2)::numeric
    FROM counted CROSS JOIN LATERAL json_array_elements(counted.record -> 'transfers') AS leg
)
SELECT asset.code, account.purpose, account.account_class, account.normal_side, balance.money_role, sum(sides.debits), sum(sides.credits)
FROM sides
JOIN ledger.accounts AS account ON account.account_id = sides.account_id
JOIN ledger.assets AS asset ON asset.asset_id = account.asset_id
JOIN ledger.balances AS balance ON balance.account_id = sides.account_id
GROUP BY 1, 2, 3, 4, 5

-- name: count_dated
-- How many entries name a date.
SELECT count(*)
FROM ledger.entries
WHERE record LIKE '{"v":1,"op":"post",%%,"date":"%%' AND (record::json ->> 'date')::date = %(date)s

-- name: lane_heads
-- Each lane's last batch before a moment.
SELECT lane.lane, head.batch, encode(head.hash, 'hex')
FROM ledger.lanes AS lane
CROSS JOIN LATERAL (
    SELECT batch.batch, batch.hash
    FROM ledger.batches AS batch
    WHERE batch.lane = lane.lane AND batch.recorded_at < %(end)s
    ORDER BY batch.batch DESC
    LIMIT 1
) AS head
ORDER BY lane.lane

-- name: add_closing
-- Store the close of a date; false when it is closed already.
SELECT ledger.add_closing_v1(%(date)s, %(now)s, %(actor)s, %(statement)s, %(signature)s)
