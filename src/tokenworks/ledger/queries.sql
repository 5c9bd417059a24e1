-- name: place
-- Place and extend holds, one row of outcome per operation.
SELECT *
FROM ledger.place_v2(
    %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b
)

-- name: post
-- Post entries, capture, void and expire holds, one row of outcome per operation.
SELECT *
FROM ledger.post_v2(
    %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %s::text, %b, %b, %b, %b, %b, %b, %b
)

-- name: post_plain
-- Post a batch of entries that cannot refuse each other, at once; NULL when it is no such batch.
SELECT ledger.post_plain_v1(
    %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b
)

-- name: lease_lane
-- Take a lane; its epoch goes up, so whoever had it before is stopped by its next batch.
SELECT lane, epoch
FROM ledger.lease_lane_v1(%(holder)s, %(now)s, %(until)s, %(lanes_max)s)

-- name: renew_lane
-- Keep a lane; false when it was lost.
SELECT ledger.renew_lane_v1(%(lane)s, %(epoch)s, %(until)s)

-- name: are_laned
-- Which accounts there are, and whether each is a laned main account; the answers never change.
SELECT account_id, is_laned AND lane = 0
FROM ledger.accounts
WHERE account_id = ANY (%(account_ids)s)
ORDER BY account_id

-- name: lane_account
-- This lane's share of a laned account; made when first needed.
SELECT ledger.lane_account_v1(%(account_id)s, %(lane)s, %(now)s)

-- name: open_account
-- The account of (party, asset, purpose); made when first needed.
SELECT ledger.open_account_v1(
    %(party_id)s, %(asset)s, %(purpose)s, %(account_class)s, %(normal_side)s, %(title_holder)s,
    %(is_laned)s, %(no_overdraft)s, %(money_role)s::smallint, %(now)s
)

-- name: find_account
-- The account of (party, asset, purpose), if it was opened.
SELECT account.account_id
FROM ledger.accounts AS account
JOIN ledger.assets AS asset ON asset.asset_id = account.asset_id
WHERE account.party_id = %(party_id)s AND asset.code = %(asset)s
    AND account.purpose = %(purpose)s AND account.qualifier = '' AND account.lane = 0

-- name: balances
-- Accounts with their lanes summed; of one party, or all where the party is NULL.
SELECT
    main.account_id,
    main.party_id,
    main.purpose,
    asset.code,
    main.account_class,
    main.normal_side,
    main.title_holder,
    sum(balance.debits_pending),
    sum(balance.credits_pending),
    sum(balance.debits_posted),
    sum(balance.credits_posted),
    max(balance.money_role)
FROM ledger.accounts AS main
JOIN ledger.assets AS asset ON asset.asset_id = main.asset_id
JOIN ledger.accounts AS share ON share.account_id = main.account_id OR share.main_account_id = main.account_id
JOIN ledger.balances AS balance ON balance.account_id = share.account_id
WHERE main.lane = 0 AND main.party_id = %(party_id)s
GROUP BY main.account_id, asset.code
ORDER BY main.purpose, asset.code, main.account_id

-- name: all_balances
-- Every account with its lanes summed, except the windows of limits, which are summed too.
SELECT
    min(main.account_id),
    CASE WHEN main.purpose = 'limit_available' THEN '00000000-0000-0000-0000-000000000001'::uuid ELSE main.party_id END AS party,
    main.purpose,
    asset.code,
    main.account_class,
    main.normal_side,
    CASE WHEN main.purpose = 'limit_available' THEN '00000000-0000-0000-0000-000000000001'::uuid ELSE main.title_holder END AS title,
    sum(balance.debits_pending),
    sum(balance.credits_pending),
    sum(balance.debits_posted),
    sum(balance.credits_posted),
    max(balance.money_role)
FROM ledger.balances AS balance
JOIN ledger.accounts AS share ON share.account_id = balance.account_id
JOIN ledger.accounts AS main ON main.account_id = coalesce(share.main_account_id, share.account_id)
JOIN ledger.assets AS asset ON asset.asset_id = main.asset_id
GROUP BY party, main.purpose, asset.code, main.account_class, main.normal_side, title
ORDER BY main.account_class, main.purpose, asset.code, party

-- name: set_scope
-- Open, freeze, thaw or close a node of the spend tree.
SELECT ledger.set_scope_v1(%(scope_id)s, %(state)s, %(expires_at)s, %(now)s)

-- name: publish_path
-- Publish the current version of a spend path.
SELECT ledger.publish_path_v1(%(path_id)s, %(scope_ids)s::uuid[], %(funding)s::bigint[], %(now)s)

