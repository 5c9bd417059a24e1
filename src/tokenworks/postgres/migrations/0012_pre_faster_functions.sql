-- Faster functions of value: place_v2 and post_v2, for code of this version on; place_v1 and
-- post_v1 stay for the code that still runs.

-- What stands on a path was looked up at every hold: each limit of each scope, and its window.
-- A path remembers what was found, with how long that is good: until the next of its windows
-- begins, and as long as none of its scopes got or lost a limit. That is a memory only: what a
-- path is never changes, and whether its scopes are active is always looked up.
ALTER TABLE ledger.scopes ADD COLUMN revision bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN ledger.scopes.revision IS 'Grows whenever a limit of the scope is opened or closed.';
ALTER TABLE ledger.spend_paths
ADD COLUMN known_accounts bigint[],      -- the money, then the windows: by asset, then root first
ADD COLUMN known_assets smallint[],      -- each asset once
ADD COLUMN known_ends integer[],         -- where the accounts of each end among known_accounts
ADD COLUMN known_revision numeric,       -- the sum of the scopes' revisions
ADD COLUMN known_from timestamptz,
ADD COLUMN known_until timestamptz;
ALTER TABLE ledger.spend_paths SET (fillfactor = 70);

CREATE FUNCTION ledger.note_limits() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    UPDATE ledger.scopes SET revision = revision + 1 WHERE scope_id IN (SELECT scope_id FROM changed);
    RETURN NULL;
END
$$;
CREATE TRIGGER limits_opened AFTER INSERT ON ledger.limits REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ledger.note_limits();
CREATE TRIGGER limits_changed AFTER UPDATE ON ledger.limits REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ledger.note_limits();

-- Arrays one after the other, in one.
CREATE AGGREGATE ledger.joined(anycompatiblearray) (SFUNC = array_cat, STYPE = anycompatiblearray);

