-- The two functions that move value. Both follow one order, one statement a step:
-- lane, holds, accounts (each sorted), then everything is read again under the locks,
-- decided, written as one delta per account, and counted.
--
-- Why steps and not one big statement: under READ COMMITTED a statement that waited for a
-- lock still sees the rows of before the wait; UPDATE ... FROM applies only one of two
-- deltas for the same row. So locks come first, reads in a later statement, deltas summed.

CREATE FUNCTION ledger.lock_lane(p_lane integer, p_epoch bigint, p_now timestamptz) RETURNS ledger.lanes
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held ledger.lanes;
    skew_max_ms integer;
BEGIN
    SELECT * INTO held FROM ledger.lanes WHERE lane = p_lane FOR NO KEY UPDATE;
    IF NOT FOUND OR held.epoch <> p_epoch THEN
        RAISE EXCEPTION 'lane % is not held in epoch %', p_lane, p_epoch USING ERRCODE = 'TW002';
    END IF;
    SELECT clock_skew_max_ms INTO skew_max_ms FROM ledger.settings;
    IF skew_max_ms IS NOT NULL AND abs(extract(epoch FROM p_now - clock_timestamp())) * 1000 > skew_max_ms THEN
        RAISE EXCEPTION 'the caller''s clock is more than % ms off the database''s', skew_max_ms USING ERRCODE = 'TW003';
    END IF;
    RETURN held;
END
$$;

-- One writer's receive-only share of a laned account; made when first needed.
CREATE FUNCTION ledger.lane_account_v1(p_main bigint, p_lane integer, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    found_id bigint;
BEGIN
    INSERT INTO ledger.accounts (party_id, asset_id, purpose, qualifier, account_class, normal_side, title_holder, lane, main_account_id, is_laned, opened_at)
    SELECT party_id, asset_id, purpose, qualifier, account_class, normal_side, title_holder, p_lane, account_id, true, p_now
    FROM ledger.accounts
    WHERE account_id = p_main AND is_laned AND lane = 0
    ON CONFLICT DO NOTHING;
    SELECT account_id INTO STRICT found_id FROM ledger.accounts WHERE main_account_id = p_main AND lane = p_lane;
    INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, money_role, state, last_time)
    SELECT found_id, asset_id, false, money_role, state, p_now FROM ledger.balances WHERE account_id = p_main
    ON CONFLICT DO NOTHING;
    RETURN found_id;
END
$$;
CREATE INDEX account_lanes ON ledger.accounts (main_account_id, lane) WHERE main_account_id IS NOT NULL;

