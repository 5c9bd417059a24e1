-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting
GRANT USAGE ON SCHEMA TO tokenworks_retention

TABLE factory.addenda
    -- Joules of calls, signed after the receipt that said pending.
    PARTITION BY RANGE (call_id)
    call_id uuid NOT NULL
    number integer NOT NULL
    supplier_id uuid NOT NULL
    organisation_id uuid NOT NULL
    model text NOT NULL
    tier text NOT NULL
    energy_uj bigint NOT NULL
    prefill_uj bigint NOT NULL
    decode_uj bigint NOT NULL
    method text NOT NULL
    is_measured boolean NOT NULL
    is_whole boolean NOT NULL
    co2e_ug bigint
    electricity_quanta bigint
    input_tokens bigint NOT NULL
    output_tokens bigint NOT NULL
    charge_quanta bigint NOT NULL
    payable_quanta bigint NOT NULL
    ended_at timestamp with time zone NOT NULL
    issued_at timestamp with time zone NOT NULL
    jws text NOT NULL
    context_uj bigint NOT NULL DEFAULT 0
    residency_uj bigint NOT NULL DEFAULT 0
    CONSTRAINT addenda_count_on CHECK (number > 0)
    CONSTRAINT addenda_pkey PRIMARY KEY (call_id, number)
    CREATE INDEX addenda_by_end ON ONLY factory.addenda USING btree (ended_at)
    CREATE TRIGGER addenda_append_only BEFORE DELETE OR UPDATE ON factory.addenda FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE factory.intervals
    -- Energy by meter and interval, each revision for ever.
    PARTITION BY RANGE (interval_id)
    interval_id uuid NOT NULL
    revision integer NOT NULL
    meter_id uuid NOT NULL
    supplier_id uuid NOT NULL
    start_us bigint NOT NULL
    end_us bigint NOT NULL
    metered_uj bigint NOT NULL
    unattributed_uj bigint NOT NULL
    unplaced_uj bigint NOT NULL
    covered_us bigint NOT NULL
    methods text[] NOT NULL
    is_measured boolean NOT NULL
    calls integer NOT NULL
    input_tokens bigint NOT NULL
    output_tokens bigint NOT NULL
    faults json NOT NULL
    computed_at timestamp with time zone NOT NULL
    posted_at timestamp with time zone
    CONSTRAINT intervals_are_spans CHECK (start_us < end_us AND covered_us >= 0 AND covered_us <= (end_us - start_us))
    CONSTRAINT intervals_conserve CHECK (metered_uj >= 0 AND unattributed_uj >= unplaced_uj AND unattributed_uj <= metered_uj AND unplaced_uj >= 0)
    CONSTRAINT intervals_pkey PRIMARY KEY (interval_id, revision)
    CREATE INDEX intervals_by_meter ON ONLY factory.intervals USING btree (meter_id, start_us, revision)
    CREATE INDEX intervals_to_post ON ONLY factory.intervals USING btree (computed_at) WHERE (posted_at IS NULL)
    CREATE TRIGGER intervals_posted_once BEFORE UPDATE ON factory.intervals FOR EACH ROW EXECUTE FUNCTION factory.refuse_other_change()
    CREATE TRIGGER intervals_stay BEFORE DELETE ON factory.intervals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT, UPDATE (posted_at) TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE factory.meters
    -- Power meters of suppliers, and what an operator says of their electricity.
    meter_id uuid NOT NULL
    supplier_id uuid NOT NULL
    name text NOT NULL
    source text NOT NULL
    settings json NOT NULL
    interval_us bigint NOT NULL
    gap_max_us bigint NOT NULL
    power_max_uw bigint NOT NULL
    devices text[] NOT NULL
    boundary text NOT NULL
    price_nano_per_kwh bigint
    co2e_mg_per_kwh bigint
    co2e_source text
    co2e_method text
    actor text NOT NULL
    created_at timestamp with time zone NOT NULL
    retired_at timestamp with time zone
    CONSTRAINT meters_factor_has_its_source CHECK ((co2e_mg_per_kwh IS NULL) = (co2e_source IS NULL) AND (co2e_mg_per_kwh IS NULL) = (co2e_method IS NULL))
    CONSTRAINT meters_figures_positive CHECK (price_nano_per_kwh >= 0 AND co2e_mg_per_kwh >= 0 AND power_max_uw > 0)
    CONSTRAINT meters_gap_in_range CHECK (gap_max_us >= 1000 AND gap_max_us <= '3600000000'::bigint)
    CONSTRAINT meters_interval_in_range CHECK (interval_us >= 1000000 AND interval_us <= '3600000000'::bigint)
    CONSTRAINT meters_method_known CHECK (co2e_method = ANY (ARRAY['location_based'::text, 'market_based'::text]))
    CONSTRAINT meters_pkey PRIMARY KEY (meter_id)
    CONSTRAINT meters_source_known CHECK (source = ANY (ARRAY['model'::text, 'rapl'::text, 'nvml'::text, 'dcgm'::text, 'push'::text]))
    CREATE UNIQUE INDEX meters_one_of_a_supplier ON factory.meters USING btree (supplier_id) WHERE (retired_at IS NULL)
    GRANT INSERT, SELECT, UPDATE (retired_at) TO tokenworks_posting