-- Open the windows of some limits at a moment and grant them; what another writer opened first
-- is left out. Nothing is ever reset: a new window is a new account.
CREATE FUNCTION ledger.open_windows(p_limits bigint[], p_lane integer, p_now timestamptz)
RETURNS TABLE (limit_id bigint, window_start timestamptz, source_account bigint, window_account bigint, quanta bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    opened bigint[];
    spots bigint[];
    granted record;
    main_account bigint;
    share_account bigint;
BEGIN
    -- A change of a limit waits for its window, or this waits and grants what was set.
    PERFORM FROM ledger.limits AS lim WHERE lim.limit_id = ANY (p_limits) ORDER BY lim.limit_id FOR SHARE;
    WITH spot AS (
        INSERT INTO ledger.limit_windows (limit_id, window_start, account_id)
        SELECT lim.limit_id, ledger.window_start(lim.window_kind, lim.time_zone, p_now, lim.opened_at), nextval('ledger.accounts_account_id_seq')
        FROM ledger.limits AS lim
        WHERE lim.limit_id = ANY (p_limits)
        ORDER BY lim.limit_id
        ON CONFLICT (limit_id, window_start) DO NOTHING
        RETURNING limit_id, account_id)
    SELECT array_agg(spot.limit_id), array_agg(spot.account_id) INTO opened, spots FROM spot;
    INSERT INTO ledger.accounts (account_id, party_id, asset_id, purpose, qualifier, account_class, normal_side, title_holder, is_laned, opened_at)
    SELECT spot.account_id, lim.scope_id, lim.asset_id, 'limit_available', lim.limit_id || '@' || ledger.microseconds(ledger.window_start(lim.window_kind, lim.time_zone, p_now, lim.opened_at)), 'memo', 'credit', lim.scope_id, false, p_now
    FROM unnest(opened, spots) AS spot (limit_id, account_id)
    JOIN ledger.limits AS lim ON lim.limit_id = spot.limit_id;
    INSERT INTO ledger.balances (account_id, asset_id, no_overdraft, credits_posted, last_time)
    SELECT spot.account_id, lim.asset_id, true, lim.quanta, p_now
    FROM unnest(opened, spots) AS spot (limit_id, account_id)
    JOIN ledger.limits AS lim ON lim.limit_id = spot.limit_id;
    FOR granted IN
        SELECT lim.asset_id, sum(lim.quanta) AS quanta
        FROM unnest(opened) AS spot (limit_id)
        JOIN ledger.limits AS lim ON lim.limit_id = spot.limit_id
        WHERE lim.quanta > 0
        GROUP BY lim.asset_id
        ORDER BY lim.asset_id
    LOOP
        -- The platform's account, by its whole name: by purpose alone all accounts would be read.
        SELECT main.account_id INTO STRICT main_account
        FROM ledger.accounts AS main
        WHERE main.party_id = '00000000-0000-0000-0000-000000000001' AND main.asset_id = granted.asset_id
            AND main.purpose = 'limit_source' AND main.qualifier = '' AND main.lane = 0;
        share_account := ledger.lane_account_v1(main_account, p_lane, p_now);
        UPDATE ledger.balances AS b SET debits_posted = b.debits_posted + granted.quanta, last_time = greatest(b.last_time, p_now) WHERE b.account_id = share_account;
        RETURN QUERY
        SELECT lim.limit_id, ledger.window_start(lim.window_kind, lim.time_zone, p_now, lim.opened_at), share_account, spot.account_id, lim.quanta
        FROM unnest(opened, spots) AS spot (limit_id, account_id)
        JOIN ledger.limits AS lim ON lim.limit_id = spot.limit_id
        WHERE lim.asset_id = granted.asset_id AND lim.quanta > 0
        ORDER BY lim.limit_id;
    END LOOP;
END
$$;

-- Close the batch: store the records of the accepted operations, move the lane's head. A fact
-- that another writer recorded first is a unique violation here, which the caller takes for what
-- it is (run the batch again, it will see it): to look for it before each row cost a seventh of posting.
CREATE FUNCTION ledger.append_batch_v2(
    p_lane ledger.locked_lane, p_time timestamptz,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_accepted integer[], p_records text[], p_receipt_sequences bigint[], p_receipt_previous bytea[],
    p_receipt_head bytea, p_receipt_sequence bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    batch_number bigint := p_lane.batch + 1;
    batch_hash bytea;
BEGIN
    INSERT INTO ledger.entries (fact_id, operation, ordinal, lane, batch, position, recorded_at, content, record, receipt_sequence, receipt_previous)
    SELECT p_facts[op], p_operations[op], p_ordinals[op], p_lane.lane, batch_number, position, p_time, p_contents[op], record, p_receipt_sequences[op], p_receipt_previous[op]
    FROM unnest(p_accepted, p_records) WITH ORDINALITY AS t (op, record, position)
    ORDER BY p_facts[op];
    batch_hash := sha256(p_lane.head_hash || convert_to(
        'tokenworks-batch-v1 ' || p_lane.lane || ' ' || batch_number || ' ' || p_lane.epoch || ' ' || ledger.microseconds(p_time) || E'\n'
        || array_to_string(p_records, E'\n'), 'UTF8'));
    INSERT INTO ledger.batches (lane, batch, epoch, recorded_at, operations, previous_hash, hash)
    VALUES (p_lane.lane, batch_number, p_lane.epoch, p_time, cardinality(p_accepted), p_lane.head_hash, batch_hash);
    UPDATE ledger.lanes
    SET batch = batch_number, head_hash = batch_hash, last_time = p_time, receipt_head = p_receipt_head, receipt_sequence = p_receipt_sequence
    WHERE lane = p_lane.lane;
END
$$;

-- Place and extend holds. Operations are decided one by one in batch order: each takes all
-- of its parts or none, and one that is refused disturbs no other. In the plain case (holds along
-- paths, and every account covers all that the batch takes from it) nothing can be refused, and
-- all are decided together, by sets: an account more on a path is then little more than its row.
-- Paths are given once each; p_path_of names an operation's path by its place among them.
-- Arrays are subscripted instead of joined: PL/pgSQL keeps them expanded, so it is O(1).
-- p_lowest and p_highest bound p_facts: with them only the partitions in question are opened.
-- Not so in updates: there the range would be taken for the index condition.
-- OFFSET 0 is a fence: it keeps a look-up per operation from being planned as a scan.
CREATE FUNCTION ledger.place_v2(
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
    path_base integer[] := '{}';      -- by path: how many of path_accounts come before its own
    path_first integer[] := '{}';     -- by path: where its runs stand in the next two
    path_last integer[] := '{}';
    run_assets smallint[] := '{}';    -- a run: accounts of a path in one asset
    run_ends integer[] := '{}';       -- where it ends among the path's accounts
    path_accounts bigint[] := '{}';
    path_count integer := 0;
    learned integer[] := '{}';        -- paths that were looked up now
    learned_revisions numeric[] := '{}';
    learned_from timestamptz[] := '{}';
    learned_until timestamptz[] := '{}';
    is_together boolean;              -- whether all are placed at once
    taken_ops integer[];              -- what the operations take by runs
    taken_assets smallint[];
    taken_amounts bigint[];
    taken_first integer[];            -- in path_accounts
    taken_last integer[];
    wanted record;                    -- accounts, sorted, and what all operations take from each
    locked record;                    -- their rows, in the same order
    formed text[];
    microseconds bigint;
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
    written integer := 0;
BEGIN
    IF has_extensions THEN
        PERFORM FROM ledger.holds WHERE hold_id = ANY (p_facts) AND hold_id BETWEEN p_lowest AND p_highest ORDER BY hold_id FOR NO KEY UPDATE;
    END IF;

    -- What stands on each path: the money that funds it, then each open limit of each of its
    -- scopes in the window of now, as it is remembered or else looked up. A window that nobody
    -- opened yet is opened, and all read again.
    <<paths>>
    LOOP
        FOR fresh IN
            SELECT asked.place, memory.is_good,
                CASE WHEN memory.is_good THEN path.known_accounts ELSE spots.accounts END AS accounts,
                CASE WHEN memory.is_good THEN path.known_assets ELSE spots.assets END AS assets,
                CASE WHEN memory.is_good THEN path.known_ends ELSE spots.ends END AS ends,
                stopped.revision, spots.good_from, spots.good_until,
                CASE WHEN path.path_id IS NULL THEN 'spend_path_unknown' WHEN NOT path.is_current THEN 'spend_path_stale' ELSE stopped.code END AS code
            FROM unnest(p_paths, p_path_versions) WITH ORDINALITY AS asked (path_id, version, place)
            LEFT JOIN ledger.spend_paths AS path ON path.path_id = asked.path_id AND path.version = asked.version
            -- By arrays: one look-up of all scopes and one of all limits cost a third of two for each scope.
            LEFT JOIN LATERAL (
                SELECT sum(node.revision) AS revision,
                    CASE
                        WHEN bool_or(node.state = 'frozen') THEN 'scope_frozen'
                        WHEN count(*) < cardinality(path.scope_ids) OR bool_or(node.state <> 'active' OR node.expires_at <= moment) THEN 'scope_closed'
                    END AS code
                FROM ledger.scopes AS node
                WHERE node.scope_id = ANY (path.scope_ids)
                OFFSET 0) AS stopped ON true
            CROSS JOIN LATERAL (
                SELECT (path.known_revision = stopped.revision AND path.known_from <= moment AND moment < path.known_until) IS TRUE AS is_good
                OFFSET 0) AS memory
            LEFT JOIN LATERAL (
                SELECT array_agg(account_id ORDER BY place) AS accounts,
                    array_agg(asset_id ORDER BY place) FILTER (WHERE next_asset IS DISTINCT FROM asset_id) AS assets,
                    array_agg(place::integer ORDER BY place) FILTER (WHERE next_asset IS DISTINCT FROM asset_id) AS ends,
                    coalesce(max(window_start), '-infinity') AS good_from, coalesce(min(window_end), 'infinity') AS good_until
                FROM (
                    SELECT *, row_number() OVER by_asset AS place, lead(asset_id) OVER by_asset AS next_asset
                    FROM (
                        SELECT 0 AS depth, cash.account_id, cash.asset_id, NULL::timestamptz AS window_start, NULL::timestamptz AS window_end
                        FROM ledger.balances AS cash
                        WHERE cash.account_id = ANY (path.funding_accounts)
                        UNION ALL
                        SELECT array_position(path.scope_ids, lim.scope_id), spot.account_id, lim.asset_id,
                            CASE WHEN lim.window_kind <> 'ever' THEN spot.window_start END,
                            -- Where clocks change at midnight a day may end before its nominal end, but
                            -- always at a quarter of an hour.
                            CASE
                                WHEN lim.time_zone = 'UTC' OR lim.window_kind IN ('ever', 'minute', 'hour') THEN ledger.window_end(lim.window_kind, lim.time_zone, spot.window_start)
                                ELSE date_bin('15 minutes', moment, '2000-01-01 00:00+00') + interval '15 minutes'
                            END
                        FROM ledger.limits AS lim
                        LEFT JOIN ledger.limit_windows AS spot ON spot.limit_id = lim.limit_id AND spot.window_start = ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at)
                        WHERE lim.scope_id = ANY (path.scope_ids) AND lim.closed_at IS NULL) AS found
                    WINDOW by_asset AS (ORDER BY asset_id, depth, account_id)) AS ordered
                WHERE NOT memory.is_good
                OFFSET 0) AS spots ON true
            ORDER BY asked.place
        LOOP
            IF NOT fresh.is_good AND array_position(fresh.accounts, NULL) IS NOT NULL THEN
                FOR missing IN
                    SELECT * FROM ledger.open_windows(
                        (SELECT array_agg(DISTINCT lim.limit_id)
                        FROM unnest(p_paths, p_path_versions) AS asked (path_id, version)
                        JOIN ledger.spend_paths AS path ON path.path_id = asked.path_id AND path.version = asked.version
                        CROSS JOIN LATERAL unnest(path.scope_ids) AS scope (scope_id)
                        JOIN ledger.limits AS lim ON lim.scope_id = scope.scope_id AND lim.closed_at IS NULL
                        LEFT JOIN ledger.limit_windows AS spot ON spot.limit_id = lim.limit_id AND spot.window_start = ledger.window_start(lim.window_kind, lim.time_zone, moment, lim.opened_at)
                        WHERE spot.limit_id IS NULL),
                        p_lane, moment)
                LOOP
                    -- A grant is a fact of its own: the call that needed it may be a repeat or refused.
                    p_facts := p_facts || ledger.grant_fact(moment, missing.limit_id, missing.window_start);
                    p_operations := p_operations || 'grant'::text;
                    p_ordinals := p_ordinals || 0;
                    p_contents := p_contents || '\x'::bytea;
                    accepted := accepted || cardinality(p_facts);
                    records := records || format(
                        '{"v":1,"op":"grant","fact":"%s","ordinal":0,"time":%s,"limit":%s,"transfers":[[%s,%s,%s]]}',
                        p_facts[cardinality(p_facts)], ledger.microseconds(moment), missing.limit_id, missing.source_account, missing.window_account, missing.quanta);
                END LOOP;
                path_accounts := '{}';
                run_assets := '{}';
                run_ends := '{}';
                path_count := 0;
                learned := '{}';
                learned_revisions := '{}';
                learned_from := '{}';
                learned_until := '{}';
                CONTINUE paths;
            END IF;
            path_count := path_count + 1;
            path_codes[path_count] := fresh.code;
            path_base[path_count] := cardinality(path_accounts);
            path_first[path_count] := cardinality(run_assets) + 1;
            path_accounts := path_accounts || fresh.accounts;
            run_assets := run_assets || fresh.assets;
            run_ends := run_ends || fresh.ends;
            path_last[path_count] := cardinality(run_assets);
            IF NOT fresh.is_good AND fresh.accounts IS NOT NULL AND fresh.code IS NULL THEN
                learned := learned || path_count;
                learned_revisions := learned_revisions || fresh.revision;
                learned_from := learned_from || fresh.good_from;
                learned_until := learned_until || fresh.good_until;
            END IF;
        END LOOP;
        EXIT paths;
    END LOOP;
    IF learned <> '{}' THEN
        -- Nobody waits for a memory: a path that is being changed is learned another time.
        UPDATE ledger.spend_paths AS path
        SET known_accounts = path_accounts[path_base[new.place] + 1:path_base[new.place] + run_ends[path_last[new.place]]],
            known_assets = run_assets[path_first[new.place]:path_last[new.place]], known_ends = run_ends[path_first[new.place]:path_last[new.place]],
            known_revision = new.revision, known_from = new.good_from, known_until = new.good_until
        FROM unnest(learned, learned_revisions, learned_from, learned_until) AS new (place, revision, good_from, good_until)
        CROSS JOIN LATERAL (SELECT FROM ledger.spend_paths AS s WHERE s.path_id = p_paths[new.place] AND s.version = p_path_versions[new.place] FOR NO KEY UPDATE SKIP LOCKED) AS free
        WHERE path.path_id = p_paths[new.place] AND path.version = p_path_versions[new.place];
    END IF;

    -- To an extension its hold is the path: it grows in the windows of its placement. A
    -- heartbeat (an extension without amounts) passes a frozen scope; growth does not.
    IF has_extensions THEN
        FOR fresh IN
            SELECT asked.op, hold.part_accounts AS accounts, hold.part_assets AS assets,
                (SELECT array_agg(place) FROM generate_subscripts(hold.part_assets, 1) AS place) AS ends,
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
            path_base[path_count] := cardinality(path_accounts);
            path_first[path_count] := cardinality(run_assets) + 1;
            path_accounts := path_accounts || fresh.accounts;
            run_assets := run_assets || fresh.assets;
            run_ends := run_ends || fresh.ends;
            path_last[path_count] := cardinality(run_assets);
        END LOOP;
    END IF;

    -- What the operations take by runs, and in all from each account: the one that is named, or
    -- all of the path that count the asset. In the plain case none is named, and the amounts of an
    -- operation come in the order of their assets, each once; then that is all there is to say.
    SELECT array_agg(op), array_agg(asset), array_agg(amount), array_agg(first), array_agg(last), coalesce(bool_and(is_plain), false)
    INTO taken_ops, taken_assets, taken_amounts, taken_first, taken_last, is_together
    FROM (
        SELECT asked.op, asked.asset, asked.amount, run.first, run.last,
            asked.account IS NULL AND asked.amount BETWEEN 1 AND 4611686018427387904 AND run.first IS NOT NULL
            AND (asked.op > asked.op_before OR asked.asset > asked.asset_before) AS is_plain
        -- Beside each the one before.
        FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts, 0 || p_amount_ops, 0::smallint || p_amount_assets)
            AS asked (op, asset, account, amount, op_before, asset_before)
        LEFT JOIN LATERAL (
            SELECT path_base[p_path_of[asked.op]] + CASE WHEN run_at > path_first[p_path_of[asked.op]] THEN run_ends[run_at - 1] ELSE 0 END + 1 AS first,
                path_base[p_path_of[asked.op]] + run_ends[run_at] AS last
            FROM generate_series(path_first[p_path_of[asked.op]], path_last[p_path_of[asked.op]]) AS along (run_at)
            WHERE run_assets[run_at] = asked.asset) AS run ON asked.account IS NULL OR p_operations[asked.op] = 'extend'
        -- Money needs an account; limits are taken where there are any.
        WHERE asked.amount <> 0 AND (run.first IS NOT NULL OR asked.asset < 10 OR asked.amount < 0 OR asked.account IS NOT NULL)) AS found;
    SELECT array_agg(account_id) AS accounts, array_agg(quanta) AS quanta, max(quanta) AS most
    INTO wanted
    FROM (
        SELECT account_id, least(sum(quanta), 4611686018427387905)::bigint AS quanta
        FROM (
            SELECT unnest(flat.accounts[first:last]) AS account_id, quanta
            FROM (SELECT path_accounts || '{}' AS accounts OFFSET 0) AS flat
            CROSS JOIN (
                SELECT first, last, least(sum(amount), 4611686018427387905)::bigint AS quanta
                FROM unnest(taken_first, taken_last, taken_amounts) AS taken (first, last, amount)
                GROUP BY first, last
                OFFSET 0) AS run
            UNION ALL
            SELECT account_id, 0 FROM unnest(p_amount_accounts) AS named (account_id) WHERE account_id IS NOT NULL) AS taken
        GROUP BY account_id
        ORDER BY account_id) AS summed;

    -- Locked and read in one: a row that another writer changed meanwhile comes in its newest
    -- version. (What else a statement reads is as of its begin, so nothing else is read here.)
    SELECT
        array_agg(b.account_id) AS accounts, array_agg(b.place) AS places, max(b.last_time) AS last_time,
        coalesce(bool_or(b.state <> 'active' OR b.remainder < wanted.quanta[width_bucket(b.account_id, wanted.accounts)]), false) AS is_short
    INTO locked
    FROM (
        SELECT s.account_id, s.ctid AS place, s.last_time, s.state, CASE WHEN s.no_overdraft THEN s.credits_posted - s.debits_posted - s.debits_pending END AS remainder
        FROM ledger.balances AS s
        WHERE s.account_id = ANY (wanted.accounts)
        ORDER BY s.account_id FOR NO KEY UPDATE) AS b;
    moment := greatest(moment, locked.last_time);
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

    -- All together, where nothing can be refused.
    is_together := is_together AND NOT has_extensions AND NOT 'capture' = ANY (p_fates)
        AND array_remove(codes, NULL) = '{}' AND array_remove(path_codes, NULL) = '{}'
        AND p_lowest >= lane.first_id AND p_highest < lane.last_id AND p_highest <= newest_id
        AND locked.accounts = wanted.accounts AND NOT locked.is_short AND wanted.most <= 4611686018427387904
        AND NOT EXISTS (SELECT FROM unnest(p_deadlines) AS d (deadline) WHERE deadline < moment);
    IF is_together THEN
        microseconds := ledger.microseconds(moment);
        SELECT array_agg(
            '{"v":1,"op":"place","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op]
            || ',"time":' || microseconds || ',"expires":' || ledger.microseconds(p_expiries[op])
            || ',"fate":"' || p_fates[op] || '","parts":[' || parts || '],"meta":' || p_metas[op] || '}' ORDER BY op)
        INTO formed
        FROM (
            SELECT op, string_agg('[' || array_to_string(flat.accounts[first:last], ',' || amount || '],[') || ',' || amount || ']', ',' ORDER BY place) AS parts
            FROM (SELECT path_accounts || '{}' AS accounts OFFSET 0) AS flat
            CROSS JOIN unnest(taken_ops, taken_amounts, taken_first, taken_last) WITH ORDINALITY AS taken (op, amount, first, last, place)
            GROUP BY op) AS taken;
        -- A hold of nothing is not among them.
        is_together := cardinality(formed) = n;
    END IF;
    IF is_together THEN
        accepted := accepted || ARRAY(SELECT generate_series(1, n));
        records := records || formed;
        -- Each row where it was locked, and its amount by a search among the sorted accounts: half
        -- of what a join costs. (A record's fields are flat; an array variable would be copied for each row.)
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + wanted.quanta[width_bucket(b.account_id, wanted.accounts)], last_time = moment
        WHERE b.ctid = ANY (locked.places);
        GET DIAGNOSTICS written = ROW_COUNT;
        touched := cardinality(locked.accounts);
    ELSE
        SELECT
            array_agg(b.account_id), array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END),
            array_agg(b.asset_id), array_agg(b.state), array_agg(0::numeric)
        INTO account_ids, available, assets, states, deltas
        FROM (SELECT * FROM ledger.balances WHERE account_id = ANY (wanted.accounts) ORDER BY account_id) AS b;

        -- What each operation takes, from which account: named directly, or all of its path that
        -- count the asset. One part for each account, however often it was asked of; more than a
        -- transfer may move is refused below, so the sum is cut where it could overflow.
        SELECT array_agg(op), array_agg(account_id), array_agg(asset), array_agg(amount)
        INTO part_ops, part_accounts, part_assets, part_amounts
        FROM (
            SELECT op, account_id, asset, least(sum(amount), 4611686018427387905)::bigint AS amount
            FROM (
                SELECT asked.op, asked.asset, asked.amount,
                    -- What is named and the money come first, then the limits, root first.
                    CASE WHEN p_operations[asked.op] = 'place' AND (asked.asset < 10 OR asked.account IS NOT NULL) THEN 0 ELSE spot.place END AS depth,
                    CASE WHEN spot.place IS NOT NULL THEN path_accounts[spot.place] WHEN p_operations[asked.op] = 'place' THEN asked.account END AS account_id
                FROM unnest(p_amount_ops, p_amount_assets, p_amount_accounts, p_amounts) AS asked (op, asset, account, amount)
                LEFT JOIN LATERAL (
                    SELECT place
                    FROM generate_series(path_first[p_path_of[asked.op]], path_last[p_path_of[asked.op]]) AS along (run_at)
                    CROSS JOIN LATERAL generate_series(
                        path_base[p_path_of[asked.op]] + CASE WHEN run_at > path_first[p_path_of[asked.op]] THEN run_ends[run_at - 1] ELSE 0 END + 1,
                        path_base[p_path_of[asked.op]] + run_ends[run_at]) AS run (place)
                    WHERE run_assets[run_at] = asked.asset) AS spot ON asked.account IS NULL OR p_operations[asked.op] = 'extend'
                -- Money needs an account; limits are taken where there are any.
                WHERE asked.amount <> 0 AND (spot.place IS NOT NULL OR asked.asset < 10 OR asked.amount < 0 OR (asked.account IS NOT NULL AND p_operations[asked.op] = 'place'))) AS resolved
            GROUP BY op, account_id, asset, amount < 0
            ORDER BY op, min(depth), account_id) AS ordered;

        -- Where each part's account stands in these arrays: a search in the sorted ids; NULL: unknown.
        -- The concatenation makes a flat copy (PL/pgSQL's own would be copied for each search).
        SELECT array_agg(CASE WHEN flat.ids[place] = account_id THEN place END)
        INTO part_index
        FROM (SELECT account_ids || '{}' AS ids OFFSET 0) AS flat
        CROSS JOIN LATERAL (SELECT id AS account_id, width_bucket(id, flat.ids) AS place FROM unnest(part_accounts) AS u (id) OFFSET 0) AS searched;

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
        END IF;
    END IF;

    IF written <> touched THEN
        RAISE EXCEPTION 'wrote % of % accounts', written, touched USING ERRCODE = 'TW009';
    END IF;

    IF is_together THEN
        PERFORM ledger.append_batch_v2(
            lane, moment, p_facts, p_operations, p_ordinals, p_contents, accepted, records,
            NULL, NULL, lane.receipt_head, lane.receipt_sequence);
        RETURN QUERY
        WITH held AS MATERIALIZED (
            SELECT taken.op, ledger.joined(flat.accounts[first:last] ORDER BY place) AS accounts,
                ledger.joined(array_fill(asset, ARRAY[last - first + 1]) ORDER BY place) AS assets,
                ledger.joined(array_fill(amount, ARRAY[last - first + 1]) ORDER BY place) AS amounts
            FROM (SELECT path_accounts || '{}' AS accounts OFFSET 0) AS flat
            CROSS JOIN unnest(taken_ops, taken_assets, taken_amounts, taken_first, taken_last) WITH ORDINALITY AS taken (op, asset, amount, first, last, place)
            GROUP BY taken.op),
        stored AS (
            INSERT INTO ledger.holds (hold_id, state, placed_at, expires_at, on_expiry, payee_account, path_id, path_version, part_accounts, part_assets, part_held, part_captured, lane, meta)
            SELECT p_facts[op], 'open', moment, p_expiries[op], p_fates[op], p_payees[op], p_paths[p_path_of[op]], p_path_versions[p_path_of[op]],
                held.accounts, held.assets, held.amounts, array_fill(0::bigint, ARRAY[cardinality(held.accounts)]), p_lane, p_metas[op]
            FROM held
            ORDER BY op)
        SELECT op, 'ok', moment, p_expiries[op], held.accounts, held.assets, held.amounts, NULL::bigint, NULL::numeric, NULL::bigint, NULL::text, NULL::integer, NULL::bigint, NULL::bytea
        FROM held
        ORDER BY op;
        RETURN;
    END IF;

    IF placed > 0 THEN
        -- Out of flat copies of the arrays (the concatenations make them) a slice is cut in O(its size).
        INSERT INTO ledger.holds (hold_id, state, placed_at, expires_at, on_expiry, payee_account, path_id, path_version, part_accounts, part_assets, part_held, part_captured, lane, meta)
        SELECT p_facts[op], 'open', moment, p_expiries[op], p_fates[op], p_payees[op], p_paths[p_path_of[op]], p_path_versions[p_path_of[op]],
            flat.accounts[first_parts[op]:last_parts[op]], flat.assets[first_parts[op]:last_parts[op]], flat.amounts[first_parts[op]:last_parts[op]],
            array_fill(0::bigint, ARRAY[last_parts[op] - first_parts[op] + 1]), p_lane, p_metas[op]
        FROM (SELECT part_accounts || '{}' AS accounts, part_assets || '{}' AS assets, part_amounts || '{}' AS amounts OFFSET 0) AS flat
        CROSS JOIN unnest(accepted) AS a (op)
        WHERE p_operations[op] = 'place';
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
        PERFORM ledger.append_batch_v2(
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

-- Post entries; capture, void and expire holds. Same order of work as place_v2.
--   post:    transfers; a debited no_overdraft account must cover its net debit, else
--            'insufficient', unless the transfer names a fallback that bears what is short.
--   capture: transfers, of which those that debit a part of the hold are taken from it.
--            Above the hold they take an extension of all parts or none; then the fallback
--            bears the rest (the overrun). Never refused for funds.
--   void:    gives everything back.     expire: the same, but only once it is due; a hold
--            whose fate is 'capture' pays what is left to its payee instead.
-- From p_together_from operations on, plain entries that cannot refuse each other are decided
-- together, by sets; that is no other result, only less work.
CREATE FUNCTION ledger.post_v2(
    p_lane integer, p_epoch bigint, p_now timestamptz, p_lowest uuid, p_highest uuid,
    p_facts uuid[], p_operations text[], p_ordinals integer[], p_contents bytea[],
    p_deadlines timestamptz[], p_closes boolean[], p_receipt_roots bytea[], p_metas text[], p_rider_rows text[], p_rider text, p_dates date[],
    p_transfer_ops integer[], p_debits bigint[], p_credits bigint[], p_amounts bigint[], p_fallbacks bigint[], p_together_from integer
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
    flawed_ops integer[];             -- of each flawed transfer
    flaw_codes text[];
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
    is_together boolean := false;
    is_alone boolean[];               -- by operation: decided one by one although others are not
    alone integer := 0;
    refused bigint;
    contested boolean[];              -- by account; NULL: no
    contested_places integer[];
    debited_together numeric[];       -- by account: what all entries ask
    credited_together numeric[];
    microseconds bigint;
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

    -- Locked and read in one: an account that another writer changed meanwhile comes in its newest
    -- version. (What else a statement reads is as of its begin: nothing else is read here.)
    SELECT
        array_agg(b.account_id), array_agg(CASE WHEN b.no_overdraft THEN b.credits_posted - b.debits_posted - b.debits_pending END),
        array_agg(b.asset_id), array_agg(b.state), array_agg(b.money_role),
        array_agg(0::numeric), array_agg(0::numeric), array_agg(0::numeric), greatest(moment, max(b.last_time))
    INTO account_ids, available, assets, states, roles, pending_deltas, debit_deltas, credit_deltas, moment
    FROM (
        SELECT *
        FROM ledger.balances
        WHERE account_id = ANY (debits || credits || fallbacks || part_accounts)
        ORDER BY account_id FOR NO KEY UPDATE) AS b;
    moment := greatest(moment, p_now, lane.last_time);
    newest_id := ledger.identifier_floor(moment + interval '5 minutes');
    microseconds := ledger.microseconds(moment);

    -- Where each account stands in these arrays: a search in the sorted ids, of which the
    -- concatenation makes a flat copy (PL/pgSQL's own would be copied for each search). And what is
    -- wrong with a transfer whatever the balances are.
    SELECT array_agg(d_), array_agg(c_), array_agg(f_), array_agg(op) FILTER (WHERE flaw IS NOT NULL), array_agg(flaw) FILTER (WHERE flaw IS NOT NULL)
    INTO debit_index, credit_index, fallback_index, flawed_ops, flaw_codes
    FROM (
        SELECT op, d_, c_, f_,
            CASE
                WHEN flat.ids[d_] = debit AND flat.ids[c_] = credit AND assets[d_] = assets[c_] AND d_ <> c_ AND amount BETWEEN 1 AND 4611686018427387904
                    AND states[c_] <> 'closed' AND (states[d_] = 'active' OR p_operations[op] <> 'post')
                    AND (fallback = 0 OR (flat.ids[f_] = fallback AND assets[f_] = assets[c_] AND f_ <> c_)) THEN NULL
                WHEN (flat.ids[d_] = debit AND flat.ids[c_] = credit AND (fallback = 0 OR flat.ids[f_] = fallback)) IS NOT TRUE THEN 'account_unknown'
                WHEN assets[d_] <> assets[c_] OR (fallback <> 0 AND assets[f_] <> assets[c_]) THEN 'asset_mismatch'
                WHEN d_ = c_ OR (fallback <> 0 AND f_ = c_) THEN 'accounts_must_differ'
                WHEN amount NOT BETWEEN 1 AND 4611686018427387904 THEN 'amount_invalid'
                ELSE 'account_frozen'
            END AS flaw
        FROM (SELECT account_ids || '{}' AS ids OFFSET 0) AS flat
        CROSS JOIN LATERAL (
            SELECT op, debit, credit, amount, fallback, width_bucket(debit, flat.ids) AS d_, width_bucket(credit, flat.ids) AS c_, width_bucket(fallback, flat.ids) AS f_
            FROM unnest(transfer_ops, debits, credits, amounts, fallbacks) AS t (op, debit, credit, amount, fallback)
            OFFSET 0) AS searched) AS judged;
    -- From the last to the first: an operation's first flaw is the one it is refused for.
    FOR i IN REVERSE coalesce(cardinality(flawed_ops), 0)..1 LOOP
        flaws[flawed_ops[i]] := flaw_codes[i];
    END LOOP;
    IF has_holds THEN
        SELECT array_agg(width_bucket(id, flat.ids)) INTO part_index
        FROM (SELECT account_ids || '{}' AS ids OFFSET 0) AS flat CROSS JOIN unnest(part_accounts) AS id;
    END IF;

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

    -- Many plain entries: which of them need no look at what came before them in the batch? An
    -- account is contested when it could not pay all that the batch asks of it, were nothing credited
    -- to it. Entries that touch no contested account and move no client money are all as good as
    -- their form is, in whatever order: they are decided together. The others are decided one by
    -- one; between the two no account matters to both.
    is_together := NOT has_holds AND n >= p_together_from AND p_dates IS NULL;
    IF is_together THEN
        is_alone := array_fill(false, ARRAY[n]);
        SELECT array_agg(debited ORDER BY place), array_agg(credited ORDER BY place), array_agg(place) FILTER (WHERE available[place] < debited + feared)
        INTO debited_together, credited_together, contested_places
        FROM (
            SELECT place, sum(debited) AS debited, sum(credited) AS credited, sum(feared) AS feared
            FROM (
                SELECT d_ AS place, greatest(amount, 0) AS debited, 0::bigint AS credited, 0::bigint AS feared FROM unnest(debit_index, amounts) AS t (d_, amount) WHERE d_ > 0
                UNION ALL
                SELECT c_, 0, greatest(amount, 0), 0 FROM unnest(credit_index, amounts) AS t (c_, amount) WHERE c_ > 0
                UNION ALL
                SELECT f_, 0, 0, greatest(amount, 0) FROM unnest(fallback_index, fallbacks, amounts) AS t (f_, fallback, amount) WHERE fallback <> 0 AND f_ > 0
                UNION ALL
                SELECT place, 0, 0, 0 FROM generate_series(1, cardinality(account_ids)) AS each_one (place)) AS asked
            GROUP BY place) AS summed;
        FOR i IN 1..coalesce(cardinality(contested_places), 0) LOOP
            contested[contested_places[i]] := true;
        END LOOP;
        IF contested IS NOT NULL OR 0 <> ANY (roles) THEN
            FOR fresh IN
                SELECT DISTINCT op
                FROM unnest(transfer_ops, debit_index, credit_index, fallback_index) AS t (op, d_, c_, f_)
                WHERE (roles[d_] <> 0) <> (roles[c_] <> 0) OR contested[d_] OR contested[c_] OR contested[f_]
            LOOP
                is_alone[fresh.op] := true;
                alone := alone + 1;
            END LOOP;
        END IF;
        FOR fresh IN
            SELECT op FROM unnest(p_receipt_roots, p_rider_rows) WITH ORDINALITY AS t (root, rider_row, op) WHERE root IS NOT NULL OR rider_row IS NOT NULL
        LOOP
            is_alone[fresh.op] := true;
            alone := alone + 1;
        END LOOP;
        SELECT array_agg(refusal ORDER BY op), count(refusal)
        INTO codes, refused
        FROM (
            SELECT op, coalesce(codes[op], CASE
                WHEN is_alone[op] THEN NULL
                WHEN p_deadlines[op] < moment THEN 'deadline_passed'
                WHEN p_facts[op] < lane.first_id OR p_facts[op] >= lane.last_id OR p_facts[op] > newest_id THEN 'id_outside_window'
                ELSE flaws[op] END) AS refusal
            FROM generate_series(1, n) AS each_one (op) OFFSET 0) AS judged;
    END IF;

    part_at := array_fill(NULL::integer, ARRAY[coalesce(cardinality(account_ids), 0)]);
    owns := array_fill(NULL::integer, ARRAY[coalesce(cardinality(debits), 0)]);

    FOR op IN 1..CASE WHEN is_together AND alone = 0 THEN 0 ELSE n END LOOP
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
        CONTINUE WHEN codes[op] IS NOT NULL OR (is_together AND NOT is_alone[op]);

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
            || ',"time":' || microseconds
            || CASE WHEN p_dates[op] IS NOT NULL THEN ',"date":"' || to_char(p_dates[op], 'YYYY-MM-DD') || '"' ELSE '' END
            || ',"transfers":[' || substr(transfers_text, 2)
            || '],"taken":[' || substr(taken_text, 2) || '],"released":[' || substr(released_text, 2) || ']'
            || CASE WHEN p_operations[op] <> 'post' THEN ',"closes":' || (p_operations[op] <> 'capture' OR p_closes[op])::text ELSE '' END
            || CASE WHEN overruns[op] > 0 THEN ',"overrun":' || overruns[op] ELSE '' END
            || CASE WHEN p_receipt_roots[op] IS NOT NULL THEN ',"receipt":"' || encode(p_receipt_roots[op], 'hex') || '"' ELSE '' END
            || ',"meta":' || p_metas[op] || '}');
    END LOOP;

    IF is_together THEN
        IF alone + refused = 0 THEN
            debit_deltas := debited_together;
            credit_deltas := credited_together;
        ELSE
            -- What the loop did, and what all others do.
            SELECT array_agg(debited + debit_deltas[place] ORDER BY place), array_agg(credited + credit_deltas[place] ORDER BY place)
            INTO debit_deltas, credit_deltas
            FROM (
                SELECT place, sum(debited) AS debited, sum(credited) AS credited
                FROM (
                    SELECT d_ AS place, amount AS debited, 0::bigint AS credited FROM unnest(transfer_ops, debit_index, amounts) AS t (op, d_, amount) WHERE codes[op] IS NULL AND NOT is_alone[op]
                    UNION ALL
                    SELECT c_, 0, amount FROM unnest(transfer_ops, credit_index, amounts) AS t (op, c_, amount) WHERE codes[op] IS NULL AND NOT is_alone[op]
                    UNION ALL
                    SELECT place, 0, 0 FROM generate_series(1, cardinality(account_ids)) AS each_one (place)) AS moved
                GROUP BY place) AS summed;
        END IF;
        SELECT coalesce(array_agg(op ORDER BY op), '{}'), coalesce(array_agg(record ORDER BY op), '{}')
        INTO accepted, records
        FROM (
            SELECT op, '{"v":1,"op":"post","fact":"' || p_facts[op] || '","ordinal":' || p_ordinals[op] || ',"time":' || microseconds
                || ',"transfers":[' || coalesce(string_agg(leg, ',' ORDER BY place), '') || '],"taken":[],"released":[],"meta":' || p_metas[op] || '}' AS record
            FROM (
                SELECT op, place, '[' || debit || ',' || credit || ',' || amount || ']' AS leg
                FROM unnest(transfer_ops, p_debits, p_credits, p_amounts) WITH ORDINALITY AS t (op, debit, credit, amount, place)
                UNION ALL
                SELECT op, NULL, NULL FROM generate_series(1, n) AS each_one (op)) AS legs
            WHERE codes[op] IS NULL AND NOT is_alone[op]
            GROUP BY op
            UNION ALL
            SELECT op, record FROM unnest(accepted, records) AS t (op, record)) AS recorded;
    END IF;

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

        PERFORM ledger.append_batch_v2(
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

-- What lowered limits still owe is looked for often, and nearly no window owes anything.
CREATE INDEX windows_that_owe ON ledger.limit_windows (account_id) WHERE owed > 0;

REVOKE EXECUTE ON FUNCTION ledger.open_windows, ledger.append_batch_v2, ledger.place_v2, ledger.post_v2 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.place_v2, ledger.post_v2 TO tokenworks_posting;
