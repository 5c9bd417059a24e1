-- Step logs of engines, live: what each step did for which calls, and the parts of energy that only
-- they tell.

-- A spool like the readings: steps as they came, none overlapping another one of its meter.
CREATE TABLE factory.steps (
    received_at timestamptz NOT NULL,
    step_no bigint GENERATED ALWAYS AS IDENTITY,
    meter_id uuid NOT NULL,
    name text NOT NULL,
    start_us bigint NOT NULL,         -- the engine's own clock, since 1970
    end_us bigint NOT NULL,
    phase text NOT NULL,
    work json NOT NULL,               -- of each call: name, prefill, decode and context tokens
    CONSTRAINT steps_pkey PRIMARY KEY (received_at, step_no),
    CONSTRAINT steps_are_spans CHECK (start_us < end_us),
    CONSTRAINT steps_phase_known CHECK (phase IN ('prefill', 'decode', 'mixed'))
) PARTITION BY RANGE (received_at);
COMMENT ON TABLE factory.steps IS 'What engines did in each step: a spool of some days.';
CREATE INDEX steps_by_time ON factory.steps (meter_id, start_us);
GRANT SELECT, INSERT ON factory.steps TO tokenworks_posting;

ALTER TABLE factory.shares
    ADD COLUMN context_uj bigint NOT NULL DEFAULT 0,    -- attention over what was read and written before
    ADD COLUMN residency_uj bigint NOT NULL DEFAULT 0,  -- of the idle floor, while the call was in the engine
    DROP CONSTRAINT shares_parts_within,
    DROP CONSTRAINT shares_method_known,
    ADD CONSTRAINT shares_parts_within CHECK (
        prefill_uj >= 0 AND decode_uj >= 0 AND context_uj >= 0 AND residency_uj >= 0 AND prefill_uj + decode_uj + context_uj + residency_uj <= energy_uj),
    ADD CONSTRAINT shares_method_known CHECK (method IN ('timings', 'vllm_metrics', 'overlap', 'step_phase', 'step_phase_assumed'));
ALTER TABLE factory.addenda
    ADD COLUMN context_uj bigint NOT NULL DEFAULT 0,
    ADD COLUMN residency_uj bigint NOT NULL DEFAULT 0;

-- As before, for both spools.
CREATE OR REPLACE FUNCTION factory.ensure_partitions_v1(p_now timestamptz, p_keep_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    month ledger.partitions;
    retained ledger.retained_tables;
    spool text;
    suffix text;
    day timestamptz;
    old regclass;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7813);
    FOR month IN SELECT * FROM ledger.partitions ORDER BY starts_at LOOP
        suffix := to_char(month.starts_at AT TIME ZONE 'UTC', 'YYYY_MM');
        FOR retained IN SELECT * FROM ledger.retained_tables WHERE name LIKE 'factory.%' ORDER BY name LOOP
            CONTINUE WHEN to_regclass(retained.name || '_' || suffix) IS NOT NULL;
            EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', retained.name || '_' || suffix, retained.name, month.first_id, month.last_id);
            made := made + 1;
        END LOOP;
    END LOOP;
    FOREACH spool IN ARRAY ARRAY['readings', 'steps'] LOOP
        FOR step IN -1 .. 1 LOOP
            day := date_trunc('day', p_now AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + step * interval '1 day';
            suffix := to_char(day AT TIME ZONE 'UTC', 'YYYY_MM_DD');
            CONTINUE WHEN to_regclass(format('factory.%s_%s', spool, suffix)) IS NOT NULL;
            EXECUTE format('CREATE TABLE factory.%s_%s PARTITION OF factory.%s FOR VALUES FROM (%L) TO (%L)', spool, suffix, spool, day, day + interval '1 day');
            made := made + 1;
        END LOOP;
        suffix := spool || '_' || to_char((p_now AT TIME ZONE 'UTC') - p_keep_days * interval '1 day', 'YYYY_MM_DD');
        FOR old IN SELECT inhrelid FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = ('factory.' || spool)::regclass AND relname < suffix
        LOOP
            EXECUTE format('DROP TABLE %s', old);
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