-- name: open_path
-- Open scopes that are not there yet, with their limits, and publish a path through them.
SELECT ledger.open_path_v1(
    %(path_id)s, %(scope_ids)s::uuid[], %(funding)s::bigint[], %(opened)s::uuid[], %(expiries)s::timestamptz[],
    %(limit_scopes)s::uuid[], %(limit_assets)s::text[], %(limit_quanta)s::bigint[], %(limit_windows)s::text[],
    %(actor)s, %(now)s
)

-- name: set_limit
-- Set, change or remove a limit.
SELECT limit_id, window_account, difference
FROM ledger.set_limit_v1(%(scope_id)s, %(asset)s, %(quanta)s, %(window)s, %(zone)s, %(actor)s, %(now)s)

-- name: settle_owed
-- Note that part of what a lowered limit owes was taken back.
SELECT ledger.settle_owed_v1(%(account_id)s, %(taken)s)

-- name: owed_windows
-- Windows of lowered limits that still owe something and have something to give.
SELECT spot.account_id, asset.code, least(spot.owed, balance.credits_posted - balance.debits_posted - balance.debits_pending)::bigint
FROM ledger.limit_windows AS spot
JOIN ledger.balances AS balance ON balance.account_id = spot.account_id
JOIN ledger.assets AS asset ON asset.asset_id = balance.asset_id
WHERE spot.owed > 0 AND balance.credits_posted - balance.debits_posted - balance.debits_pending > 0
ORDER BY spot.account_id
LIMIT 500

-- name: owed_window
-- What one window of a lowered limit still owes and has to give.
SELECT least(spot.owed, balance.credits_posted - balance.debits_posted - balance.debits_pending)::bigint
FROM ledger.limit_windows AS spot
JOIN ledger.balances AS balance ON balance.account_id = spot.account_id
WHERE spot.account_id = %(account_id)s AND spot.owed > 0

-- name: lock_account
-- Serialise what a service reads, decides and posts about one account, until unlock_account.
SELECT pg_advisory_lock(7814, (%(account_id)s::bigint %% 2147483647)::integer)

-- name: unlock_account
-- End what lock_account began.
SELECT pg_advisory_unlock(7814, (%(account_id)s::bigint %% 2147483647)::integer)

-- name: limits
-- The open limits of some scopes with what is left in the current window.
SELECT
    lim.limit_id,
    lim.scope_id,
    asset.code,
    lim.quanta,
    lim.window_kind,
    lim.time_zone,
    coalesce(balance.credits_posted - balance.debits_posted - balance.debits_pending, lim.quanta),
    coalesce(balance.debits_pending, 0),
    ledger.window_end(lim.window_kind, lim.time_zone, ledger.window_start(lim.window_kind, lim.time_zone, %(now)s, lim.opened_at))
FROM ledger.limits AS lim
JOIN ledger.assets AS asset ON asset.asset_id = lim.asset_id
LEFT JOIN ledger.limit_windows AS spot
    ON spot.limit_id = lim.limit_id
    AND spot.window_start = ledger.window_start(lim.window_kind, lim.time_zone, %(now)s, lim.opened_at)
LEFT JOIN ledger.balances AS balance ON balance.account_id = spot.account_id
WHERE lim.scope_id = ANY (%(scope_ids)s::uuid[]) AND lim.closed_at IS NULL
ORDER BY array_position(%(scope_ids)s::uuid[], lim.scope_id), lim.limit_id

-- name: limit_by_id
-- One open limit.
SELECT lim.scope_id, asset.code, lim.window_kind, lim.time_zone
FROM ledger.limits AS lim
JOIN ledger.assets AS asset ON asset.asset_id = lim.asset_id
WHERE lim.limit_id = %(limit_id)s AND lim.closed_at IS NULL

-- name: refused_limit
-- What a refused account is: a limit's window with its next opening, or money.
SELECT
    account.purpose,
    asset.code,
    lim.limit_id,
    lim.scope_id,
    lim.window_kind,
    lim.quanta,
    ledger.window_end(lim.window_kind, lim.time_zone, spot.window_start)
FROM ledger.accounts AS account
JOIN ledger.assets AS asset ON asset.asset_id = account.asset_id
LEFT JOIN ledger.limit_windows AS spot ON spot.account_id = account.account_id
LEFT JOIN ledger.limits AS lim ON lim.limit_id = spot.limit_id
WHERE account.account_id = %(account_id)s

-- name: lane_shares
-- What each writer's share of a laned account holds, the shares that are not empty.
SELECT share.account_id, balance.credits_posted - balance.debits_posted
FROM ledger.accounts AS share
JOIN ledger.balances AS balance ON balance.account_id = share.account_id
WHERE share.main_account_id = %(account_id)s AND balance.credits_posted > balance.debits_posted
ORDER BY share.account_id

