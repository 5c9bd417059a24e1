-- name: begin_buyers
-- One row for each scope of each buyer to come, with its limit and its window's account.
CREATE TEMP TABLE filled ON COMMIT DROP AS
SELECT
    b,
    depth,
    md5((%(scope_names)s::text[])[depth] || b)::uuid AS scope_id,
    md5('org' || b)::uuid AS org_id,
    (%(windows)s::text[])[depth] AS window_kind,
    nextval('ledger.accounts_account_id_seq') AS account_id,
    nextval('ledger.limits_limit_id_seq') AS limit_id
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS b, generate_series(1, 4) AS depth

-- name: fill_scopes
-- Organisation, team, user and key.
INSERT INTO ledger.scopes (scope_id, state, changed_at)
SELECT scope_id, 'active', %(now)s
FROM filled

-- name: fill_limits
-- A limit on each scope.
INSERT INTO ledger.limits (limit_id, scope_id, asset_id, quanta, window_kind, time_zone, opened_at)
OVERRIDING SYSTEM VALUE
SELECT limit_id, scope_id, 11, %(given)s, window_kind, 'UTC', %(now)s
FROM filled

-- name: fill_windows
-- Its window, open now.
INSERT INTO ledger.limit_windows (limit_id, window_start, account_id)
SELECT limit_id, ledger.window_start(window_kind, 'UTC', %(now)s, %(now)s), account_id
FROM filled

-- name: fill_window_accounts
-- The window's account.
INSERT INTO ledger.accounts (account_id, party_id, asset_id, purpose, qualifier, account_class, normal_side, title_holder, is_laned, opened_at)
SELECT
    account_id,
    scope_id,
    11,
    'limit_available',
    limit_id || '@' || ledger.microseconds(ledger.window_start(window_kind, 'UTC', %(now)s, %(now)s)),
    'memo',
    'credit',
    scope_id,
    false,
    %(now)s
FROM filled

-- name: fill_window_balances
-- Granted, unspent.
INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, credits_posted, last_time)
SELECT account_id, 11, true, %(given)s, %(now)s
FROM filled

-- name: fill_cash_accounts
-- The organisation's money.
INSERT INTO ledger.accounts (party_id, asset_id, purpose, account_class, normal_side, title_holder, is_laned, opened_at)
SELECT org_id, 1, 'cash', 'liability', 'credit', org_id, false, %(now)s
FROM filled
WHERE depth = 1

-- name: fill_cash_balances
-- Paid in, unspent.
INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, money_role, credits_posted, last_time)
SELECT cash.account_id, 1, true, 1, %(given)s, %(now)s
FROM filled
JOIN ledger.accounts AS cash ON cash.party_id = org_id AND cash.purpose = 'cash' AND cash.asset_id = 1
WHERE depth = 1

-- name: fill_paths
-- The key's spend path.
INSERT INTO ledger.spend_paths (path_id, version, scope_ids, funding_accounts, is_current, published_at)
SELECT md5('key' || filled.b)::uuid, 1, array_agg(filled.scope_id ORDER BY filled.depth), ARRAY[min(cash.account_id)], true, %(now)s
FROM filled
JOIN ledger.accounts AS cash ON cash.party_id = org_id AND cash.purpose = 'cash' AND cash.asset_id = 1
GROUP BY filled.b

-- name: fill_other_side
-- What was given came from the bank and from the source of limits.
UPDATE ledger.balances AS side
SET debits_posted = debits_posted + %(given)s::numeric * %(count)s * CASE account.purpose WHEN 'limit_source' THEN 4 ELSE 1 END
FROM ledger.accounts AS account
WHERE account.account_id = side.account_id AND account.lane = 0
    AND ((account.purpose = 'safeguarded' AND account.asset_id = 1)
        OR (account.purpose = 'limit_source' AND account.asset_id = 11))

-- name: begin_calls
-- One row for each call to come, with an id that rises with its number.
CREATE TEMP TABLE past ON COMMIT DROP AS
SELECT
    i,
    (lpad(to_hex((%(begin_ms)s + i * %(step_ms)s)::bigint), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid AS id
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i, md5('call' || i) AS hash

-- name: sample
-- A real call to copy: its id, and the batch it was settled in.
SELECT fact_id, lane, batch
FROM ledger.entries
WHERE operation = 'capture'
LIMIT 1

-- name: columns
-- A table's columns in their order.
SELECT attname
FROM pg_attribute
WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