-- Where the window that contains a moment begins, in the limit's own time zone.
CREATE FUNCTION ledger.window_start(p_kind text, p_zone text, p_moment timestamptz, p_opened timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN CASE WHEN p_kind = 'ever' THEN p_opened ELSE date_trunc(p_kind, p_moment, p_zone) END;

CREATE FUNCTION ledger.window_end(p_kind text, p_zone text, p_start timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN CASE p_kind
    WHEN 'day' THEN ((p_start AT TIME ZONE p_zone) + interval '1 day') AT TIME ZONE p_zone
    WHEN 'month' THEN ((p_start AT TIME ZONE p_zone) + interval '1 month') AT TIME ZONE p_zone
    WHEN 'year' THEN ((p_start AT TIME ZONE p_zone) + interval '1 year') AT TIME ZONE p_zone
END;

-- Open the account of one window and grant it; returns the grant's transfer, or NULL when
-- another writer was first. Nothing is ever reset: a new window is a new account.
CREATE FUNCTION ledger.open_window(p_limit_id bigint, p_start timestamptz, p_lane integer, p_now timestamptz) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    window_account bigint := nextval('ledger.accounts_account_id_seq');
    opened_limit ledger.limits;
    source_main bigint;
    source_account bigint;
BEGIN
    -- A change of the limit waits for this window, or this waits and grants what was set.
    SELECT * INTO opened_limit FROM ledger.limits WHERE limit_id = p_limit_id FOR SHARE;
    INSERT INTO ledger.limit_windows (limit_id, window_start, account_id)
    VALUES (opened_limit.limit_id, p_start, window_account)
    ON CONFLICT (limit_id, window_start) DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO ledger.accounts (account_id, party_id, asset_id, purpose, qualifier, account_class, normal_side, title_holder, is_laned, opened_at)
    VALUES (window_account, opened_limit.scope_id, opened_limit.asset_id, 'limit_available', opened_limit.limit_id || '@' || ledger.microseconds(p_start), 'memo', 'credit', opened_limit.scope_id, false, p_now);
    INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, last_time)
    VALUES (window_account, opened_limit.asset_id, true, p_now);
    IF opened_limit.quanta = 0 THEN
        RETURN NULL;
    END IF;
    SELECT account_id INTO STRICT source_main FROM ledger.accounts WHERE purpose = 'limit_source' AND asset_id = opened_limit.asset_id AND lane = 0;
    source_account := ledger.lane_account_v1(source_main, p_lane, p_now);
    UPDATE ledger.balances SET credits_posted = credits_posted + opened_limit.quanta WHERE account_id = window_account;
    UPDATE ledger.balances SET debits_posted = debits_posted + opened_limit.quanta, last_time = greatest(last_time, p_now) WHERE account_id = source_account;
    RETURN ARRAY[source_account, window_account, opened_limit.quanta];
END
$$;

-- The id under which a window's grant is recorded: UUIDv7-shaped, one for each window.
CREATE FUNCTION ledger.grant_fact(p_moment timestamptz, p_limit_id bigint, p_start timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN (
    SELECT (substr(replace(ledger.identifier_floor(p_moment)::text, '-', ''), 1, 12) || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid
    FROM encode(sha256(convert_to(p_limit_id || '@' || ledger.microseconds(p_start), 'UTF8')), 'hex') AS hash
);

-- Close the batch: store the records, move the lane's head.
CREATE FUNCTION ledger.append_batch(
    p_lane ledger.lanes, p_time timestamptz,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[], p_records text[],
    p_receipt_sequences bigint[], p_receipt_previous bytea[], p_receipt_head bytea, p_receipt_sequence bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    batch_number bigint := p_lane.batch + 1;
    batch_hash bytea;
    stored integer;
BEGIN
    INSERT INTO ledger.entries (fact_id, operation, ordinal, lane, batch, position, recorded_at, content, record, receipt_sequence, receipt_previous)
    SELECT f, o, n, p_lane.lane, batch_number, position, p_time, c, r, s, b
    FROM unnest(p_facts, p_operations, p_ordinals, p_contents, p_records, p_receipt_sequences, p_receipt_previous) WITH ORDINALITY AS t (f, o, n, c, r, s, b, position)
    ORDER BY f, o, n
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored <> cardinality(p_facts) THEN
        -- Another writer recorded one of these facts first: run the batch again, it will see it.
        RAISE EXCEPTION 'a fact was recorded by another writer meanwhile' USING ERRCODE = '40001';
    END IF;
    batch_hash := sha256(p_lane.head_hash || convert_to(
        'tokenworks-batch-v1 ' || p_lane.lane || ' ' || batch_number || ' ' || p_lane.epoch || ' ' || ledger.microseconds(p_time) || E'\n'
        || array_to_string(p_records, E'\n'), 'UTF8'));
    INSERT INTO ledger.batches (lane, batch, epoch, recorded_at, operations, previous_hash, hash)
    VALUES (p_lane.lane, batch_number, p_lane.epoch, p_time, stored, p_lane.head_hash, batch_hash);
    UPDATE ledger.lanes
    SET batch = batch_number, head_hash = batch_hash, last_time = p_time, receipt_head = p_receipt_head, receipt_sequence = p_receipt_sequence
    WHERE lane = p_lane.lane;
END
$$;

CREATE TYPE ledger.outcome AS (
    position integer,             -- of the operation in the batch, from 1
    code text,                    -- 'ok', 'replayed' or why it was refused
    recorded_at timestamptz,
    expires_at timestamptz,
    part_accounts bigint[],
    part_assets smallint[],
    part_amounts bigint[],        -- held, for placements; taken from the hold, for captures
    refused_account bigint,       -- the tightest account that was short
    available numeric,            -- there: of that account; after a capture: the tightest money or money limit left
    overrun bigint,               -- what the platform bears because the hold could not grow
    record text,
    receipt_lane integer,
    receipt_sequence bigint,
    receipt_previous bytea
);


-- Place and extend holds. Operations are decided one by one in batch order: each takes all
-- of its parts or none, and one that is refused disturbs no other.
-- Arrays are subscripted instead of joined: PL/pgSQL keeps them expanded, so it is O(1).
-- p_lowest and p_highest bound p_facts: with them only the partitions in question are opened.
-- Not so in updates: there the range would be taken for the index condition.
-- OFFSET 0 is a fence: it keeps a look-up per operation from being planned as a scan.
CREATE FUNCTION ledger.place_v1(
    p_lane integer, p_epoch bigint, p_now timestamptz, p_lowest uuid, p_highest uuid,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_deadlines timestamptz[], p_expiries timestamptz[], p_fates text[], p_payees bigint[],
    p_paths uuid[], p_path_versions integer[], p_metas text[],
    p_amount_ops integer[], p_amount_assets smallint[], p_amount_accounts bigint[], p_amounts bigint[]
) RETURNS SETOF ledger.outcome
-- Plans are made once per connection (planning over partitions costs more than the work), so
-- they must also suit tables that are a million times larger than now: index look-ups only.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    lane ledger.lanes := ledger.lock_lane(p_lane, p_epoch, p_now);
    moment timestamptz := greatest(p_now, lane.last_time);
    n integer := cardinality(p_facts);
    codes text[];
    short_by bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    short_left numeric[] := array_fill(NULL::numeric, ARRAY[n]);
    part_ops integer[];
    part_accounts bigint[];
    part_assets smallint[];
    part_amounts bigint[];
    part_index integer[];
    account_ids bigint[];
    available numeric[];  -- NULL: no limit
    states text[];
    deltas numeric[];
    new_facts uuid[] := '{}';
    new_operations text[] := '{}';
    new_ordinals integer[] := '{}';
    new_contents bytea[] := '{}';
    records text[] := '{}';
    accepted integer[] := '{}';
    fresh record;
    grant_transfer bigint[];
    grant_fact uuid;
    part integer := 1;
    first_part integer;
    last_part integer;
    worst_share numeric;
    parts_text text;
    placed integer := 0;
    touched integer := 0;
    written integer;
BEGIN
    -- The windows that this batch needs and that nobody opened yet.
    FOR fresh IN
        SELECT lim.limit_id, ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at) AS starts
        FROM (
            SELECT DISTINCT path_id, version
            FROM unnest(p_paths, p_path_versions, p_operations) AS a (path_id, version, operation)
            WHERE operation = 'place' AND path_id IS NOT NULL) AS asked
        JOIN ledger.spend_paths AS path ON path.path_id = asked.path_id AND path.version = asked.version
        CROSS JOIN LATERAL unnest(path.scope_ids) AS scope (scope_id)
        JOIN ledger.limits AS lim ON lim.scope_id = scope.scope_id AND lim.closed_at IS NULL
        WHERE NOT EXISTS (
            SELECT FROM ledger.limit_windows AS existing
            WHERE existing.limit_id = lim.limit_id
                AND existing.window_start = ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at))
        GROUP BY 1, 2
        ORDER BY 1, 2
    LOOP
        grant_transfer := ledger.open_window(fresh.limit_id, fresh.starts, p_lane, moment);
        IF grant_transfer IS NOT NULL THEN
            -- A grant is a fact of its own: the call that needed it may be a repeat or refused.
            grant_fact := ledger.grant_fact(moment, fresh.limit_id, fresh.starts);
            new_facts := new_facts || grant_fact;
            new_operations := new_operations || 'grant'::text;
            new_ordinals := new_ordinals || 0;
            new_contents := new_contents || '\x'::bytea;
            records := records || format(
                '{"v":1,"op":"grant","fact":"%s","ordinal":0,"time":%s,"limit":%s,"transfers":[[%s,%s,%s]]}',
                grant_fact, ledger.microseconds(moment), fresh.limit_id,
                grant_transfer[1], grant_transfer[2], grant_transfer[3]);
        END IF;
    END LOOP;

    IF 'extend' = ANY (p_operations) THEN
        PERFORM FROM ledger.holds WHERE hold_id = ANY (p_facts) AND hold_id BETWEEN p_lowest AND p_highest ORDER BY hold_id FOR NO KEY UPDATE;
    END IF;

    -- What each operation takes, from which account: named directly; the money that funds
    -- its path; every open limit of every scope on the path; or, for an extension, each
    -- part of the hold with that asset, in the windows of its placement.
    SELECT array_agg(op), array_agg(account_id), array_agg(asset_id), array_agg(amount), array_agg(index)
    INTO part_ops, part_accounts, part_assets, part_amounts, part_index
    FROM (
        -- One part for each account, however often it was asked of; more than a transfer may
        -- move is refused below, so the sum is cut where it could overflow.
        SELECT op, account_id, min(asset_id) AS asset_id, least(sum(amount), 4611686018427387905)::bigint AS amount, min(place) AS place,
            dense_rank() OVER (ORDER BY account_id)::integer AS index
        FROM (
            SELECT asked.op, asked.account AS account_id, asked.asset AS asset_id, asked.amount, 0 AS place
            FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
            WHERE asked.account IS NOT NULL AND asked.amount > 0 AND p_operations[asked.op] = 'place'
            UNION ALL
            SELECT asked.op, funding.account_id, asked.asset, asked.amount, 0
            FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
            CROSS JOIN LATERAL (SELECT * FROM ledger.spend_paths AS p WHERE p.path_id = p_paths[asked.op] AND p.version = p_path_versions[asked.op] OFFSET 0) AS path
            CROSS JOIN LATERAL unnest(path.funding_accounts) AS funding (account_id)
            JOIN ledger.balances AS cash ON cash.account_id = funding.account_id AND cash.asset_id = asked.asset
            WHERE asked.account IS NULL AND asked.amount > 0 AND p_operations[asked.op] = 'place'
            UNION ALL
            SELECT asked.op, spot.account_id, asked.asset, asked.amount, scope.depth::integer
            FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
            CROSS JOIN LATERAL (SELECT * FROM ledger.spend_paths AS p WHERE p.path_id = p_paths[asked.op] AND p.version = p_path_versions[asked.op] OFFSET 0) AS path
            CROSS JOIN LATERAL unnest(path.scope_ids) WITH ORDINALITY AS scope (scope_id, depth)
            JOIN ledger.limits AS lim ON lim.scope_id = scope.scope_id AND lim.closed_at IS NULL AND lim.asset_id = asked.asset
            JOIN ledger.limit_windows AS spot ON spot.limit_id = lim.limit_id AND spot.window_start = ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at)
            WHERE asked.account IS NULL AND asked.amount > 0 AND p_operations[asked.op] = 'place'
            UNION ALL
            SELECT asked.op, grown.account_id, grown.asset_id, asked.amount, grown.place::integer
            FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
            CROSS JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = p_facts[asked.op] AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold
            CROSS JOIN LATERAL unnest(hold.part_accounts, hold.part_assets) WITH ORDINALITY AS grown (account_id, asset_id, place)
            WHERE asked.amount > 0 AND p_operations[asked.op] = 'extend' AND grown.asset_id = asked.asset
        ) AS resolved
        GROUP BY op, account_id
        ORDER BY op, place, account_id) AS ordered;

    -- Not in the statement above: an aggregate with an order of its own re-orders the others' input.
    SELECT array_agg(id ORDER BY id) INTO account_ids FROM (SELECT DISTINCT id FROM unnest(part_accounts) AS id) AS distinct_ids;
    PERFORM FROM ledger.balances WHERE account_id = ANY (account_ids) ORDER BY account_id FOR NO KEY UPDATE;

    -- Everything is locked: read again, then decide.
    SELECT
        array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END ORDER BY ids.place),
        array_agg(b.state ORDER BY ids.place),
        array_agg(0::numeric),
        greatest(moment, max(b.last_time))
    INTO available, states, deltas, moment
    FROM unnest(account_ids) WITH ORDINALITY AS ids (account_id, place)
    LEFT JOIN ledger.balances AS b ON b.account_id = ids.account_id;
    moment := greatest(moment, p_now, lane.last_time);

    -- Reasons to refuse that need no arithmetic, in their documented order.
    SELECT array_agg(
        CASE
            WHEN stored.fact_id IS NOT NULL THEN CASE WHEN stored.content = asked.content THEN 'replayed' ELSE 'conflict' END
            WHEN asked.deadline < moment THEN 'deadline_passed'
            WHEN asked.fact < (SELECT first_id FROM ledger.partitions ORDER BY starts_at LIMIT 1) OR asked.fact >= (SELECT last_id FROM ledger.partitions ORDER BY starts_at DESC LIMIT 1) OR (asked.operation = 'place' AND asked.fact > ledger.identifier_floor(moment + interval '5 minutes')) THEN 'id_outside_window'
            WHEN asked.operation = 'extend' AND hold.hold_id IS NULL THEN 'hold_unknown'
            WHEN asked.operation = 'extend' AND hold.state <> 'open' THEN 'hold_closed'
            WHEN asked.operation = 'place' AND asked.path_id IS NOT NULL AND path.path_id IS NULL THEN 'spend_path_unknown'
            WHEN asked.operation = 'place' AND asked.path_id IS NOT NULL AND NOT path.is_current THEN 'spend_path_stale'
            ELSE stopped.code
        END ORDER BY asked.op)
    INTO codes
    FROM unnest(p_facts, p_operations, p_ordinals, p_contents, p_deadlines, p_paths, p_path_versions) WITH ORDINALITY AS asked (fact, operation, ordinal, content, deadline, path_id, path_version, op)
    LEFT JOIN LATERAL (SELECT * FROM ledger.entries AS e WHERE e.fact_id = asked.fact AND e.operation = asked.operation AND e.ordinal = asked.ordinal AND e.fact_id BETWEEN p_lowest AND p_highest OFFSET 0) AS stored ON true
    LEFT JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE asked.operation = 'extend' AND h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold ON true
    LEFT JOIN ledger.spend_paths AS path ON path.path_id = coalesce(asked.path_id, hold.path_id) AND path.version = coalesce(asked.path_version, hold.path_version)
    LEFT JOIN LATERAL (
        SELECT CASE WHEN s.state = 'frozen' THEN 'scope_frozen' ELSE 'scope_closed' END AS code
        FROM ledger.scopes AS s
        WHERE s.scope_id = ANY (path.scope_ids) AND (s.state <> 'active' OR s.expires_at <= moment)
            -- a heartbeat (an extension without amounts) passes a frozen scope; growth does not
            AND (asked.operation = 'place' OR asked.op = ANY (p_amount_ops))
        ORDER BY 1 DESC  -- frozen before closed
        LIMIT 1) AS stopped ON true;

    -- Money can only be added to a part that there is; limits grow where there are any.
    IF 'extend' = ANY (p_operations) THEN
        FOR fresh IN
            SELECT asked.op
            FROM unnest(p_amount_ops, p_amount_assets, p_amounts) AS asked (op, asset, amount)
            JOIN ledger.holds AS hold ON hold.hold_id = p_facts[asked.op] AND hold.hold_id BETWEEN p_lowest AND p_highest
            WHERE p_operations[asked.op] = 'extend' AND asked.amount > 0 AND asked.asset < 10 AND asked.asset <> ALL (hold.part_assets)
        LOOP
            codes[fresh.op] := coalesce(codes[fresh.op], 'funding_account_missing');
        END LOOP;
    END IF;

    -- A named account must exist and carry the asset; money needs a funding account.
    FOR fresh IN
        SELECT asked.op,
            CASE
                WHEN asked.amount < 0 THEN 'amount_invalid'
                WHEN asked.account IS NULL THEN 'funding_account_missing'
                WHEN b.account_id IS NULL THEN 'account_unknown'
                WHEN b.asset_id <> asked.asset THEN 'asset_mismatch'
            END AS code,
            CASE WHEN asked.amount < 0 THEN 4 WHEN asked.account IS NULL THEN 1 WHEN b.account_id IS NULL THEN 2 ELSE 3 END AS rank
        FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
        LEFT JOIN ledger.balances AS b ON b.account_id = asked.account
        LEFT JOIN ledger.spend_paths AS path ON path.path_id = p_paths[asked.op] AND path.version = p_path_versions[asked.op]
        WHERE asked.amount < 0 OR (asked.amount > 0 AND p_operations[asked.op] = 'place'
            AND ((asked.account IS NOT NULL AND (b.account_id IS NULL OR b.asset_id <> asked.asset))
                OR (asked.account IS NULL AND asked.asset < 10 AND NOT EXISTS (
                    SELECT FROM ledger.balances AS cash WHERE cash.account_id = ANY (path.funding_accounts) AND cash.asset_id = asked.asset))))
        ORDER BY rank
    LOOP
        codes[fresh.op] := coalesce(codes[fresh.op], fresh.code);
    END LOOP;

    -- Who is to be paid at expiry must be there.
    IF 'capture' = ANY (p_fates) THEN
        FOR fresh IN
            SELECT asked.op
            FROM unnest(p_operations, p_fates, p_payees) WITH ORDINALITY AS asked (operation, fate, payee, op)
            WHERE asked.operation = 'place' AND asked.fate = 'capture' AND NOT EXISTS (SELECT FROM ledger.balances AS b WHERE b.account_id = asked.payee)
        LOOP
            codes[fresh.op] := coalesce(codes[fresh.op], 'account_unknown');
        END LOOP;
    END IF;

    FOR op IN 1..n LOOP
        first_part := part;
        WHILE part_ops[part] = op LOOP
            part := part + 1;
        END LOOP;
        last_part := part - 1;
        CONTINUE WHEN codes[op] IS NOT NULL;

        worst_share := NULL;
        FOR i IN first_part..last_part LOOP
            IF part_amounts[i] > 4611686018427387904 THEN
                codes[op] := 'amount_invalid';
            ELSIF states[part_index[i]] <> 'active' AND codes[op] IS DISTINCT FROM 'amount_invalid' THEN
                codes[op] := 'account_frozen';
            END IF;
        END LOOP;
        CONTINUE WHEN codes[op] IS NOT NULL;
        FOR i IN first_part..last_part LOOP
            IF available[part_index[i]] < part_amounts[i] AND (worst_share IS NULL OR available[part_index[i]] / part_amounts[i] < worst_share) THEN
                worst_share := available[part_index[i]] / part_amounts[i];
                short_by[op] := part_accounts[i];
                short_left[op] := available[part_index[i]];
                codes[op] := 'insufficient';
            END IF;
        END LOOP;
        CONTINUE WHEN codes[op] IS NOT NULL;

        -- After this point this operation must succeed.
        parts_text := '';
        FOR i IN first_part..last_part LOOP
            IF deltas[part_index[i]] = 0 THEN
                touched := touched + 1;
            END IF;
            available[part_index[i]] := available[part_index[i]] - part_amounts[i];
            deltas[part_index[i]] := deltas[part_index[i]] + part_amounts[i];
            parts_text := parts_text || CASE WHEN i > first_part THEN ',' ELSE '' END || '[' || part_accounts[i] || ',' || part_amounts[i] || ']';
        END LOOP;
        accepted := accepted || op;
        placed := placed + (p_operations[op] = 'place')::integer;
        new_facts := new_facts || p_facts[op];
        new_operations := new_operations || p_operations[op];
        new_ordinals := new_ordinals || p_ordinals[op];
        new_contents := new_contents || p_contents[op];
        records := records || (
            '{"v":1,"op":"' || p_operations[op] || '","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op]
            || ',"time":' || ledger.microseconds(moment) || ',"expires":' || ledger.microseconds(p_expiries[op])
            || ',"fate":"' || p_fates[op] || '","parts":[' || parts_text || '],"meta":' || p_metas[op] || '}');
    END LOOP;

    IF touched > 0 THEN
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + deltas[width_bucket(b.account_id, account_ids)], last_time = moment
        WHERE b.account_id = ANY (account_ids) AND deltas[width_bucket(b.account_id, account_ids)] > 0;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> touched THEN
            RAISE EXCEPTION 'wrote % of % accounts', written, touched USING ERRCODE = 'TW009';
        END IF;
    END IF;

    IF cardinality(accepted) > 0 THEN
        INSERT INTO ledger.holds (hold_id, state, placed_at, expires_at, on_expiry, payee_account, path_id, path_version, part_accounts, part_assets, part_held, part_captured, lane, meta)
        SELECT p_facts[op], 'open', moment, p_expiries[op], p_fates[op], p_payees[op], p_paths[op], p_path_versions[op],
            accounts, assets, amounts, zeros, p_lane, p_metas[op]
        FROM (
            SELECT op,
                coalesce(array_agg(account ORDER BY place) FILTER (WHERE account IS NOT NULL), '{}') AS accounts,
                coalesce(array_agg(asset ORDER BY place) FILTER (WHERE account IS NOT NULL), '{}') AS assets,
                coalesce(array_agg(amount ORDER BY place) FILTER (WHERE account IS NOT NULL), '{}') AS amounts,
                coalesce(array_agg(0::bigint) FILTER (WHERE account IS NOT NULL), '{}') AS zeros
            FROM (
                SELECT op, account, asset, amount, place FROM unnest(part_ops, part_accounts, part_assets, part_amounts) WITH ORDINALITY AS p (op, account, asset, amount, place)
                UNION ALL
                SELECT op, NULL, NULL, NULL, NULL FROM unnest(accepted) AS a (op)) AS rows
            WHERE codes[op] IS NULL AND p_operations[op] = 'place'
            GROUP BY op) AS grouped
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> placed THEN
            -- Another writer placed one of these holds first: run the batch again, it will see it.
            RAISE EXCEPTION 'a hold was placed by another writer meanwhile' USING ERRCODE = '40001';
        END IF;

        IF 'extend' = ANY (p_operations) THEN
            UPDATE ledger.holds AS hold
            SET expires_at = greatest(hold.expires_at, p_expiries[ext.op]),
                part_held = (
                    SELECT coalesce(array_agg(held.amount + coalesce(added.amount, 0) ORDER BY held.place), '{}')
                    FROM unnest(hold.part_accounts, hold.part_held) WITH ORDINALITY AS held (account, amount, place)
                    LEFT JOIN unnest(ext.accounts, ext.amounts) AS added (account, amount) ON added.account = held.account)
            FROM (
                SELECT heard.op, array_agg(p.account) FILTER (WHERE p.op IS NOT NULL) AS accounts, array_agg(p.amount) FILTER (WHERE p.op IS NOT NULL) AS amounts
                FROM unnest(accepted) AS heard (op)
                LEFT JOIN unnest(part_ops, part_accounts, part_amounts) AS p (op, account, amount) ON p.op = heard.op
                WHERE p_operations[heard.op] = 'extend'
                GROUP BY heard.op) AS ext
            WHERE hold.hold_id = p_facts[ext.op];
        END IF;
    END IF;

    IF cardinality(records) > 0 THEN
        PERFORM ledger.append_batch(
            lane, moment, new_facts, new_operations, new_ordinals, new_contents, records,
            array_fill(NULL::bigint, ARRAY[cardinality(records)]), array_fill(NULL::bytea, ARRAY[cardinality(records)]),
            lane.receipt_head, lane.receipt_sequence);
    END IF;

    -- Nearly always everything is at hand; what was stored is only read for repeats.
    IF NOT (coalesce('replayed' = ANY (codes), false) OR 'extend' = ANY (p_operations)) THEN
        RETURN QUERY
        SELECT rows.op, coalesce(codes[rows.op], 'ok'),
            CASE WHEN codes[rows.op] IS NULL THEN moment END, CASE WHEN codes[rows.op] IS NULL THEN p_expiries[rows.op] END,
            CASE WHEN codes[rows.op] IS NULL THEN coalesce(array_agg(rows.account ORDER BY rows.place) FILTER (WHERE rows.account IS NOT NULL), '{}') END,
            CASE WHEN codes[rows.op] IS NULL THEN coalesce(array_agg(rows.asset ORDER BY rows.place) FILTER (WHERE rows.account IS NOT NULL), '{}') END,
            CASE WHEN codes[rows.op] IS NULL THEN coalesce(array_agg(rows.amount ORDER BY rows.place) FILTER (WHERE rows.account IS NOT NULL), '{}') END,
            short_by[rows.op], short_left[rows.op], NULL::bigint, NULL::text, NULL::integer, NULL::bigint, NULL::bytea
        FROM (
            SELECT p.op, p.account, p.asset, p.amount, p.place FROM unnest(part_ops, part_accounts, part_assets, part_amounts) WITH ORDINALITY AS p (op, account, asset, amount, place)
            UNION ALL
            SELECT g.op, NULL, NULL, NULL, NULL FROM generate_series(1, n) AS g (op)) AS rows
        GROUP BY rows.op
        ORDER BY rows.op;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT asked.op::integer, coalesce(codes[asked.op], 'ok'),
        CASE WHEN codes[asked.op] IS NULL THEN moment ELSE stored.recorded_at END,
        hold.expires_at, hold.part_accounts, hold.part_assets, hold.part_held,
        short_by[asked.op], short_left[asked.op], NULL::bigint, stored.record, NULL::integer, NULL::bigint, NULL::bytea
    FROM unnest(p_facts) WITH ORDINALITY AS asked (fact, op)
    LEFT JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest AND (codes[asked.op] IS NULL OR codes[asked.op] = 'replayed') OFFSET 0) AS hold ON true
    LEFT JOIN LATERAL (SELECT * FROM ledger.entries AS e WHERE e.fact_id = asked.fact AND e.operation = p_operations[asked.op] AND e.ordinal = p_ordinals[asked.op] AND e.fact_id BETWEEN p_lowest AND p_highest AND codes[asked.op] = 'replayed' OFFSET 0) AS stored ON true
    ORDER BY asked.op;
