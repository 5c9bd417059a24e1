-- The two functions that move value. Both follow one order, one statement a step:
-- lane, holds, accounts (each sorted), then everything is read again under the locks,
-- decided, written as one delta per account, and counted.
--
-- Why steps and not one big statement: under READ COMMITTED a statement that waited for a
-- lock still sees the rows of before the wait; UPDATE ... FROM applies only one of two
-- deltas for the same row. So locks come first, reads in a later statement, deltas summed.

-- A lane that is locked for one batch, and the ids that the books take at the moment.
CREATE TYPE ledger.locked_lane AS (
    lane integer,
    epoch bigint,
    batch bigint,
    head_hash bytea,
    last_time timestamptz,
    receipt_sequence bigint,
    receipt_head bytea,
    first_id uuid,
    last_id uuid  -- exclusive
);

CREATE FUNCTION ledger.lock_lane(p_lane integer, p_epoch bigint, p_now timestamptz) RETURNS ledger.locked_lane
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    locked ledger.locked_lane;
    skew_max_ms integer;
BEGIN
    SELECT l.lane, l.epoch, l.batch, l.head_hash, l.last_time, l.receipt_sequence, l.receipt_head,
        (SELECT first_id FROM ledger.partitions ORDER BY starts_at LIMIT 1),
        (SELECT last_id FROM ledger.partitions ORDER BY starts_at DESC LIMIT 1),
        (SELECT clock_skew_max_ms FROM ledger.settings)
    INTO locked.lane, locked.epoch, locked.batch, locked.head_hash, locked.last_time, locked.receipt_sequence, locked.receipt_head,
        locked.first_id, locked.last_id, skew_max_ms
    FROM ledger.lanes AS l
    WHERE l.lane = p_lane
    FOR NO KEY UPDATE;
    IF NOT FOUND OR locked.epoch <> p_epoch THEN
        RAISE EXCEPTION 'lane % is not held in epoch %', p_lane, p_epoch USING ERRCODE = 'TW002';
    END IF;
    IF skew_max_ms IS NOT NULL AND abs(extract(epoch FROM p_now - clock_timestamp())) * 1000 > skew_max_ms THEN
        RAISE EXCEPTION 'the caller''s clock is more than % ms off the database''s', skew_max_ms USING ERRCODE = 'TW003';
    END IF;
    RETURN locked;
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

