-- Retention: a month of history leaves the database only after it was archived, and what is
-- needed to go on checking the books stays. See docs/internals/ledger.md, "Retention".

-- Version 2 of a checkpoint names the receipts' heads too and leaves accounts without any
-- movement out of its hash, so that a check can start from it. Version 1 stays as it was.
ALTER TABLE ledger.checkpoints ADD COLUMN version smallint NOT NULL DEFAULT 1;

CREATE FUNCTION ledger.add_checkpoint_v2(p_now timestamptz, p_lanes text, p_balances_hash bytea, p_signature text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO ledger.checkpoints (taken_at, lanes, balances_hash, signature, version)
    VALUES (p_now, p_lanes, p_balances_hash, p_signature, 2) ON CONFLICT DO NOTHING;
$$;

CREATE TABLE ledger.retained_tables (
    name text PRIMARY KEY,        -- partitions are called <name>_YYYY_MM
    order_columns text[] NOT NULL -- a total order of its rows
);
COMMENT ON TABLE ledger.retained_tables IS 'Tables that follow the months of ledger.partitions, and leave with them.';
INSERT INTO ledger.retained_tables (name, order_columns) VALUES
    ('ledger.entries', '{lane,batch,position}'), ('ledger.holds', '{hold_id}'), ('ledger.batches', '{lane,batch}'),
    ('gateway.calls', '{call_id}'), ('gateway.attempts', '{call_id,ordinal}');

CREATE TABLE ledger.archives (
    starts_at timestamptz PRIMARY KEY,
    ends_at timestamptz NOT NULL,
    dropped_at timestamptz NOT NULL,
    dropped_by text NOT NULL,
    folder text NOT NULL,            -- where the files were written; they may have moved since
    files jsonb NOT NULL,            -- by table: file, rows, bytes, sha256
    batches jsonb NOT NULL,          -- by lane: first and last archived batch, hash of the last
    recorded_last timestamptz,       -- of its records; later than ends_at for calls that ended after midnight
    lanes text NOT NULL,             -- every lane's heads at the cut, as in a checkpoint of version 2
    balances_hash bytea NOT NULL,    -- of all balances at the cut, likewise
    CONSTRAINT archive_is_a_span CHECK (starts_at < ends_at)
);
COMMENT ON TABLE ledger.archives IS 'Months that were archived and dropped; the cut is the moment of the drop.';

CREATE TABLE ledger.archive_balances (
    starts_at timestamptz NOT NULL REFERENCES ledger.archives,
    account_id bigint NOT NULL,
    debits_pending numeric(39, 0) NOT NULL,
    credits_pending numeric(39, 0) NOT NULL,
    debits_posted numeric(39, 0) NOT NULL,
    credits_posted numeric(39, 0) NOT NULL,
    PRIMARY KEY (starts_at, account_id)
);
COMMENT ON TABLE ledger.archive_balances IS 'The counters of every account that ever moved, at the cut.';

CREATE TRIGGER archives_append_only BEFORE UPDATE OR DELETE ON ledger.archives FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER archives_not_truncated BEFORE TRUNCATE ON ledger.archives FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER archive_balances_append_only BEFORE UPDATE OR DELETE ON ledger.archive_balances FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER archive_balances_not_truncated BEFORE TRUNCATE ON ledger.archive_balances FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- A clock that jumped back must not open an archived month again: its facts could be posted twice.
CREATE FUNCTION ledger.refuse_archived_month() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NEW.starts_at < (SELECT max(ends_at) FROM ledger.archives) THEN
        RAISE EXCEPTION 'the month from % on was archived and stays closed', NEW.starts_at USING ERRCODE = 'TW010';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER archived_month_stays_closed BEFORE INSERT ON ledger.partitions FOR EACH ROW EXECUTE FUNCTION ledger.refuse_archived_month();

-- Drop the oldest month. p_files says what was archived and verified: by table the file, its rows
-- and its SHA-256. Refused: TW010 no such month, or not one that may go; TW011 a hold is open;
-- TW012 the tables are not what was archived.
--
-- First only writers to the old month wait (SHARE ROW EXCLUSIVE on its partitions), while rows are
-- counted; the parents are locked for the drop alone. A lock that does not come at once is given
-- up (lock_timeout below deadlock_timeout): it is always this function that gives way.
CREATE FUNCTION ledger.drop_month_v1(p_starts timestamptz, p_now timestamptz, p_folder text, p_files jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '200ms' AS $$
DECLARE
    month ledger.partitions;
    retained ledger.retained_tables;
    suffix text := to_char(p_starts AT TIME ZONE 'UTC', 'YYYY_MM');
    skew_max_ms integer;
    found_rows bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rows are counted under locks: read committed only' USING ERRCODE = 'TW010';
    END IF;
    PERFORM pg_advisory_xact_lock(7810), pg_advisory_xact_lock(7813);  -- no partition is made meanwhile
    SELECT * INTO month FROM ledger.partitions WHERE starts_at = p_starts;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no month from % on', p_starts USING ERRCODE = 'TW010';
    END IF;
    IF EXISTS (SELECT FROM ledger.partitions WHERE starts_at < p_starts) THEN
        RAISE EXCEPTION 'the month from % on is not the oldest one', p_starts USING ERRCODE = 'TW010';
    END IF;
    SELECT clock_skew_max_ms INTO skew_max_ms FROM ledger.settings;
    IF month.ends_at > p_now - interval '1 day' OR (skew_max_ms IS NOT NULL AND month.ends_at > clock_timestamp() - interval '1 day')
        OR NOT EXISTS (SELECT FROM ledger.partitions WHERE starts_at > p_starts) THEN
        RAISE EXCEPTION 'the month from % on has not been over for a day', p_starts USING ERRCODE = 'TW010';
    END IF;

    FOR retained IN SELECT * FROM ledger.retained_tables ORDER BY name LOOP
        CONTINUE WHEN to_regclass(retained.name || '_' || suffix) IS NULL;
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', retained.name || '_' || suffix);
    END LOOP;

    EXECUTE format('SELECT count(*) FROM ledger.holds_%s WHERE state = ''open''', suffix) INTO found_rows;
    IF found_rows > 0 THEN
        RAISE EXCEPTION '% holds of the month from % on are open', found_rows, p_starts USING ERRCODE = 'TW011';
    END IF;
    FOR retained IN SELECT * FROM ledger.retained_tables ORDER BY name LOOP
        found_rows := 0;
        IF to_regclass(retained.name || '_' || suffix) IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM %s', retained.name || '_' || suffix) INTO found_rows;
        END IF;
        IF found_rows IS DISTINCT FROM (p_files -> retained.name ->> 'rows')::bigint
            OR p_files -> retained.name ->> 'sha256' !~ '^[0-9a-f]{64}$' THEN
            RAISE EXCEPTION '% has % rows in the month from % on, not what was archived', retained.name, found_rows, p_starts USING ERRCODE = 'TW012';
        END IF;
    END LOOP;

    -- The cut: heads and balances of one snapshot. Nothing of this month is younger, its writers wait.
    EXECUTE format($cut$
        WITH heads AS (
            SELECT '[' || coalesce(string_agg(format('[%%s,%%s,"%%s",%%s,"%%s"]', lane, batch, encode(head_hash, 'hex'), receipt_sequence, encode(receipt_head, 'hex')), ',' ORDER BY lane), '') || ']' AS lanes
            FROM ledger.lanes
        ), counters AS (
            SELECT account_id, debits_pending, credits_pending, debits_posted, credits_posted
            FROM ledger.balances
            WHERE debits_pending + credits_pending + debits_posted + credits_posted > 0
        ), hashed AS (
            SELECT sha256(convert_to(E'tokenworks-balances-v2\n' || coalesce(string_agg(
                account_id || ' ' || debits_pending || ' ' || credits_pending || ' ' || debits_posted || ' ' || credits_posted || E'\n', '' ORDER BY account_id), ''), 'UTF8')) AS hash
            FROM counters
        ), spans AS (
            SELECT coalesce(jsonb_agg(jsonb_build_array(lane, first, last, hash) ORDER BY lane), '[]') AS batches
            FROM (
                SELECT DISTINCT ON (lane) lane, min(batch) OVER (PARTITION BY lane) AS first, batch AS last, encode(hash, 'hex') AS hash
                FROM ledger.batches_%1$s
                ORDER BY lane, batch DESC) AS lasts
        ), archived AS (
            INSERT INTO ledger.archives (starts_at, ends_at, dropped_at, dropped_by, folder, files, batches, recorded_last, lanes, balances_hash)
            SELECT $1, $2, $3, session_user, $4, $5, spans.batches, (SELECT max(recorded_at) FROM ledger.entries_%1$s), heads.lanes, hashed.hash
            FROM heads, hashed, spans
        )
        INSERT INTO ledger.archive_balances
        SELECT $1, account_id, debits_pending, credits_pending, debits_posted, credits_posted FROM counters
        $cut$, suffix)
    USING month.starts_at, month.ends_at, p_now, p_folder, p_files;

    -- After this point only the drop is left, and it is short.
    FOR retained IN SELECT * FROM ledger.retained_tables ORDER BY name LOOP
        EXECUTE format('DROP TABLE IF EXISTS %s', retained.name || '_' || suffix);
    END LOOP;
    DELETE FROM ledger.partitions WHERE starts_at = p_starts;
END
$$;

REVOKE EXECUTE ON FUNCTION ledger.add_checkpoint_v2, ledger.drop_month_v1, ledger.refuse_archived_month FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.add_checkpoint_v2 TO tokenworks_posting;
GRANT EXECUTE ON FUNCTION ledger.drop_month_v1, ledger.microseconds, ledger.identifier_floor TO tokenworks_retention;
GRANT SELECT ON ledger.retained_tables, ledger.archives, ledger.archive_balances TO tokenworks_posting, tokenworks_retention;
GRANT USAGE ON SCHEMA gateway TO tokenworks_retention;
GRANT SELECT ON gateway.calls, gateway.attempts TO tokenworks_retention;