END
$$;

-- Post entries; capture, void and expire holds. Same order of work as place_v1.
--   post:    transfers; a debited no_overdraft account must cover its net debit, else
--            'insufficient', unless the transfer names a fallback that bears what is short.
--   capture: transfers, of which those that debit a part of the hold are taken from it.
--            Above the hold they take an extension of all parts or none; then the fallback
--            bears the rest (the overrun). Never refused for funds.
--   void:    gives everything back.     expire: the same, but only once it is due; a hold
--            whose fate is 'capture' pays what is left to its payee instead.
CREATE FUNCTION ledger.post_v1(
    p_lane integer, p_epoch bigint, p_now timestamptz, p_lowest uuid, p_highest uuid,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_deadlines timestamptz[], p_closes boolean[], p_receipt_roots bytea[], p_metas text[], p_rider_rows text[], p_rider text, p_dates date[],
    p_transfer_ops integer[], p_debits bigint[], p_credits bigint[], p_amounts bigint[], p_fallbacks bigint[]
) RETURNS SETOF ledger.outcome
-- Plans are made once per connection (planning over partitions costs more than the work), so
-- they must also suit tables that are a million times larger than now: index look-ups only.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    lane ledger.lanes := ledger.lock_lane(p_lane, p_epoch, p_now);
    moment timestamptz := greatest(p_now, lane.last_time);
    n integer := cardinality(p_facts);
    transfers integer;
    codes text[];
    short_by bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    short_left numeric[] := array_fill(NULL::numeric, ARRAY[n]);
    overruns bigint[] := array_fill(0::bigint, ARRAY[n]);
    sequences bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    previous_links bytea[] := array_fill(NULL::bytea, ARRAY[n]);
    transfer_ops integer[] := p_transfer_ops;
    debits bigint[] := p_debits;
    credits bigint[] := p_credits;
    amounts bigint[] := p_amounts;
    fallbacks bigint[] := p_fallbacks;
    part_ops integer[];
    part_accounts bigint[];
    part_left bigint[];      -- held and not yet captured
    part_taken bigint[];     -- captured by this batch's operation
    part_grown bigint[];     -- taken beyond the hold, from what is available
    part_released bigint[];
    part_count integer;
    refs integer[];          -- indexes into the account arrays: debits, credits, fallbacks, parts
    account_ids bigint[];
    assets smallint[];
    available numeric[];
    states text[];
    roles smallint[];
    pending_deltas numeric[];
    debit_deltas numeric[];
    credit_deltas numeric[];
    changed boolean[];
    new_facts uuid[] := '{}';
    new_operations text[] := '{}';
    new_ordinals integer[] := '{}';
    new_contents bytea[] := '{}';
    new_sequences bigint[] := '{}';
    new_previous bytea[] := '{}';
    records text[] := '{}';
    rider_rows text[] := '{}';
    rider_function text;
    receipt_head bytea := lane.receipt_head;
    receipt_sequence bigint := lane.receipt_sequence;
    closing_ops integer[] := '{}';
    transfer integer := 1;
    part integer := 1;
    first_transfer integer;
    last_transfer integer;
    first_part integer;
    last_part integer;
    d integer;
    c integer;
    f integer;
    part_at integer[];  -- by account index; of the operation at hand
    own integer;      -- the hold's part that a transfer debits
    take bigint;
    rest bigint;
    short_client bigint;
    short integer;    -- an account that the operation would overdraw
    owns integer[] := '{}';
    borne bigint[] := '{}';   -- by a transfer's fallback
    excess numeric[];         -- by asset: client money raised less what safeguards it raised
    is_capped boolean;
    transfers_text text;
    taken_text text;
    released_text text;
    expected integer;
    written integer;
    closed_through date;
