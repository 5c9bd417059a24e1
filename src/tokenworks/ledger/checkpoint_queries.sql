-- name: lane_heads
-- The last batch and the last receipt of every lane.
SELECT lane, batch, head_hash, receipt_sequence, receipt_head
FROM ledger.lanes
ORDER BY lane

-- name: counters
-- The four counters of every account that ever moved.
SELECT account_id, debits_pending, credits_pending, debits_posted, credits_posted
FROM ledger.balances
WHERE debits_pending + credits_pending + debits_posted + credits_posted > 0
ORDER BY account_id

-- name: add_checkpoint
-- Store a signed checkpoint.
SELECT ledger.add_checkpoint_v2(%(now)s, %(lanes)s, %(balances_hash)s, %(signature)s)