-- Close the batch: store the records of the accepted operations, move the lane's head.
CREATE FUNCTION ledger.append_batch(
    p_lane ledger.locked_lane, p_time timestamptz,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_accepted integer[], p_records text[], p_receipt_sequences bigint[], p_receipt_previous bytea[],
    p_receipt_head bytea, p_receipt_sequence bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    batch_number bigint := p_lane.batch + 1;
    batch_hash bytea;
    stored integer;
BEGIN
    INSERT INTO ledger.entries (fact_id, operation, ordinal, lane, batch, position, recorded_at, content, record, receipt_sequence, receipt_previous)
    SELECT p_facts[op], p_operations[op], p_ordinals[op], p_lane.lane, batch_number, position, p_time, p_contents[op], record, p_receipt_sequences[op], p_receipt_previous[op]
    FROM unnest(p_accepted, p_records) WITH ORDINALITY AS t (op, record, position)
    ORDER BY p_facts[op]
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored <> cardinality(p_accepted) THEN
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
    position integer,             -- of the operation in the batch, from 1; 0: each that has no row of its own
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
-- Paths are given once each; p_path_of names an operation's path by its place among them.
-- Arrays are subscripted instead of joined: PL/pgSQL keeps them expanded, so it is O(1).
-- p_lowest and p_highest bound p_facts: with them only the partitions in question are opened.
-- Not so in updates: there the range would be taken for the index condition.
-- OFFSET 0 is a fence: it keeps a look-up per operation from being planned as a scan.
CREATE FUNCTION ledger.place_v1(
    p_lane integer, p_epoch bigint, p_now timestamptz, p_lowest uuid, p_highest uuid,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_deadlines timestamptz[], p_expiries timestamptz[], p_fates text[], p_payees bigint[],
    p_paths uuid[], p_path_versions integer[], p_path_of integer[], p_metas text[],
    p_amount_ops integer[], p_amount_assets smallint[], p_amount_accounts bigint[], p_amounts bigint[]
) RETURNS SETOF ledger.outcome
-- Plans are made once per connection (planning over partitions costs more than the work), so
-- they must also suit tables that are a million times larger than now: index look-ups only.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    lane ledger.locked_lane := ledger.lock_lane(p_lane, p_epoch, p_now);
    moment timestamptz := greatest(p_now, lane.last_time);
    newest_id uuid;
    n integer := cardinality(p_facts);
    has_extensions boolean := 'extend' = ANY (p_operations);
    codes text[] := array_fill(NULL::text, ARRAY[n]);
    short_by bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    short_left numeric[] := array_fill(NULL::numeric, ARRAY[n]);
    path_codes text[] := '{}';        -- by path: why nothing can be held on it
    path_first integer[] := '{}';     -- by path: where its accounts stand in the next two
    path_last integer[] := '{}';
    path_accounts bigint[] := '{}';
    path_assets smallint[] := '{}';
    path_count integer := 0;
    part_ops integer[];
    part_accounts bigint[];           -- NULL: no account can fund it
    part_assets smallint[];
    part_amounts bigint[];
    part_index integer[];             -- of the part's account in the next five
    account_ids bigint[];
    assets smallint[];
    available numeric[];              -- NULL: no limit
    states text[];
    deltas numeric[];
    accepted integer[] := '{}';
    records text[] := '{}';
    first_parts integer[] := '{}';    -- by operation
    last_parts integer[] := '{}';
    fresh record;
    missing record;
    granted bigint[];
    code text;
    part integer := 1;
    first_part integer;
    last_part integer;
    at integer;
    rank integer;
    worst_rank integer;
    worst_share numeric;
    parts_text text;
    placed integer := 0;
    touched integer := 0;
    written integer;
BEGIN
    IF has_extensions THEN
        PERFORM FROM ledger.holds WHERE hold_id = ANY (p_facts) AND hold_id BETWEEN p_lowest AND p_highest ORDER BY hold_id FOR NO KEY UPDATE;
    END IF;

    -- What stands on each path: the money that funds it, then each open limit of each of its
    -- scopes in the window of now. A window that nobody opened yet is opened, and all read again.
    <<paths>>
    LOOP
        FOR fresh IN
            SELECT asked.place, spots.accounts, spots.assets,
                CASE WHEN path.path_id IS NULL THEN 'spend_path_unknown' WHEN NOT path.is_current THEN 'spend_path_stale' ELSE spots.code END AS code
            FROM unnest(p_paths, p_path_versions) WITH ORDINALITY AS asked (path_id, version, place)
            LEFT JOIN ledger.spend_paths AS path ON path.path_id = asked.path_id AND path.version = asked.version
            LEFT JOIN LATERAL (
                SELECT array_agg(account_id ORDER BY depth, account_id) FILTER (WHERE asset_id IS NOT NULL) AS accounts,
                    array_agg(asset_id ORDER BY depth, account_id) FILTER (WHERE asset_id IS NOT NULL) AS assets,
                    max(stopped) AS code  -- frozen before closed
                FROM (
                    SELECT 0::bigint AS depth, cash.account_id, cash.asset_id, NULL AS stopped
                    FROM unnest(path.funding_accounts) AS funding (account_id)
                    JOIN ledger.balances AS cash ON cash.account_id = funding.account_id
                    UNION ALL
                    SELECT scope.depth, spot.account_id, lim.asset_id,
                        CASE WHEN node.state = 'frozen' THEN 'scope_frozen' WHEN node.state = 'active' AND (node.expires_at > moment) IS NOT FALSE THEN NULL ELSE 'scope_closed' END
                    FROM unnest(path.scope_ids) WITH ORDINALITY AS scope (scope_id, depth)
                    LEFT JOIN ledger.scopes AS node ON node.scope_id = scope.scope_id
                    LEFT JOIN ledger.limits AS lim ON lim.scope_id = scope.scope_id AND lim.closed_at IS NULL
                    LEFT JOIN ledger.limit_windows AS spot ON spot.limit_id = lim.limit_id AND spot.window_start = ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at)) AS spots
                OFFSET 0) AS spots ON true
            ORDER BY asked.place
        LOOP
            IF array_position(fresh.accounts, NULL) IS NOT NULL THEN
                FOR missing IN
                    SELECT DISTINCT lim.limit_id, ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at) AS starts
                    FROM unnest(p_paths, p_path_versions) AS asked (path_id, version)
                    JOIN ledger.spend_paths AS path ON path.path_id = asked.path_id AND path.version = asked.version
                    CROSS JOIN LATERAL unnest(path.scope_ids) AS scope (scope_id)
                    JOIN ledger.limits AS lim ON lim.scope_id = scope.scope_id AND lim.closed_at IS NULL
                    ORDER BY 1
                LOOP
                    granted := ledger.open_window(missing.limit_id, missing.starts, p_lane, moment);
                    CONTINUE WHEN granted IS NULL;
                    -- A grant is a fact of its own: the call that needed it may be a repeat or refused.
                    p_facts := p_facts || ledger.grant_fact(moment, missing.limit_id, missing.starts);
                    p_operations := p_operations || 'grant'::text;
                    p_ordinals := p_ordinals || 0;
                    p_contents := p_contents || '\x'::bytea;
                    accepted := accepted || cardinality(p_facts);
                    records := records || format(
                        '{"v":1,"op":"grant","fact":"%s","ordinal":0,"time":%s,"limit":%s,"transfers":[[%s,%s,%s]]}',
                        p_facts[cardinality(p_facts)], ledger.microseconds(moment), missing.limit_id, granted[1], granted[2], granted[3]);
                END LOOP;
                path_accounts := '{}';
                path_assets := '{}';
                path_count := 0;
                CONTINUE paths;
            END IF;
            path_count := path_count + 1;
            path_codes[path_count] := fresh.code;
            path_first[path_count] := cardinality(path_accounts) + 1;
            path_accounts := path_accounts || fresh.accounts;
            path_assets := path_assets || fresh.assets;
            path_last[path_count] := cardinality(path_accounts);
        END LOOP;
        EXIT paths;
    END LOOP;

    -- To an extension its hold is the path: it grows in the windows of its placement. A
    -- heartbeat (an extension without amounts) passes a frozen scope; growth does not.
    IF has_extensions THEN
        FOR fresh IN
            SELECT asked.op, hold.part_accounts AS accounts, hold.part_assets AS assets,
                CASE WHEN hold.hold_id IS NULL THEN 'hold_unknown' WHEN hold.state <> 'open' THEN 'hold_closed' ELSE stopped.code END AS code
            FROM unnest(p_facts[:n]) WITH ORDINALITY AS asked (fact, op)
            LEFT JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold ON true
            LEFT JOIN ledger.spend_paths AS path ON path.path_id = hold.path_id AND path.version = hold.path_version AND asked.op = ANY (p_amount_ops)
            LEFT JOIN LATERAL (
                SELECT max(CASE WHEN node.state = 'frozen' THEN 'scope_frozen' WHEN node.state = 'active' AND (node.expires_at > moment) IS NOT FALSE THEN NULL ELSE 'scope_closed' END) AS code
                FROM unnest(path.scope_ids) AS scope (scope_id)
                LEFT JOIN ledger.scopes AS node ON node.scope_id = scope.scope_id) AS stopped ON true
            WHERE p_operations[asked.op] = 'extend'
            ORDER BY asked.op
        LOOP
            path_count := path_count + 1;
            p_path_of[fresh.op] := path_count;
            path_codes[path_count] := fresh.code;
            path_first[path_count] := cardinality(path_accounts) + 1;
            path_accounts := path_accounts || fresh.accounts;
            path_assets := path_assets || fresh.assets;
            path_last[path_count] := cardinality(path_accounts);
        END LOOP;
    END IF;

    -- What each operation takes, from which account: named directly, or all of its path that
    -- count the asset. One part for each account, however often it was asked of; more than a
    -- transfer may move is refused below, so the sum is cut where it could overflow.
    SELECT array_agg(op), array_agg(account_id), array_agg(asset), array_agg(amount), array_agg(index)
    INTO part_ops, part_accounts, part_assets, part_amounts, part_index
    FROM (
        SELECT op, account_id, asset, least(sum(amount), 4611686018427387905)::bigint AS amount,
            dense_rank() OVER (ORDER BY account_id)::integer AS index
        FROM (
            SELECT asked.op, asked.asset, asked.amount,
                -- What is named and the money come first, then the limits, root first.
                CASE WHEN p_operations[asked.op] = 'place' AND (asked.asset < 10 OR asked.account IS NOT NULL) THEN 0 ELSE spot.place END AS depth,
                CASE WHEN spot.place IS NOT NULL THEN path_accounts[spot.place] WHEN p_operations[asked.op] = 'place' THEN asked.account END AS account_id
            FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
            LEFT JOIN LATERAL (
                SELECT place
                FROM generate_series(path_first[p_path_of[asked.op]], path_last[p_path_of[asked.op]]) AS along (place)
                WHERE path_assets[place] = asked.asset) AS spot ON asked.account IS NULL OR p_operations[asked.op] = 'extend'
            -- Money needs an account; limits are taken where there are any.
            WHERE asked.amount <> 0 AND (spot.place IS NOT NULL OR asked.asset < 10 OR asked.amount < 0 OR (asked.account IS NOT NULL AND p_operations[asked.op] = 'place'))) AS resolved
        GROUP BY op, account_id, asset, amount < 0
        ORDER BY op, min(depth), account_id) AS ordered;

    -- Not in the statement above: an aggregate with an order of its own re-orders the others' input.
    SELECT array_agg(id ORDER BY id) INTO account_ids FROM (SELECT DISTINCT id FROM unnest(part_accounts) AS id WHERE id IS NOT NULL) AS distinct_ids;
    PERFORM FROM ledger.balances WHERE account_id = ANY (account_ids) ORDER BY account_id FOR NO KEY UPDATE;

    -- Everything is locked: read again, then decide.
    SELECT
        array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END ORDER BY ids.place),
        array_agg(b.asset_id ORDER BY ids.place), array_agg(b.state ORDER BY ids.place), array_agg(0::numeric),
        greatest(moment, max(b.last_time))
    INTO available, assets, states, deltas, moment
    FROM unnest(account_ids) WITH ORDINALITY AS ids (account_id, place)
    LEFT JOIN ledger.balances AS b ON b.account_id = ids.account_id;
    moment := greatest(moment, p_now, lane.last_time);
    newest_id := ledger.identifier_floor(moment + interval '5 minutes');

    FOR fresh IN
        SELECT e.fact_id, e.operation, e.ordinal, e.content
        FROM ledger.entries AS e
        WHERE e.fact_id = ANY (p_facts) AND e.fact_id BETWEEN p_lowest AND p_highest AND e.operation = ANY (p_operations)
    LOOP
        at := array_position(p_facts, fresh.fact_id);
        IF p_operations[at] = fresh.operation AND p_ordinals[at] = fresh.ordinal THEN
            codes[at] := CASE WHEN p_contents[at] = fresh.content THEN 'replayed' ELSE 'conflict' END;
        END IF;
    END LOOP;

    FOR op IN 1..n LOOP
        first_part := part;
        WHILE part_ops[part] = op LOOP
            part := part + 1;
        END LOOP;
        last_part := part - 1;
        first_parts[op] := first_part;
        last_parts[op] := last_part;
        CONTINUE WHEN codes[op] IS NOT NULL;

        -- Reasons to refuse that need no arithmetic, in their documented order.
        code := CASE
            WHEN p_deadlines[op] < moment THEN 'deadline_passed'
            WHEN p_facts[op] < lane.first_id OR p_facts[op] >= lane.last_id OR (p_facts[op] > newest_id AND p_operations[op] = 'place') THEN 'id_outside_window'
            ELSE path_codes[p_path_of[op]]
        END;
        IF code IS NOT NULL THEN
            codes[op] := code;
            CONTINUE;
        END IF;

        worst_rank := NULL;
        worst_share := NULL;
        FOR i IN first_part..last_part LOOP
            at := part_index[i];
            rank := CASE
                WHEN part_amounts[i] < 0 THEN 4
                WHEN part_accounts[i] IS NULL THEN 1
                WHEN states[at] IS NULL THEN 2
                WHEN assets[at] <> part_assets[i] THEN 3
                WHEN part_amounts[i] > 4611686018427387904 THEN 6
                WHEN states[at] <> 'active' THEN 7
                WHEN available[at] < part_amounts[i] THEN 8
            END;
            IF rank IS NOT NULL THEN
                worst_rank := least(worst_rank, rank);
                IF rank = 8 AND (worst_share IS NULL OR available[at] / part_amounts[i] < worst_share) THEN
                    worst_share := available[at] / part_amounts[i];
                    short_by[op] := part_accounts[i];
                    short_left[op] := available[at];
                END IF;
            END IF;
        END LOOP;
        -- Who is to be paid at expiry must be there.
        IF p_fates[op] = 'capture' AND p_operations[op] = 'place' AND NOT EXISTS (SELECT FROM ledger.balances AS b WHERE b.account_id = p_payees[op]) THEN
            worst_rank := least(worst_rank, 5);
        END IF;
        IF worst_rank IS NOT NULL THEN
            codes[op] := (ARRAY['funding_account_missing', 'account_unknown', 'asset_mismatch', 'amount_invalid', 'account_unknown', 'amount_invalid', 'account_frozen', 'insufficient'])[worst_rank];
            IF worst_rank < 8 THEN
                short_by[op] := NULL;
                short_left[op] := NULL;
            END IF;
            CONTINUE;
        END IF;

        -- After this point this operation must succeed.
        parts_text := '';
        FOR i IN first_part..last_part LOOP
            at := part_index[i];
            IF deltas[at] = 0 THEN
                touched := touched + 1;
            END IF;
            available[at] := available[at] - part_amounts[i];
            deltas[at] := deltas[at] + part_amounts[i];
            parts_text := parts_text || ',[' || part_accounts[i] || ',' || part_amounts[i] || ']';
        END LOOP;
        accepted := accepted || op;
        placed := placed + (p_operations[op] = 'place')::integer;
        records := records || (
            '{"v":1,"op":"' || p_operations[op] || '","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op]
            || ',"time":' || ledger.microseconds(moment) || ',"expires":' || ledger.microseconds(p_expiries[op])
            || ',"fate":"' || p_fates[op] || '","parts":[' || substr(parts_text, 2) || '],"meta":' || p_metas[op] || '}');
    END LOOP;

    IF touched > 0 THEN
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + delta.quanta, last_time = moment
        FROM unnest(account_ids, deltas) AS delta (account_id, quanta)
        WHERE b.account_id = delta.account_id AND delta.quanta > 0;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> touched THEN
            RAISE EXCEPTION 'wrote % of % accounts', written, touched USING ERRCODE = 'TW009';
        END IF;
    END IF;

    IF placed > 0 THEN
        -- Out of flat copies of the arrays (the concatenations make them) a slice is cut in O(its size).
        INSERT INTO ledger.holds (hold_id, state, placed_at, expires_at, on_expiry, payee_account, path_id, path_version, part_accounts, part_assets, part_held, part_captured, lane, meta)
        SELECT p_facts[op], 'open', moment, p_expiries[op], p_fates[op], p_payees[op], p_paths[p_path_of[op]], p_path_versions[p_path_of[op]],
            flat.accounts[first_parts[op]:last_parts[op]], flat.assets[first_parts[op]:last_parts[op]], flat.amounts[first_parts[op]:last_parts[op]],
            array_fill(0::bigint, ARRAY[last_parts[op] - first_parts[op] + 1]), p_lane, p_metas[op]
        FROM (SELECT part_accounts || '{}' AS accounts, part_assets || '{}' AS assets, part_amounts || '{}' AS amounts OFFSET 0) AS flat
        CROSS JOIN unnest(accepted) AS a (op)
        WHERE p_operations[op] = 'place'
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> placed THEN
            -- Another writer placed one of these holds first: run the batch again, it will see it.
            RAISE EXCEPTION 'a hold was placed by another writer meanwhile' USING ERRCODE = '40001';
        END IF;
    END IF;

    IF has_extensions THEN
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

    IF cardinality(records) > 0 THEN
        PERFORM ledger.append_batch(
            lane, moment, p_facts, p_operations, p_ordinals, p_contents, accepted, records,
            NULL, NULL, lane.receipt_head, lane.receipt_sequence);
    END IF;

    -- Nearly always everything is at hand; what was stored is only read for repeats.
    IF NOT (coalesce('replayed' = ANY (codes), false) OR has_extensions) THEN
        RETURN QUERY
        SELECT op, coalesce(codes[op], 'ok'), CASE WHEN codes[op] IS NULL THEN moment END, CASE WHEN codes[op] IS NULL THEN p_expiries[op] END,
            CASE WHEN codes[op] IS NULL THEN flat.accounts[first_parts[op]:last_parts[op]] END,
            CASE WHEN codes[op] IS NULL THEN flat.assets[first_parts[op]:last_parts[op]] END,
            CASE WHEN codes[op] IS NULL THEN flat.amounts[first_parts[op]:last_parts[op]] END,
            short_by[op], short_left[op], NULL::bigint, NULL::text, NULL::integer, NULL::bigint, NULL::bytea
        FROM (SELECT part_accounts || '{}' AS accounts, part_assets || '{}' AS assets, part_amounts || '{}' AS amounts OFFSET 0) AS flat
        CROSS JOIN generate_series(1, n) AS g (op)
        ORDER BY op;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT asked.op::integer, coalesce(codes[asked.op], 'ok'),
        CASE WHEN codes[asked.op] IS NULL THEN moment ELSE stored.recorded_at END,
        hold.expires_at, hold.part_accounts, hold.part_assets, hold.part_held,
        short_by[asked.op], short_left[asked.op], NULL::bigint, stored.record, NULL::integer, NULL::bigint, NULL::bytea
    FROM unnest(p_facts[:n]) WITH ORDINALITY AS asked (fact, op)
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
    lane ledger.locked_lane := ledger.lock_lane(p_lane, p_epoch, p_now);
    moment timestamptz := greatest(p_now, lane.last_time);
    newest_id uuid;
    closed_through date;
    n integer := cardinality(p_facts);
    has_holds boolean := 'post' <> ANY (p_operations);
    codes text[] := array_fill(NULL::text, ARRAY[n]);
    short_by bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    short_left numeric[] := array_fill(NULL::numeric, ARRAY[n]);
    overruns bigint[] := array_fill(0::bigint, ARRAY[n]);
    sequences bigint[] := array_fill(NULL::bigint, ARRAY[n]);
    previous_links bytea[] := array_fill(NULL::bytea, ARRAY[n]);
    flaws text[] := array_fill(NULL::text, ARRAY[n]);
    transfer_ops integer[] := p_transfer_ops;
    debits bigint[] := p_debits;
    credits bigint[] := p_credits;
    amounts bigint[] := p_amounts;    -- in the end: what the debited account gave
    fallbacks bigint[] := p_fallbacks;
    borne bigint[];                   -- what the fallback gave
    owns integer[];                   -- the hold's part that a transfer debits
    debit_index integer[];            -- of the account in the arrays below
    credit_index integer[];
    fallback_index integer[];
    part_ops integer[];               -- parts of the operations' holds; a hold of nothing has one without account
    part_states text[];
    part_expiries timestamptz[];
    part_fates text[];
    part_accounts bigint[];
    part_held bigint[];
    part_captured bigint[];
    part_left bigint[];               -- held and not yet captured
    part_taken bigint[];              -- captured by this batch's operation
    part_grown bigint[];              -- taken beyond the hold, from what is available
    part_index integer[];
    first_parts integer[] := '{}';    -- by operation
    last_parts integer[] := '{}';
    account_ids bigint[];
    assets smallint[];
    available numeric[];              -- NULL: no limit
    states text[];
    roles smallint[];
    pending_deltas numeric[];
    debit_deltas numeric[];
    credit_deltas numeric[];
    accepted integer[] := '{}';
    records text[] := '{}';
    rider_rows text[] := '{}';
    rider_function text;
    receipt_head bytea := lane.receipt_head;
    receipt_sequence bigint := lane.receipt_sequence;
    fresh record;
    code text;
    transfer integer := 1;
    part integer := 1;
    first_transfer integer;
    last_transfer integer;
    first_part integer := 1;
    last_part integer := 0;
    at integer;
    d integer;
    c integer;
    f integer;
    part_at integer[];                -- by account; of the operation at hand
    own integer;
    take bigint;
    rest bigint;
    short_client bigint := 0;
    short integer;                    -- an account that the operation would overdraw
    is_overdrawn boolean := false;    -- whether an account was below zero on the way
    is_clients boolean := false;      -- whether client money, or what safeguards it, moved or was short
    excess numeric[] := '{}';         -- by asset: client money raised less what safeguards it raised
    is_capped boolean;
    transfers_text text;
    taken_text text := '';
    released_text text := '';
    closed integer := 0;
    changed integer := 0;
    written integer;