BEGIN
    PERFORM FROM ledger.holds WHERE hold_id = ANY (p_facts) AND hold_id BETWEEN p_lowest AND p_highest ORDER BY hold_id FOR NO KEY UPDATE;

    -- A due hold whose fate is to pay the payee brings its own transfers.
    IF 'expire' = ANY (p_operations) THEN
        SELECT array_agg(op), array_agg(debit), array_agg(credit), array_agg(amount), array_agg(fallback)
        INTO transfer_ops, debits, credits, amounts, fallbacks
        FROM (
            SELECT op, debit, credit, amount, fallback, place FROM unnest(p_transfer_ops, p_debits, p_credits, p_amounts, p_fallbacks) WITH ORDINALITY AS t (op, debit, credit, amount, fallback, place)
            UNION ALL
            SELECT asked.op::integer, parts.account_id, hold.payee_account, parts.held - parts.captured, 0, parts.place
            FROM unnest(p_facts, p_operations) WITH ORDINALITY AS asked (fact, operation, op)
            CROSS JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest AND h.on_expiry = 'capture' OFFSET 0) AS hold
            JOIN ledger.balances AS payee ON payee.account_id = hold.payee_account
            CROSS JOIN LATERAL unnest(hold.part_accounts, hold.part_assets, hold.part_held, hold.part_captured) WITH ORDINALITY AS parts (account_id, asset_id, held, captured, place)
            WHERE asked.operation = 'expire' AND parts.asset_id = payee.asset_id AND parts.held > parts.captured
            ORDER BY op, place) AS ordered;
    END IF;
    transfers := coalesce(cardinality(debits), 0);

    SELECT array_agg(op), array_agg(account_id), array_agg(remaining), array_agg(0::bigint), array_agg(0::bigint), array_agg(0::bigint)
    INTO part_ops, part_accounts, part_left, part_taken, part_grown, part_released
    FROM (
        SELECT asked.op::integer AS op, parts.account_id, parts.held - parts.captured AS remaining
        FROM unnest(p_facts, p_operations) WITH ORDINALITY AS asked (fact, operation, op)
        CROSS JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold
        CROSS JOIN LATERAL unnest(hold.part_accounts, hold.part_held, hold.part_captured) WITH ORDINALITY AS parts (account_id, held, captured, place)
        WHERE asked.operation <> 'post' AND hold.state = 'open'
        ORDER BY asked.op, parts.place) AS ordered;
    part_count := coalesce(cardinality(part_accounts), 0);

    -- One sort gives every account its place in the arrays below.
    SELECT array_agg(index ORDER BY place) INTO refs
    FROM (
        SELECT place, dense_rank() OVER (ORDER BY account_id)::integer AS index
        FROM unnest(debits || credits || fallbacks || part_accounts) WITH ORDINALITY AS ref (account_id, place)) AS ranked;
    SELECT array_agg(id ORDER BY id) INTO account_ids FROM (SELECT DISTINCT id FROM unnest(debits || credits || fallbacks || part_accounts) AS id) AS distinct_ids;
    PERFORM FROM ledger.balances WHERE account_id = ANY (account_ids) ORDER BY account_id FOR NO KEY UPDATE;

    -- Everything is locked: read again, then decide.
    SELECT
        array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END ORDER BY ids.place),
        array_agg(b.asset_id ORDER BY ids.place), array_agg(b.state ORDER BY ids.place), array_agg(b.money_role ORDER BY ids.place),
        array_agg(0::numeric), array_agg(0::numeric), array_agg(0::numeric), array_agg(false),
        greatest(moment, max(b.last_time))
    INTO available, assets, states, roles, pending_deltas, debit_deltas, credit_deltas, changed, moment
    FROM unnest(account_ids) WITH ORDINALITY AS ids (account_id, place)
    LEFT JOIN ledger.balances AS b ON b.account_id = ids.account_id;
    moment := greatest(moment, p_now, lane.last_time);

    -- Nearly always NULL: entries that name no accounting date count where ledger time puts them.
    IF p_dates IS NOT NULL THEN
        SELECT max(closed_date) INTO closed_through FROM ledger.closings;
    END IF;

    SELECT array_agg(
        CASE
            WHEN stored.fact_id IS NOT NULL THEN CASE WHEN stored.content = asked.content THEN 'replayed' ELSE 'conflict' END
            WHEN asked.deadline < moment THEN 'deadline_passed'
            WHEN asked.fact < (SELECT first_id FROM ledger.partitions ORDER BY starts_at LIMIT 1) OR asked.fact >= (SELECT last_id FROM ledger.partitions ORDER BY starts_at DESC LIMIT 1) OR (asked.operation = 'post' AND asked.fact > ledger.identifier_floor(moment + interval '5 minutes')) THEN 'id_outside_window'
            WHEN p_dates[asked.op] <= closed_through THEN 'date_closed'
            WHEN asked.operation <> 'post' AND hold.hold_id IS NULL THEN 'hold_unknown'
            WHEN asked.operation <> 'post' AND hold.state <> 'open' THEN 'hold_closed'
            WHEN asked.operation = 'expire' AND hold.expires_at > moment THEN 'hold_not_due'
            WHEN asked.operation = 'expire' AND hold.on_expiry = 'wait' THEN 'hold_waits'
        END ORDER BY asked.op)
    INTO codes
    FROM unnest(p_facts, p_operations, p_ordinals, p_contents, p_deadlines) WITH ORDINALITY AS asked (fact, operation, ordinal, content, deadline, op)
    LEFT JOIN LATERAL (SELECT * FROM ledger.entries AS e WHERE e.fact_id = asked.fact AND e.operation = asked.operation AND e.ordinal = asked.ordinal AND e.fact_id BETWEEN p_lowest AND p_highest OFFSET 0) AS stored ON true
    LEFT JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE asked.operation <> 'post' AND h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold ON true;

    part_at := array_fill(NULL::integer, ARRAY[coalesce(cardinality(account_ids), 0)]);

    FOR op IN 1..n LOOP
        first_transfer := transfer;
        WHILE transfer_ops[transfer] = op LOOP
            transfer := transfer + 1;
        END LOOP;
        last_transfer := transfer - 1;
        first_part := part;
        WHILE part_ops[part] = op LOOP
            part := part + 1;
        END LOOP;
        last_part := part - 1;
        CONTINUE WHEN codes[op] IS NOT NULL;

        FOR i IN first_transfer..last_transfer LOOP
            d := refs[i];
            c := refs[transfers + i];
            f := refs[2 * transfers + i];
            codes[op] := CASE
                WHEN assets[d] IS NULL OR assets[c] IS NULL OR (fallbacks[i] <> 0 AND assets[f] IS NULL) THEN 'account_unknown'
                WHEN assets[d] <> assets[c] OR (fallbacks[i] <> 0 AND assets[f] <> assets[c]) THEN 'asset_mismatch'
                WHEN d = c OR (fallbacks[i] <> 0 AND f = c) THEN 'accounts_must_differ'
                WHEN amounts[i] <= 0 OR amounts[i] > 4611686018427387904 THEN 'amount_invalid'
                WHEN states[c] = 'closed' OR (p_operations[op] = 'post' AND states[d] <> 'active') THEN 'account_frozen'
            END;
            EXIT WHEN codes[op] IS NOT NULL;
        END LOOP;
        CONTINUE WHEN codes[op] IS NOT NULL;

        -- Which of the operation's accounts is a part of its hold.
        FOR j IN first_part..last_part LOOP
            part_at[refs[3 * transfers + j]] := j;
        END LOOP;

        -- Does the hold cover what is captured, or can all of its parts grow?
        is_capped := false;
        IF p_operations[op] = 'capture' THEN
            FOR i IN first_transfer..last_transfer LOOP
                own := part_at[refs[i]];
                IF own IS NOT NULL THEN
                    part_grown[own] := part_grown[own] + amounts[i];  -- first all that is wanted
                END IF;
            END LOOP;
            FOR j IN first_part..last_part LOOP
                part_grown[j] := greatest(0, part_grown[j] - part_left[j]);
                is_capped := is_capped OR (part_grown[j] > 0 AND available[refs[3 * transfers + j]] < part_grown[j]);
            END LOOP;
            IF is_capped THEN
                FOR j IN first_part..last_part LOOP
                    part_grown[j] := 0;
                END LOOP;
            END IF;
        END IF;

        excess := '{}';
        short_client := 0;
        transfers_text := '';
        FOR i IN first_transfer..last_transfer LOOP
            d := refs[i];
            c := refs[transfers + i];
            f := refs[2 * transfers + i];
            own := part_at[d];
            -- How much the debited account itself can give.
            take := amounts[i];
            IF own IS NOT NULL THEN
                take := least(take, part_left[own] + part_grown[own] - part_taken[own]);
                part_taken[own] := part_taken[own] + take;
                -- Beyond what was held it comes from what is available.
                available[d] := available[d] - greatest(0, least(take, part_taken[own] - part_left[own]));
            ELSIF fallbacks[i] <> 0 AND f <> d AND available[d] < take THEN
                take := greatest(available[d], 0)::bigint;
            ELSIF short_client > 0 AND roles[c] = 2 THEN
                -- own funds are freed only by what the client really paid
                rest := least(take, short_client);
                short_client := short_client - rest;
                take := take - rest;
                amounts[i] := take;
            END IF;
            rest := amounts[i] - take;
            amounts[i] := take;
            owns[i] := own;
            IF take > 0 THEN
                available[d] := available[d] - CASE WHEN own IS NULL THEN take ELSE 0 END;
                available[c] := available[c] + take;
                debit_deltas[d] := debit_deltas[d] + take;
                credit_deltas[c] := credit_deltas[c] + take;
                transfers_text := transfers_text || ',[' || account_ids[d] || ',' || account_ids[c] || ',' || take || ']';
                IF roles[d] <> 0 OR roles[c] <> 0 THEN
                    excess[assets[c]] := coalesce(excess[assets[c]], 0) + take * (CASE WHEN roles[c] <> 0 THEN 1 ELSE 0 END - CASE WHEN roles[d] <> 0 THEN 1 ELSE 0 END);
                END IF;
            END IF;
            IF rest > 0 THEN
                overruns[op] := overruns[op] + CASE WHEN assets[d] < 10 THEN rest ELSE 0 END;
                IF roles[d] = 1 THEN
                    short_client := short_client + rest;
                END IF;
                IF fallbacks[i] <> 0 AND f <> d THEN
                    borne[i] := rest;
                    IF roles[f] <> 0 OR roles[c] <> 0 THEN
                        excess[assets[c]] := coalesce(excess[assets[c]], 0) + rest * (CASE WHEN roles[c] <> 0 THEN 1 ELSE 0 END - CASE WHEN roles[f] <> 0 THEN 1 ELSE 0 END);
                    END IF;
                    debit_deltas[f] := debit_deltas[f] + rest;
                    credit_deltas[c] := credit_deltas[c] + rest;
                    available[f] := available[f] - rest;
                    available[c] := available[c] + rest;
                    transfers_text := transfers_text || ',[' || account_ids[f] || ',' || account_ids[c] || ',' || rest || ']';
                END IF;
            END IF;
        END LOOP;

        FOR j IN first_part..last_part LOOP
            part_at[refs[3 * transfers + j]] := NULL;
        END LOOP;

        -- The whole entry is applied: is any bounded account below zero, is client money uncovered?
        -- What was taken from the hold's own parts cannot be short.
        short := NULL;
        FOR i IN first_transfer..last_transfer LOOP
            d := refs[i];
            f := refs[2 * transfers + i];
            IF owns[i] IS NULL AND available[d] < 0 THEN
                short := coalesce(short, d);
            ELSIF borne[i] > 0 AND available[f] < 0 THEN
                short := coalesce(short, f);
            END IF;
        END LOOP;
        IF short IS NOT NULL THEN
            codes[op] := 'insufficient';
        ELSIF 0 < ANY (excess) THEN
            codes[op] := 'client_money_unsafeguarded';
        END IF;
        IF codes[op] IS NOT NULL THEN
            FOR i IN first_transfer..last_transfer LOOP
                d := refs[i];
                c := refs[transfers + i];
                available[d] := available[d] + CASE WHEN owns[i] IS NULL THEN amounts[i] ELSE 0 END;
                available[c] := available[c] - amounts[i];
                debit_deltas[d] := debit_deltas[d] - amounts[i];
                credit_deltas[c] := credit_deltas[c] - amounts[i];
                IF borne[i] > 0 THEN
                    f := refs[2 * transfers + i];
                    available[f] := available[f] + borne[i];
                    available[c] := available[c] - borne[i];
                    debit_deltas[f] := debit_deltas[f] - borne[i];
                    credit_deltas[c] := credit_deltas[c] - borne[i];
                END IF;
            END LOOP;
            FOR j IN first_part..last_part LOOP
                d := refs[3 * transfers + j];
                available[d] := available[d] + greatest(0, part_taken[j] - part_left[j]);
            END LOOP;
            short_by[op] := account_ids[short];
            short_left[op] := available[short];
            overruns[op] := 0;
            CONTINUE;
        END IF;

        -- After this point this operation must succeed.
        taken_text := '';
        released_text := '';
        FOR j IN first_part..last_part LOOP
            d := refs[3 * transfers + j];
            take := least(part_taken[j], part_left[j]);  -- from what was held; the rest was available
            pending_deltas[d] := pending_deltas[d] - take;
            IF take > 0 THEN
                taken_text := taken_text || CASE WHEN taken_text = '' THEN '' ELSE ',' END || '[' || account_ids[d] || ',' || take || ']';
            END IF;
            IF p_operations[op] <> 'capture' OR p_closes[op] THEN
                part_released[j] := part_left[j] - take;
                pending_deltas[d] := pending_deltas[d] - part_released[j];
                available[d] := available[d] + part_released[j];
                IF part_released[j] > 0 THEN
                    released_text := released_text || CASE WHEN released_text = '' THEN '' ELSE ',' END || '[' || account_ids[d] || ',' || part_released[j] || ']';
                END IF;
            END IF;
            part_grown[j] := part_taken[j] - take;
        END LOOP;
        IF p_operations[op] <> 'post' THEN
            closing_ops := closing_ops || op;
            -- What the spender may still spend: the tightest of its money and money limits.
            FOR j IN first_part..last_part LOOP
                d := refs[3 * transfers + j];
                IF assets[d] IN (1, 2, 11, 12) AND (short_left[op] IS NULL OR available[d] < short_left[op]) THEN
                    short_left[op] := available[d];
                END IF;
            END LOOP;
        END IF;
        IF p_receipt_roots[op] IS NOT NULL THEN
            receipt_sequence := receipt_sequence + 1;
            sequences[op] := receipt_sequence;
            previous_links[op] := receipt_head;
            receipt_head := sha256(receipt_head || p_receipt_roots[op]);
        END IF;
        new_facts := new_facts || p_facts[op];
        new_operations := new_operations || p_operations[op];
        new_ordinals := new_ordinals || p_ordinals[op];
        new_contents := new_contents || p_contents[op];
        new_sequences := new_sequences || sequences[op];
        new_previous := new_previous || previous_links[op];
        IF p_rider_rows[op] IS NOT NULL THEN
            rider_rows := rider_rows || p_rider_rows[op];
        END IF;
        records := records || (
            '{"v":1,"op":"' || p_operations[op] || '","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op]
            || ',"time":' || ledger.microseconds(moment)
            || CASE WHEN p_dates[op] IS NOT NULL THEN ',"date":"' || to_char(p_dates[op], 'YYYY-MM-DD') || '"' ELSE '' END
            || ',"transfers":[' || substr(transfers_text, 2)
            || '],"taken":[' || taken_text || '],"released":[' || released_text || ']'
            || CASE WHEN p_operations[op] <> 'post' THEN ',"closes":' || (p_operations[op] <> 'capture' OR p_closes[op])::text ELSE '' END
            || CASE WHEN overruns[op] > 0 THEN ',"overrun":' || overruns[op] ELSE '' END
            || CASE WHEN p_receipt_roots[op] IS NOT NULL THEN ',"receipt":"' || encode(p_receipt_roots[op], 'hex') || '"' ELSE '' END
            || ',"meta":' || p_metas[op] || '}');
    END LOOP;

    IF cardinality(records) > 0 THEN
        SELECT count(*), array_agg(a ORDER BY a), array_agg(p ORDER BY a), array_agg(de ORDER BY a), array_agg(cr ORDER BY a)
        INTO expected, account_ids, pending_deltas, debit_deltas, credit_deltas
        FROM unnest(account_ids, pending_deltas, debit_deltas, credit_deltas) AS delta (a, p, de, cr)
        WHERE p <> 0 OR de <> 0 OR cr <> 0;
        -- A join with the deltas could be planned as a scan of all accounts; a look-up of each
        -- account's place in the sorted array cannot.
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + pending_deltas[width_bucket(b.account_id, account_ids)],
            debits_posted = b.debits_posted + debit_deltas[width_bucket(b.account_id, account_ids)],
            credits_posted = b.credits_posted + credit_deltas[width_bucket(b.account_id, account_ids)],
            last_time = moment
        WHERE b.account_id = ANY (account_ids);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> expected THEN
            RAISE EXCEPTION 'wrote % of % accounts', written, expected USING ERRCODE = 'TW009';
        END IF;

        IF cardinality(closing_ops) > 0 THEN
            -- Two statements, so that each is planned as one look-up per hold.
            UPDATE ledger.holds AS hold
            SET state = CASE
                    WHEN p_operations[done.op] = 'void' THEN 'voided'
                    WHEN p_operations[done.op] = 'expire' THEN 'expired'
                    WHEN p_closes[done.op] THEN 'captured'
                    ELSE 'open' END,
                closed_at = CASE WHEN p_operations[done.op] <> 'capture' OR p_closes[done.op] THEN moment END,
                part_captured = (SELECT array_agg(a + b ORDER BY place) FROM unnest(hold.part_captured, done.taken) WITH ORDINALITY AS s (a, b, place)),
                part_held = CASE WHEN done.has_grown THEN (
                    SELECT array_agg(a + b ORDER BY place) FROM unnest(hold.part_held, done.grown) WITH ORDINALITY AS s (a, b, place)) ELSE hold.part_held END
            FROM (
                SELECT op, array_agg(taken ORDER BY place) AS taken, array_agg(grown ORDER BY place) AS grown, bool_or(grown > 0) AS has_grown
                FROM unnest(part_ops, part_taken, part_grown) WITH ORDINALITY AS p (op, taken, grown, place)
                WHERE codes[op] IS NULL
                GROUP BY op) AS done
            WHERE hold.hold_id = p_facts[done.op];
            GET DIAGNOSTICS written = ROW_COUNT;
            IF written < cardinality(closing_ops) THEN
                -- Holds without parts: free calls under no limit.
                UPDATE ledger.holds AS hold
                SET state = CASE
                        WHEN p_operations[done.op] = 'void' THEN 'voided'
                        WHEN p_operations[done.op] = 'expire' THEN 'expired'
                        WHEN p_closes[done.op] THEN 'captured'
                        ELSE 'open' END,
                    closed_at = CASE WHEN p_operations[done.op] <> 'capture' OR p_closes[done.op] THEN moment END
                FROM unnest(closing_ops) AS done (op)
                WHERE codes[done.op] IS NULL AND hold.hold_id = p_facts[done.op]
                    AND hold.part_accounts = '{}';
            END IF;
        END IF;

        PERFORM ledger.append_batch(
            lane, moment, new_facts, new_operations, new_ordinals, new_contents, records,
            new_sequences, new_previous, receipt_head, receipt_sequence);

        IF cardinality(rider_rows) > 0 THEN
            SELECT function_name INTO STRICT rider_function FROM ledger.riders WHERE name = p_rider;
            EXECUTE 'SELECT ' || rider_function || '($1, $2)' USING rider_rows, moment;
        END IF;
    END IF;

    IF NOT coalesce('replayed' = ANY (codes), false) THEN
        RETURN QUERY
        SELECT g.op, coalesce(codes[g.op], 'ok'), CASE WHEN codes[g.op] IS NULL THEN moment END,
            NULL::timestamptz, NULL::bigint[], NULL::smallint[], NULL::bigint[],
            short_by[g.op], short_left[g.op], overruns[g.op], NULL::text, p_lane, sequences[g.op], previous_links[g.op]
        FROM generate_series(1, n) AS g (op)
        ORDER BY g.op;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT asked.op::integer, coalesce(codes[asked.op], 'ok'),
        CASE WHEN codes[asked.op] IS NULL THEN moment ELSE stored.recorded_at END,
        NULL::timestamptz, NULL::bigint[], NULL::smallint[], NULL::bigint[],
        short_by[asked.op], short_left[asked.op],
        CASE WHEN codes[asked.op] = 'replayed' THEN coalesce((stored.record::jsonb ->> 'overrun')::bigint, 0) ELSE overruns[asked.op] END, stored.record,
        coalesce(stored.lane, p_lane), coalesce(stored.receipt_sequence, sequences[asked.op]), coalesce(stored.receipt_previous, previous_links[asked.op])
    FROM unnest(p_facts) WITH ORDINALITY AS asked (fact, op)
    LEFT JOIN LATERAL (SELECT * FROM ledger.entries AS e WHERE e.fact_id = asked.fact AND e.operation = p_operations[asked.op] AND e.ordinal = p_ordinals[asked.op] AND e.fact_id BETWEEN p_lowest AND p_highest AND codes[asked.op] = 'replayed' OFFSET 0) AS stored ON true
    ORDER BY asked.op;
