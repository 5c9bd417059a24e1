-- name: lanes
-- The head of every lane, as the writers left it.
SELECT lane, batch, head_hash, receipt_sequence, receipt_head
FROM ledger.lanes
ORDER BY lane

-- name: batches
-- Every batch, lane by lane.
SELECT lane, batch, epoch, recorded_at, operations, previous_hash, hash
FROM ledger.batches
ORDER BY lane, batch

-- name: entries
-- Every record in the order in which the chain hashed it.
SELECT lane, batch, position, fact_id, operation, ordinal, recorded_at, record, receipt_sequence, receipt_previous
FROM ledger.entries
ORDER BY lane, batch, position

-- name: facts
-- Every record of a hold's life, hold by hold.
SELECT fact_id, record
FROM ledger.entries
WHERE operation IN ('place', 'extend', 'capture', 'void', 'expire')
ORDER BY fact_id

-- name: holds
-- Every hold, in the order of its records.
SELECT hold_id, state, placed_at, expires_at, closed_at, on_expiry, part_accounts, part_held, part_captured
FROM ledger.holds
ORDER BY hold_id

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
SELECT taken_at, lanes, balances_hash, signature
FROM ledger.checkpoints
ORDER BY taken_at

-- name: checkpoint_heads
-- Heads that a checkpoint saw and the books do not have any more.
SELECT checkpoint.taken_at, (head.value ->> 0)::integer, (head.value ->> 1)::bigint
FROM ledger.checkpoints AS checkpoint
CROSS JOIN LATERAL jsonb_array_elements(checkpoint.lanes::jsonb) AS head
LEFT JOIN ledger.batches AS batch ON batch.lane = (head.value ->> 0)::integer AND batch.batch = (head.value ->> 1)::bigint
WHERE (head.value ->> 1)::bigint > 0 AND encode(batch.hash, 'hex') IS DISTINCT FROM head.value ->> 2
ORDER BY 1, 2
LIMIT 1000

-- name: has_calls
-- Whether a gateway keeps its records in this database and this role may read them.
SELECT coalesce(has_table_privilege(to_regclass('gateway.calls'), 'SELECT'), false)

-- name: calls
-- What each call was billed.
SELECT call_id, charge_quanta
FROM gateway.calls
ORDER BY call_id