BEGIN
    IF has_holds THEN
        PERFORM FROM ledger.holds WHERE hold_id = ANY (p_facts) AND hold_id BETWEEN p_lowest AND p_highest ORDER BY hold_id FOR NO KEY UPDATE;

        SELECT array_agg(op), array_agg(state), array_agg(expires_at), array_agg(on_expiry), array_agg(account_id), array_agg(held), array_agg(captured),
            array_agg(held - captured), array_agg(0::bigint), array_agg(0::bigint)
        INTO part_ops, part_states, part_expiries, part_fates, part_accounts, part_held, part_captured, part_left, part_taken, part_grown
        FROM (
            SELECT asked.op::integer AS op, hold.state, hold.expires_at, hold.on_expiry, parts.account_id, parts.held, parts.captured
            FROM unnest(p_facts) WITH ORDINALITY AS asked (fact, op)
            CROSS JOIN LATERAL (SELECT * FROM ledger.holds AS h WHERE h.hold_id = asked.fact AND h.hold_id BETWEEN p_lowest AND p_highest OFFSET 0) AS hold
            LEFT JOIN LATERAL unnest(hold.part_accounts, hold.part_held, hold.part_captured) WITH ORDINALITY AS parts (account_id, held, captured, place) ON true
            WHERE p_operations[asked.op] <> 'post'
            ORDER BY asked.op, parts.place) AS ordered;
    END IF;

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

    SELECT array_agg(id ORDER BY id) INTO account_ids FROM (SELECT DISTINCT id FROM unnest(debits || credits || fallbacks || part_accounts) AS id WHERE id <> 0) AS distinct_ids;
    PERFORM FROM ledger.balances WHERE account_id = ANY (account_ids) ORDER BY account_id FOR NO KEY UPDATE;

    -- Everything is locked: read again, then decide.
    SELECT
        array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END ORDER BY ids.place),
        array_agg(b.asset_id ORDER BY ids.place), array_agg(b.state ORDER BY ids.place), array_agg(b.money_role ORDER BY ids.place),
        array_agg(0::numeric), array_agg(0::numeric), array_agg(0::numeric), greatest(moment, max(b.last_time))
    INTO available, assets, states, roles, pending_deltas, debit_deltas, credit_deltas, moment
    FROM unnest(account_ids) WITH ORDINALITY AS ids (account_id, place)
    LEFT JOIN ledger.balances AS b ON b.account_id = ids.account_id;
    moment := greatest(moment, p_now, lane.last_time);
    newest_id := ledger.identifier_floor(moment + interval '5 minutes');

    -- Where each account stands in these arrays: a search in the sorted ids, of which the
    -- concatenation makes a flat copy (PL/pgSQL's own would be copied for each search).
    SELECT t.debit_index, t.credit_index, t.fallback_index, p.part_index
    INTO debit_index, credit_index, fallback_index, part_index
    FROM (SELECT account_ids || '{}' AS ids OFFSET 0) AS flat
    CROSS JOIN LATERAL (
        SELECT array_agg(width_bucket(debit, flat.ids)) AS debit_index, array_agg(width_bucket(credit, flat.ids)) AS credit_index,
            array_agg(width_bucket(fallback, flat.ids)) AS fallback_index
        FROM unnest(debits, credits, fallbacks) AS u (debit, credit, fallback)) AS t
    CROSS JOIN LATERAL (SELECT array_agg(width_bucket(id, flat.ids)) AS part_index FROM unnest(part_accounts) AS id) AS p;

    -- What is wrong with a transfer whatever the balances are: by operation, of its first such one.
    FOR fresh IN
        SELECT DISTINCT ON (op) op,
            CASE
                WHEN assets[d_] IS NULL OR assets[c_] IS NULL OR (fallback <> 0 AND assets[f_] IS NULL) THEN 'account_unknown'
                WHEN assets[d_] <> assets[c_] OR (fallback <> 0 AND assets[f_] <> assets[c_]) THEN 'asset_mismatch'
                WHEN d_ = c_ OR (fallback <> 0 AND f_ = c_) THEN 'accounts_must_differ'
                WHEN amount <= 0 OR amount > 4611686018427387904 THEN 'amount_invalid'
                ELSE 'account_frozen'
            END AS flaw
        FROM unnest(transfer_ops, amounts, fallbacks, debit_index, credit_index, fallback_index) WITH ORDINALITY AS t (op, amount, fallback, d_, c_, f_, place)
        WHERE (assets[d_] = assets[c_]) IS NOT TRUE OR d_ = c_ OR amount NOT BETWEEN 1 AND 4611686018427387904
            OR states[c_] = 'closed' OR (states[d_] <> 'active' AND p_operations[op] = 'post')
            OR (fallback <> 0 AND ((assets[f_] = assets[c_]) IS NOT TRUE OR f_ = c_))
        ORDER BY op, place
    LOOP
        flaws[fresh.op] := fresh.flaw;
    END LOOP;

    FOR fresh IN
        SELECT e.fact_id, e.operation, e.ordinal, e.content
        FROM ledger.entries AS e
        WHERE e.fact_id = ANY (p_facts) AND e.fact_id BETWEEN p_lowest AND p_highest AND e.operation = ANY (p_operations)
    LOOP
        at := array_position(p_facts, fresh.fact_id);
        IF p_operations[at] = fresh.operation AND p_ordinals[at] = fresh.ordinal THEN
            codes[at] := CASE WHEN p_contents[at] = fresh.content THEN 'replayed' ELSE 'conflict' END;
        END IF;
    END LOOP;

    -- Nearly always NULL: entries that name no accounting date count where ledger time puts them.
    IF p_dates IS NOT NULL THEN
        SELECT max(closed_date) INTO closed_through FROM ledger.closings;
    END IF;

    part_at := array_fill(NULL::integer, ARRAY[coalesce(cardinality(account_ids), 0)]);
    owns := array_fill(NULL::integer, ARRAY[coalesce(cardinality(debits), 0)]);

    FOR op IN 1..n LOOP
        first_transfer := transfer;
        WHILE transfer_ops[transfer] = op LOOP
            transfer := transfer + 1;
        END LOOP;
        last_transfer := transfer - 1;
        IF has_holds THEN
            first_part := part;
            WHILE part_ops[part] = op LOOP
                part := part + 1;
            END LOOP;
            last_part := part - 1;
            first_parts[op] := first_part;
            last_parts[op] := last_part;
            taken_text := '';
            released_text := '';
        END IF;
        CONTINUE WHEN codes[op] IS NOT NULL;

        -- Reasons to refuse that need no arithmetic, in their documented order.
        code := CASE
            WHEN p_deadlines[op] < moment THEN 'deadline_passed'
            WHEN p_facts[op] < lane.first_id OR p_facts[op] >= lane.last_id OR (p_facts[op] > newest_id AND p_operations[op] = 'post') THEN 'id_outside_window'
            WHEN p_dates[op] <= closed_through THEN 'date_closed'
            WHEN p_operations[op] = 'post' THEN flaws[op]
            WHEN first_part > last_part THEN 'hold_unknown'
            WHEN part_states[first_part] <> 'open' THEN 'hold_closed'
            WHEN p_operations[op] = 'expire' AND part_expiries[first_part] > moment THEN 'hold_not_due'
            WHEN p_operations[op] = 'expire' AND part_fates[first_part] = 'wait' THEN 'hold_waits'
            ELSE flaws[op]
        END;
        IF code IS NOT NULL THEN
            codes[op] := code;
            CONTINUE;
        END IF;

        IF first_part <= last_part THEN
            IF part_accounts[first_part] IS NULL THEN
                last_part := first_part - 1;  -- a hold of nothing
                last_parts[op] := last_part;
            END IF;
            -- Does the hold cover what is captured, or can all of its parts grow?
            is_capped := false;
            FOR j IN first_part..last_part LOOP
                part_at[part_index[j]] := j;
            END LOOP;
            FOR i IN first_transfer..last_transfer LOOP
                own := part_at[debit_index[i]];
                IF own IS NOT NULL THEN
                    owns[i] := own;
                    IF p_operations[op] = 'capture' THEN
                        part_grown[own] := part_grown[own] + amounts[i];  -- first all that is wanted
                    END IF;
                END IF;
            END LOOP;
            FOR j IN first_part..last_part LOOP
                at := part_index[j];
                part_at[at] := NULL;
                part_grown[j] := greatest(0, part_grown[j] - part_left[j]);
                is_capped := is_capped OR (part_grown[j] > 0 AND available[at] < part_grown[j]);
            END LOOP;
            IF is_capped THEN
                FOR j IN first_part..last_part LOOP
                    part_grown[j] := 0;
                END LOOP;
            END IF;
        END IF;

        transfers_text := '';
        FOR i IN first_transfer..last_transfer LOOP
            d := debit_index[i];
            c := credit_index[i];
            own := owns[i];
            -- How much the debited account itself can give.
            take := amounts[i];
            IF own IS NOT NULL THEN
                take := least(take, part_left[own] + part_grown[own] - part_taken[own]);
                part_taken[own] := part_taken[own] + take;
                IF part_grown[own] > 0 THEN
                    -- Beyond what was held it comes from what is available.
                    available[d] := available[d] - greatest(0, least(take, part_taken[own] - part_left[own]));
                END IF;
            ELSE
                IF available[d] < take AND fallbacks[i] <> 0 AND fallback_index[i] <> d THEN
                    take := greatest(available[d], 0)::bigint;
                ELSIF short_client > 0 AND roles[c] = 2 THEN
                    -- own funds are freed only by what the client really paid
                    rest := least(take, short_client);
                    short_client := short_client - rest;
                    take := take - rest;
                    amounts[i] := take;
                END IF;
                available[d] := available[d] - take;
                IF available[d] < 0 THEN
                    is_overdrawn := true;
                END IF;
            END IF;
            IF take > 0 THEN
                available[c] := available[c] + take;
                debit_deltas[d] := debit_deltas[d] + take;
                credit_deltas[c] := credit_deltas[c] + take;
                transfers_text := transfers_text || ',[' || debits[i] || ',' || credits[i] || ',' || take || ']';
                IF (roles[d] <> 0) <> (roles[c] <> 0) THEN
                    is_clients := true;
                    excess[assets[c]] := coalesce(excess[assets[c]], 0) + take * (CASE WHEN roles[c] <> 0 THEN 1 ELSE 0 END - CASE WHEN roles[d] <> 0 THEN 1 ELSE 0 END);
                END IF;
            END IF;
            IF take < amounts[i] THEN
                rest := amounts[i] - take;
                amounts[i] := take;
                overruns[op] := overruns[op] + CASE WHEN assets[d] < 10 THEN rest ELSE 0 END;
                IF roles[d] = 1 THEN
                    is_clients := true;
                    short_client := short_client + rest;
                END IF;
                f := fallback_index[i];
                IF fallbacks[i] <> 0 AND f <> d THEN
                    borne[i] := rest;
                    IF (roles[f] <> 0) <> (roles[c] <> 0) THEN
                        is_clients := true;
                        excess[assets[c]] := coalesce(excess[assets[c]], 0) + rest * (CASE WHEN roles[c] <> 0 THEN 1 ELSE 0 END - CASE WHEN roles[f] <> 0 THEN 1 ELSE 0 END);
                    END IF;
                    available[f] := available[f] - rest;
                    available[c] := available[c] + rest;
                    debit_deltas[f] := debit_deltas[f] + rest;
                    credit_deltas[c] := credit_deltas[c] + rest;
                    IF available[f] < 0 THEN
                        is_overdrawn := true;
                    END IF;
                    transfers_text := transfers_text || ',[' || fallbacks[i] || ',' || credits[i] || ',' || rest || ']';
                END IF;
            END IF;
        END LOOP;

        -- The whole entry is applied: is any bounded account below zero, is client money uncovered?
        -- What was taken from the hold's own parts cannot be short.
        IF is_overdrawn OR is_clients THEN
            short := NULL;
            IF is_overdrawn THEN
                FOR i IN first_transfer..last_transfer LOOP
                    IF owns[i] IS NULL AND available[debit_index[i]] < 0 THEN
                        short := coalesce(short, debit_index[i]);
                    ELSIF borne[i] > 0 AND available[fallback_index[i]] < 0 THEN
                        short := coalesce(short, fallback_index[i]);
                    END IF;
                END LOOP;
            END IF;
            IF short IS NOT NULL THEN
                codes[op] := 'insufficient';
            ELSIF 0 < ANY (excess) THEN
                codes[op] := 'client_money_unsafeguarded';
            END IF;
            is_overdrawn := false;
            is_clients := false;
            excess := '{}';
            short_client := 0;
            IF codes[op] IS NOT NULL THEN
                FOR i IN first_transfer..last_transfer LOOP
                    d := debit_index[i];
                    c := credit_index[i];
                    available[d] := available[d] + CASE WHEN owns[i] IS NULL THEN amounts[i] ELSE 0 END;
                    available[c] := available[c] - amounts[i];
                    debit_deltas[d] := debit_deltas[d] - amounts[i];
                    credit_deltas[c] := credit_deltas[c] - amounts[i];
                    IF borne[i] > 0 THEN
                        f := fallback_index[i];
                        available[f] := available[f] + borne[i];
                        available[c] := available[c] - borne[i];
                        debit_deltas[f] := debit_deltas[f] - borne[i];
                        credit_deltas[c] := credit_deltas[c] - borne[i];
                    END IF;
                END LOOP;
                FOR j IN first_part..last_part LOOP
                    at := part_index[j];
                    available[at] := available[at] + greatest(0, part_taken[j] - part_left[j]);
                END LOOP;
                short_by[op] := account_ids[short];
                short_left[op] := available[short];
                overruns[op] := 0;
                CONTINUE;
            END IF;
        END IF;

        -- After this point this operation must succeed.
        IF p_operations[op] <> 'post' THEN
            FOR j IN first_part..last_part LOOP
                at := part_index[j];
                take := least(part_taken[j], part_left[j]);  -- from what was held; the rest was available
                rest := CASE WHEN p_closes[op] OR p_operations[op] <> 'capture' THEN part_left[j] - take ELSE 0 END;
                part_captured[j] := part_captured[j] + part_taken[j];
                part_held[j] := part_held[j] + part_taken[j] - take;
                pending_deltas[at] := pending_deltas[at] - take - rest;
                IF take > 0 THEN
                    taken_text := taken_text || ',[' || part_accounts[j] || ',' || take || ']';
                END IF;
                IF rest > 0 THEN
                    available[at] := available[at] + rest;
                    released_text := released_text || ',[' || part_accounts[j] || ',' || rest || ']';
                END IF;
            END LOOP;
            closed := closed + 1;
            -- What the spender may still spend: the tightest of its money and money limits.
            FOR j IN first_part..last_part LOOP
                at := part_index[j];
                IF assets[at] IN (1, 2, 11, 12) AND (short_left[op] IS NULL OR available[at] < short_left[op]) THEN
                    short_left[op] := available[at];
                END IF;
            END LOOP;
        END IF;
        IF p_receipt_roots[op] IS NOT NULL THEN
            receipt_sequence := receipt_sequence + 1;
            sequences[op] := receipt_sequence;
            previous_links[op] := receipt_head;
            receipt_head := sha256(receipt_head || p_receipt_roots[op]);
        END IF;
        accepted := accepted || op;
        IF p_rider_rows[op] IS NOT NULL THEN
            rider_rows := rider_rows || p_rider_rows[op];
        END IF;
        records := records || (
            '{"v":1,"op":"' || p_operations[op] || '","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op]
            || ',"time":' || ledger.microseconds(moment)
            || CASE WHEN p_dates[op] IS NOT NULL THEN ',"date":"' || to_char(p_dates[op], 'YYYY-MM-DD') || '"' ELSE '' END
            || ',"transfers":[' || substr(transfers_text, 2)
            || '],"taken":[' || substr(taken_text, 2) || '],"released":[' || substr(released_text, 2) || ']'
            || CASE WHEN p_operations[op] <> 'post' THEN ',"closes":' || (p_operations[op] <> 'capture' OR p_closes[op])::text ELSE '' END
            || CASE WHEN overruns[op] > 0 THEN ',"overrun":' || overruns[op] ELSE '' END
            || CASE WHEN p_receipt_roots[op] IS NOT NULL THEN ',"receipt":"' || encode(p_receipt_roots[op], 'hex') || '"' ELSE '' END
            || ',"meta":' || p_metas[op] || '}');
    END LOOP;

    IF cardinality(accepted) > 0 THEN
        FOR i IN 1..coalesce(cardinality(account_ids), 0) LOOP
            changed := changed + (pending_deltas[i] <> 0 OR debit_deltas[i] <> 0 OR credit_deltas[i] <> 0)::integer;
        END LOOP;
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + delta.pending,
            debits_posted = b.debits_posted + delta.debits,
            credits_posted = b.credits_posted + delta.credits,
            last_time = moment
        FROM unnest(account_ids, pending_deltas, debit_deltas, credit_deltas) AS delta (account_id, pending, debits, credits)
        WHERE b.account_id = delta.account_id AND (delta.pending <> 0 OR delta.debits <> 0 OR delta.credits <> 0);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> changed THEN
            RAISE EXCEPTION 'wrote % of % accounts', written, changed USING ERRCODE = 'TW009';
        END IF;

        IF closed > 0 THEN
            UPDATE ledger.holds AS hold
            SET state = CASE
                    WHEN p_operations[done.op] = 'void' THEN 'voided'
                    WHEN p_operations[done.op] = 'expire' THEN 'expired'
                    WHEN p_closes[done.op] THEN 'captured'
                    ELSE 'open' END,
                closed_at = CASE WHEN p_operations[done.op] <> 'capture' OR p_closes[done.op] THEN moment END,
                part_captured = flat.captured[first_parts[done.op]:last_parts[done.op]],
                part_held = flat.held[first_parts[done.op]:last_parts[done.op]]
            FROM (SELECT part_captured || '{}' AS captured, part_held || '{}' AS held OFFSET 0) AS flat
            CROSS JOIN unnest(accepted) AS done (op)
            WHERE hold.hold_id = p_facts[done.op] AND p_operations[done.op] <> 'post';
            GET DIAGNOSTICS written = ROW_COUNT;
            IF written <> closed THEN
                RAISE EXCEPTION 'wrote % of % holds', written, closed USING ERRCODE = 'TW009';
            END IF;
        END IF;

        PERFORM ledger.append_batch(
            lane, moment, p_facts, p_operations, p_ordinals, p_contents, accepted, records,
            sequences, previous_links, receipt_head, receipt_sequence);

        IF cardinality(rider_rows) > 0 THEN
            SELECT function_name INTO STRICT rider_function FROM ledger.riders WHERE name = p_rider;
            EXECUTE 'SELECT ' || rider_function || '($1, $2)' USING rider_rows, moment;
        END IF;
    END IF;

    IF NOT coalesce('replayed' = ANY (codes), false) THEN
        -- Who has nothing to be told but that all is well is answered by the row at position 0.
        RETURN QUERY
        SELECT g.op, coalesce(codes[g.op], 'ok'), CASE WHEN codes[g.op] IS NULL THEN moment END,
            NULL::timestamptz, NULL::bigint[], NULL::smallint[], NULL::bigint[],
            short_by[g.op], short_left[g.op], overruns[g.op], NULL::text, p_lane, sequences[g.op], previous_links[g.op]
        FROM generate_series(1, n) AS g (op)
        WHERE codes[g.op] IS NOT NULL OR short_left[g.op] IS NOT NULL OR sequences[g.op] IS NOT NULL OR overruns[g.op] > 0
        ORDER BY g.op;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written < n THEN
            RETURN QUERY
            SELECT 0, 'ok', moment, NULL::timestamptz, NULL::bigint[], NULL::smallint[], NULL::bigint[],
                NULL::bigint, NULL::numeric, 0::bigint, NULL::text, p_lane, NULL::bigint, NULL::bytea;
        END IF;
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