END
$$;

-- A lease on a lane: taking one bumps its epoch, so a writer that lost it is stopped by its
-- very next batch. Expired or named by the same holder = free to take.
CREATE FUNCTION ledger.lease_lane_v1(p_holder text, p_now timestamptz, p_until timestamptz, p_lanes_max integer) RETURNS TABLE (lane integer, epoch bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    free_lane integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7811);
    SELECT l.lane INTO free_lane FROM ledger.lanes AS l WHERE l.leased_until < p_now OR l.holder = p_holder ORDER BY l.lane LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF free_lane IS NULL THEN
        SELECT coalesce(max(l.lane), 0) + 1 INTO free_lane FROM ledger.lanes AS l;
        IF free_lane > p_lanes_max THEN
            RAISE EXCEPTION 'all % lanes are leased', p_lanes_max USING ERRCODE = 'TW004';
        END IF;
        INSERT INTO ledger.lanes (lane, epoch, holder, leased_until, last_time) VALUES (free_lane, 0, p_holder, p_until, p_now);
    END IF;
    RETURN QUERY
    UPDATE ledger.lanes AS l SET epoch = l.epoch + 1, holder = p_holder, leased_until = p_until WHERE l.lane = free_lane RETURNING l.lane, l.epoch;
END
$$;