-- name: set_account_state
-- Freeze or thaw one account for new holds.
SELECT ledger.set_account_state_v1(%(account_id)s, %(state)s, %(now)s)

-- name: claim_reference
-- Record an outside payment's reference; the fact that holds it, ours or an earlier one.
SELECT ledger.claim_reference_v1(%(rail)s, %(reference)s, %(fact_id)s)

-- name: entries_of
-- The recorded operations of one fact.
SELECT fact_id, operation, ordinal, lane, batch, recorded_at, record
FROM ledger.entries
WHERE fact_id = %(fact_id)s
ORDER BY recorded_at, operation, ordinal

-- name: entry
-- One recorded operation.
SELECT recorded_at, record, lane, receipt_sequence, receipt_previous
FROM ledger.entries
WHERE fact_id = %(fact_id)s AND operation = %(operation)s AND ordinal = %(ordinal)s

-- name: account_names
-- Whose and what some accounts are; a lane's share goes by its main account.
SELECT share.account_id, main.account_id, main.party_id, main.purpose, asset.code
FROM ledger.accounts AS share
JOIN ledger.accounts AS main ON main.account_id = coalesce(share.main_account_id, share.account_id)
JOIN ledger.assets AS asset ON asset.asset_id = main.asset_id
WHERE share.account_id = ANY (%(account_ids)s::bigint[])

-- name: open_holds
-- Open holds, the oldest first.
SELECT hold_id, state, placed_at, expires_at, part_accounts, part_assets, part_held, part_captured, meta
FROM ledger.holds
WHERE state = 'open'
ORDER BY hold_id
LIMIT %(limit)s

-- name: hold
-- One hold.
SELECT hold_id, state, placed_at, expires_at, part_accounts, part_assets, part_held, part_captured, meta
FROM ledger.holds
WHERE hold_id = %(hold_id)s

-- name: due_holds
-- Holds whose time has come; those that wait for a person are left alone.
SELECT hold_id
FROM ledger.holds
WHERE state = 'open' AND expires_at < %(before)s AND on_expiry <> 'wait'
ORDER BY expires_at
LIMIT %(limit)s

-- name: ensure_partitions
-- Make this and the coming months' partitions.
SELECT ledger.ensure_partitions_v1(%(now)s, %(months)s)

-- name: path_version
-- The current version of a spend path.
SELECT version
FROM ledger.spend_paths
WHERE path_id = %(path_id)s AND is_current

-- name: leaseholders
-- Who has leases that were not ended, and whether one of them still runs.
SELECT lease.holder, coalesce(bool_or(lane.leased_until >= %(now)s), false)
FROM ledger.leases AS lease
LEFT JOIN ledger.lanes AS lane ON lane.lane = lease.lane AND lane.epoch = lease.epoch
WHERE lease.ended_at IS NULL
GROUP BY lease.holder
ORDER BY lease.holder

-- name: end_leases
-- End all leases of a process; false when it may live after all.
SELECT ledger.end_leases_v1(%(holder)s, %(now)s, %(is_gone)s)

-- name: ended_leases
-- Leases that ended and were not forgotten.
SELECT lane, epoch
FROM ledger.leases
WHERE ended_at IS NOT NULL
ORDER BY lane, epoch

-- name: orphaned_holds
-- Open holds that were placed under a lease that ended, of those whose meta begins so.
-- The open ones are few; for each its entry and batch are looked up (OFFSET 0 keeps it so).
SELECT hold.hold_id
FROM ledger.holds AS hold
CROSS JOIN LATERAL (
    SELECT entry.lane, entry.batch, entry.recorded_at
    FROM ledger.entries AS entry
    WHERE entry.fact_id = hold.hold_id AND entry.operation = 'place' AND entry.ordinal = 0
    OFFSET 0
) AS placed
CROSS JOIN LATERAL (
    SELECT epoch
    FROM ledger.batches
    WHERE lane = placed.lane AND batch = placed.batch AND recorded_at = placed.recorded_at
    OFFSET 0
) AS batch
JOIN ledger.leases AS lease ON lease.lane = placed.lane AND lease.epoch = batch.epoch
WHERE hold.state = 'open' AND lease.ended_at IS NOT NULL AND starts_with(hold.meta, %(meta)s)
ORDER BY hold.hold_id
LIMIT %(limit)s

-- name: forget_leases
-- Forget leases that ended, once nothing is held under them.
SELECT ledger.forget_leases_v1(%(lanes)s::integer[], %(epochs)s::bigint[])
