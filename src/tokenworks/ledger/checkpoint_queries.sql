-- name: lane_heads
-- The last batch of every lane.
SELECT lane, batch, head_hash
FROM ledger.lanes
ORDER BY lane

-- name: counters
-- The four counters of every account.
SELECT account_id, debits_pending, credits_pending, debits_posted, credits_posted
FROM ledger.balances
ORDER BY account_id

-- name: add_checkpoint
-- Store a signed checkpoint.
SELECT ledger.add_checkpoint_v1(%(now)s, %(lanes)s, %(balances_hash)s, %(signature)s)