TABLE factory.readers
    -- Who reads a meter, and until when nobody else may.
    meter_id uuid NOT NULL
    holder text NOT NULL
    host text NOT NULL
    leased_until timestamp with time zone NOT NULL
    CONSTRAINT readers_pkey PRIMARY KEY (meter_id)
    GRANT INSERT, SELECT, UPDATE (holder), UPDATE (host), UPDATE (leased_until) TO tokenworks_posting

TABLE factory.readings
    -- What meters said: a spool of some days.
    PARTITION BY RANGE (received_at)
    received_at timestamp with time zone NOT NULL
    reading_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY
    meter_id uuid NOT NULL
    at_us bigint NOT NULL
    device text NOT NULL
    quantity text NOT NULL
    value numeric(39,0)
    counter_range bigint
    CONSTRAINT readings_pkey PRIMARY KEY (received_at, reading_no)
    CONSTRAINT readings_quantity_known CHECK (quantity = ANY (ARRAY['power'::text, 'counter'::text, 'tokens'::text]))
    CREATE INDEX readings_by_time ON ONLY factory.readings USING btree (meter_id, at_us)
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE factory.shares
    -- What a call was given of an interval, by revision.
    PARTITION BY RANGE (interval_id)
    interval_id uuid NOT NULL
    revision integer NOT NULL
    call_id uuid NOT NULL
    organisation_id uuid NOT NULL
    energy_uj bigint NOT NULL
    prefill_uj bigint NOT NULL
    decode_uj bigint NOT NULL
    method text NOT NULL
    is_whole boolean NOT NULL
    context_uj bigint NOT NULL DEFAULT 0
    residency_uj bigint NOT NULL DEFAULT 0
    CONSTRAINT shares_method_known CHECK (method = ANY (ARRAY['timings'::text, 'vllm_metrics'::text, 'overlap'::text, 'step_phase'::text, 'step_phase_assumed'::text]))
    CONSTRAINT shares_parts_within CHECK (prefill_uj >= 0 AND decode_uj >= 0 AND context_uj >= 0 AND residency_uj >= 0 AND (prefill_uj + decode_uj + context_uj + residency_uj) <= energy_uj)
    CONSTRAINT shares_pkey PRIMARY KEY (interval_id, revision, call_id)
    CREATE INDEX shares_by_call ON ONLY factory.shares USING btree (call_id)
    CREATE TRIGGER shares_append_only BEFORE DELETE OR UPDATE ON factory.shares FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE factory.steps
    -- What engines did in each step: a spool of some days.
    PARTITION BY RANGE (received_at)
    received_at timestamp with time zone NOT NULL
    step_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY
    meter_id uuid NOT NULL
    name text NOT NULL
    start_us bigint NOT NULL
    end_us bigint NOT NULL
    phase text NOT NULL
    work json NOT NULL
    CONSTRAINT steps_are_spans CHECK (start_us < end_us)
    CONSTRAINT steps_phase_known CHECK (phase = ANY (ARRAY['prefill'::text, 'decode'::text, 'mixed'::text]))
    CONSTRAINT steps_pkey PRIMARY KEY (received_at, step_no)
    CREATE INDEX steps_by_time ON ONLY factory.steps USING btree (meter_id, start_us)
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE factory.unmetered_calls
    -- Calls whose energy is not known, with the reason.
    call_id uuid NOT NULL
    meter_id uuid NOT NULL
    reason text NOT NULL
    booked_at timestamp with time zone NOT NULL
    noted_at timestamp with time zone NOT NULL
    CONSTRAINT unmetered_calls_pkey PRIMARY KEY (call_id, meter_id)
    CONSTRAINT unmetered_calls_reason_known CHECK (reason = ANY (ARRAY['not_metered'::text, 'readings_gone'::text]))
    CREATE INDEX unmetered_calls_by_end ON factory.unmetered_calls USING btree (booked_at)
    GRANT INSERT, SELECT TO tokenworks_posting

CREATE OR REPLACE FUNCTION factory.ensure_partitions_v1(p_now timestamp with time zone, p_keep_days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
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
$function$
-- may be called by: tokenworks_posting

CREATE OR REPLACE FUNCTION factory.refuse_other_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog'
AS $function$
BEGIN
    IF OLD.posted_at IS NOT NULL OR NEW.posted_at IS NULL OR (to_jsonb(NEW) - 'posted_at') <> (to_jsonb(OLD) - 'posted_at') THEN
        RAISE EXCEPTION 'an interval is posted once and nothing else of it changes' USING ERRCODE = 'TW030';
    END IF;
    RETURN NEW;
END
$function$
-- may be called by: the owner only