CREATE FUNCTION ledger.renew_lane_v1(p_lane integer, p_epoch bigint, p_until timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    UPDATE ledger.lanes SET leased_until = p_until WHERE lane = p_lane AND epoch = p_epoch;
    RETURN FOUND;
END
$$;

CREATE FUNCTION ledger.open_account_v1(
    p_party uuid, p_asset text, p_purpose text, p_class text, p_side text, p_title uuid,
    p_laned boolean, p_no_overdraft boolean, p_money_role smallint, p_now timestamptz
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    asset smallint;
    found_id bigint;
BEGIN
    SELECT asset_id INTO STRICT asset FROM ledger.assets WHERE code = p_asset;
    INSERT INTO ledger.accounts (party_id, asset_id, purpose, account_class, normal_side, title_holder, is_laned, opened_at)
    VALUES (p_party, asset, p_purpose, p_class, p_side, p_title, p_laned, p_now)
    ON CONFLICT DO NOTHING;
    SELECT account_id INTO STRICT found_id FROM ledger.accounts WHERE party_id = p_party AND asset_id = asset AND purpose = p_purpose AND qualifier = '' AND lane = 0;
    INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, money_role, last_time) VALUES (found_id, asset, p_no_overdraft, p_money_role, p_now)
    ON CONFLICT DO NOTHING;
    RETURN found_id;
END
$$;

CREATE FUNCTION ledger.set_scope_v1(p_scope uuid, p_state text, p_expires timestamptz, p_now timestamptz) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO ledger.scopes (scope_id, state, expires_at, changed_at) VALUES (p_scope, p_state, p_expires, p_now)
    ON CONFLICT (scope_id) DO UPDATE SET state = excluded.state, expires_at = coalesce(excluded.expires_at, ledger.scopes.expires_at), changed_at = excluded.changed_at;
$$;

CREATE FUNCTION ledger.publish_path_v1(p_path uuid, p_scopes uuid[], p_funding bigint[], p_now timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    current ledger.spend_paths;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_path::text, 7812));
    SELECT * INTO current FROM ledger.spend_paths WHERE path_id = p_path AND is_current;
    IF FOUND AND current.scope_ids = p_scopes AND current.funding_accounts = p_funding THEN
        RETURN current.version;
    END IF;
    UPDATE ledger.spend_paths SET is_current = false WHERE path_id = p_path AND is_current;
    INSERT INTO ledger.spend_paths (path_id, version, scope_ids, funding_accounts, is_current, published_at)
    VALUES (p_path, coalesce(current.version, 0) + 1, p_scopes, p_funding, true, p_now);
    RETURN coalesce(current.version, 0) + 1;
END
$$;

-- Set, change or (p_quanta NULL) remove a limit. Returns the limit, and for its open window
-- what has to move: above zero a grant, below zero to be taken back. The caller posts it.
CREATE FUNCTION ledger.set_limit_v1(
    p_scope uuid, p_asset text, p_quanta bigint, p_window text, p_zone text, p_actor text, p_now timestamptz
) RETURNS TABLE (limit_id bigint, window_account bigint, difference bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    asset smallint;
    existing ledger.limits;
    spot ledger.limit_windows;
BEGIN
    SELECT asset_id INTO STRICT asset FROM ledger.assets WHERE code = p_asset;
    PERFORM date_trunc('day', p_now, p_zone);  -- refuses an unknown time zone
    -- Wait for who is taking back what this limit owes, before any row is locked: a placement
    -- that opens a window waits for the limit's row, and the taker waits for placements.
    PERFORM pg_advisory_xact_lock(7814, (w.account_id % 2147483647)::integer)
    FROM ledger.limits AS l
    JOIN ledger.limit_windows AS w ON w.limit_id = l.limit_id AND w.window_start = ledger.window_start(l.window_kind, l.time_zone, p_now, l.opened_at)
    WHERE l.scope_id = p_scope AND l.asset_id = asset AND l.window_kind = p_window AND l.closed_at IS NULL;
    SELECT * INTO existing FROM ledger.limits AS l
    WHERE l.scope_id = p_scope AND l.asset_id = asset AND l.window_kind = p_window AND l.closed_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        IF p_quanta IS NULL THEN
            RETURN;
        END IF;
        INSERT INTO ledger.limits (scope_id, asset_id, quanta, window_kind, time_zone, opened_at)
        VALUES (p_scope, asset, p_quanta, p_window, p_zone, p_now) RETURNING * INTO existing;
        INSERT INTO ledger.limit_changes VALUES (existing.limit_id, p_now, p_quanta, p_actor);
        RETURN QUERY SELECT existing.limit_id, NULL::bigint, 0::bigint;
        RETURN;
    END IF;
    INSERT INTO ledger.limit_changes VALUES (existing.limit_id, p_now, p_quanta, p_actor);
    IF p_quanta IS NULL THEN
        UPDATE ledger.limits AS l SET closed_at = p_now WHERE l.limit_id = existing.limit_id;
        RETURN QUERY SELECT existing.limit_id, NULL::bigint, 0::bigint;
        RETURN;
    END IF;
    IF existing.time_zone <> p_zone THEN
        RAISE EXCEPTION 'the limit counts in time zone %', existing.time_zone USING ERRCODE = 'TW005';
    END IF;
    UPDATE ledger.limits AS l SET quanta = p_quanta WHERE l.limit_id = existing.limit_id;
    SELECT * INTO spot FROM ledger.limit_windows AS w
    WHERE w.limit_id = existing.limit_id AND w.window_start = ledger.window_start(existing.window_kind, existing.time_zone, p_now, existing.opened_at) FOR UPDATE;
    IF FOUND THEN
        -- A debt from an earlier lowering is settled first.
        UPDATE ledger.limit_windows AS w
        SET owed = greatest(0, spot.owed - (p_quanta - existing.quanta))
        WHERE w.account_id = spot.account_id AND (p_quanta < existing.quanta OR spot.owed > 0);
        RETURN QUERY SELECT existing.limit_id, spot.account_id,
            CASE WHEN p_quanta >= existing.quanta THEN greatest(0, p_quanta - existing.quanta - spot.owed) ELSE p_quanta - existing.quanta END;
    ELSE
        RETURN QUERY SELECT existing.limit_id, NULL::bigint, 0::bigint;
    END IF;
END
$$;

CREATE FUNCTION ledger.settle_owed_v1(p_account bigint, p_taken bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE ledger.limit_windows SET owed = greatest(0, owed - p_taken) WHERE account_id = p_account;
$$;

CREATE FUNCTION ledger.set_account_state_v1(p_account bigint, p_state text, p_now timestamptz) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    -- An account's shares are the account: locked in the writers' order, then changed with it.
    SELECT FROM ledger.balances
    WHERE account_id = p_account OR account_id IN (SELECT share.account_id FROM ledger.accounts AS share WHERE share.main_account_id = p_account)
    ORDER BY account_id FOR NO KEY UPDATE;
    UPDATE ledger.balances SET state = p_state, last_time = greatest(last_time, p_now)
    WHERE account_id = p_account OR account_id IN (SELECT share.account_id FROM ledger.accounts AS share WHERE share.main_account_id = p_account);
$$;

CREATE FUNCTION ledger.claim_reference_v1(p_rail text, p_reference text, p_fact uuid) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    holder uuid;
BEGIN
    INSERT INTO ledger.external_references VALUES (p_rail, p_reference, p_fact) ON CONFLICT DO NOTHING;
    SELECT fact_id INTO STRICT holder FROM ledger.external_references WHERE rail = p_rail AND reference = p_reference;
    RETURN holder;
END
$$;

CREATE FUNCTION ledger.add_checkpoint_v1(p_now timestamptz, p_lanes text, p_balances_hash bytea, p_signature text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO ledger.checkpoints VALUES (p_now, p_lanes, p_balances_hash, p_signature) ON CONFLICT DO NOTHING;
$$;

-- Functions can be called by anyone unless said otherwise.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    ledger.place_v1, ledger.post_v1, ledger.lease_lane_v1, ledger.renew_lane_v1, ledger.lane_account_v1, ledger.open_account_v1,
    ledger.set_scope_v1, ledger.publish_path_v1, ledger.set_limit_v1, ledger.settle_owed_v1, ledger.set_account_state_v1,
    ledger.claim_reference_v1, ledger.add_checkpoint_v1, ledger.ensure_partitions_v1,
    ledger.window_start, ledger.window_end, ledger.microseconds, ledger.identifier_floor
TO tokenworks_posting;
