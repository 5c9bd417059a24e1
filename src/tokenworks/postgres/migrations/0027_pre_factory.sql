-- The token factory, live: meters of suppliers, their readings, the energy of intervals and of calls.
CREATE SCHEMA factory;

-- A meter never changes: whoever changes one retires it and adds another, so that each interval
-- and each addendum keeps the settings it was made with.
CREATE TABLE factory.meters (
    meter_id uuid NOT NULL,
    supplier_id uuid NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    settings json NOT NULL,           -- where and how it is read
    interval_us bigint NOT NULL,      -- how much time one posting is about
    gap_max_us bigint NOT NULL,
    power_max_uw bigint NOT NULL,     -- of one device
    devices text[] NOT NULL,          -- that must be there; empty: those that are
    boundary text NOT NULL,           -- what the meter sees, such as board, package, host, model of a process
    price_nano_per_kwh bigint,        -- of electricity, in the hub's currency; NULL: not known
    co2e_mg_per_kwh bigint,           -- of the grid; NULL: not known
    co2e_source text,                 -- who says so, for which place and year
    co2e_method text,                 -- location_based or market_based
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CONSTRAINT meters_pkey PRIMARY KEY (meter_id),
    CONSTRAINT meters_source_known CHECK (source IN ('model', 'rapl', 'nvml', 'dcgm', 'push')),
    CONSTRAINT meters_interval_in_range CHECK (interval_us BETWEEN 1000000 AND 3600000000),
    CONSTRAINT meters_gap_in_range CHECK (gap_max_us BETWEEN 1000 AND 3600000000),
    CONSTRAINT meters_factor_has_its_source CHECK ((co2e_mg_per_kwh IS NULL) = (co2e_source IS NULL) AND (co2e_mg_per_kwh IS NULL) = (co2e_method IS NULL)),
    CONSTRAINT meters_method_known CHECK (co2e_method IN ('location_based', 'market_based')),
    CONSTRAINT meters_figures_positive CHECK (price_nano_per_kwh >= 0 AND co2e_mg_per_kwh >= 0 AND power_max_uw > 0)
);
COMMENT ON TABLE factory.meters IS 'Power meters of suppliers, and what an operator says of their electricity.';
CREATE UNIQUE INDEX meters_one_of_a_supplier ON factory.meters (supplier_id) WHERE retired_at IS NULL;

-- A spool: readings in the order in which they came, wrong ones included; a partition is a day of
-- arrival and is dropped after some days, because what they said stands in the intervals.
CREATE TABLE factory.readings (
    received_at timestamptz NOT NULL,
    reading_no bigint GENERATED ALWAYS AS IDENTITY,
    meter_id uuid NOT NULL,
    at_us bigint NOT NULL,            -- the meter's own clock, since 1970
    device text NOT NULL,
    quantity text NOT NULL,           -- power or counter; tokens: a counter of the engine, not of energy
    value numeric(39, 0),             -- microwatts, microjoules, or a count in millionths; NULL: no number
    counter_range bigint,             -- after so many microjoules the counter starts again
    CONSTRAINT readings_pkey PRIMARY KEY (received_at, reading_no),
    CONSTRAINT readings_quantity_known CHECK (quantity IN ('power', 'counter', 'tokens'))
) PARTITION BY RANGE (received_at);
COMMENT ON TABLE factory.readings IS 'What meters said: a spool of some days.';
CREATE INDEX readings_by_time ON factory.readings (meter_id, at_us);

-- What was metered in an interval, and how much of it no call used. A revision is a whole new
-- division; the books get the difference to the one before.
CREATE TABLE factory.intervals (
    interval_id uuid NOT NULL,        -- made from meter and start, so that it is the same for ever
    revision integer NOT NULL,
    meter_id uuid NOT NULL,
    supplier_id uuid NOT NULL,
    start_us bigint NOT NULL,
    end_us bigint NOT NULL,
    metered_uj bigint NOT NULL,
    unattributed_uj bigint NOT NULL,
    unplaced_uj bigint NOT NULL,      -- of the unattributed: counted over a gap that ends here, nobody knows when
    covered_us bigint NOT NULL,       -- validly metered, as a mean over the devices
    methods text[] NOT NULL,          -- how it was divided
    is_measured boolean NOT NULL,     -- false: the energy is a model
    calls integer NOT NULL,
    input_tokens bigint NOT NULL,     -- of those calls, by the part of their time in the interval
    output_tokens bigint NOT NULL,
    faults json NOT NULL,
    computed_at timestamptz NOT NULL,
    posted_at timestamptz,            -- NULL: claimed, and to be posted
    CONSTRAINT intervals_pkey PRIMARY KEY (interval_id, revision),
    CONSTRAINT intervals_conserve CHECK (metered_uj >= 0 AND unattributed_uj BETWEEN unplaced_uj AND metered_uj AND unplaced_uj >= 0),
    CONSTRAINT intervals_are_spans CHECK (start_us < end_us AND covered_us BETWEEN 0 AND end_us - start_us)
) PARTITION BY RANGE (interval_id);
COMMENT ON TABLE factory.intervals IS 'Energy by meter and interval, each revision for ever.';
CREATE INDEX intervals_by_meter ON factory.intervals (meter_id, start_us, revision);
CREATE INDEX intervals_to_post ON factory.intervals (computed_at) WHERE posted_at IS NULL;

CREATE TABLE factory.shares (
    interval_id uuid NOT NULL,
    revision integer NOT NULL,
    call_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    energy_uj bigint NOT NULL,
    prefill_uj bigint NOT NULL,
    decode_uj bigint NOT NULL,        -- what neither phase has is not told apart
    method text NOT NULL,
    is_whole boolean NOT NULL,        -- every moment of the call in this interval was validly metered
    CONSTRAINT shares_pkey PRIMARY KEY (interval_id, revision, call_id),
    CONSTRAINT shares_parts_within CHECK (prefill_uj >= 0 AND decode_uj >= 0 AND prefill_uj + decode_uj <= energy_uj),
    CONSTRAINT shares_method_known CHECK (method IN ('timings', 'vllm_metrics', 'overlap'))
) PARTITION BY RANGE (interval_id);
COMMENT ON TABLE factory.shares IS 'What a call was given of an interval, by revision.';
CREATE INDEX shares_by_call ON factory.shares (call_id);

-- The signed addenda of receipts; a correction is the next number and never an edit.
CREATE TABLE factory.addenda (
    call_id uuid NOT NULL,
    number integer NOT NULL,
    supplier_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    model text NOT NULL,
    tier text NOT NULL,
    energy_uj bigint NOT NULL,
    prefill_uj bigint NOT NULL,
    decode_uj bigint NOT NULL,
    method text NOT NULL,
    is_measured boolean NOT NULL,
    is_whole boolean NOT NULL,
    co2e_ug bigint,                   -- NULL: no grid factor was given
    electricity_quanta bigint,        -- what its energy cost by the meter's price; NULL: none was given
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    charge_quanta bigint NOT NULL,
    payable_quanta bigint NOT NULL,
    ended_at timestamptz NOT NULL,    -- of the call
    issued_at timestamptz NOT NULL,
    jws text NOT NULL,                -- its kid names the key, whose certificate is published
    CONSTRAINT addenda_pkey PRIMARY KEY (call_id, number),
    CONSTRAINT addenda_count_on CHECK (number > 0)
) PARTITION BY RANGE (call_id);
COMMENT ON TABLE factory.addenda IS 'Joules of calls, signed after the receipt that said pending.';
CREATE INDEX addenda_by_end ON factory.addenda (ended_at);

CREATE FUNCTION factory.refuse_other_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.posted_at IS NOT NULL OR NEW.posted_at IS NULL OR (to_jsonb(NEW) - 'posted_at') <> (to_jsonb(OLD) - 'posted_at') THEN
        RAISE EXCEPTION 'an interval is posted once and nothing else of it changes' USING ERRCODE = 'TW030';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER intervals_posted_once BEFORE UPDATE ON factory.intervals FOR EACH ROW EXECUTE FUNCTION factory.refuse_other_change();
CREATE TRIGGER intervals_stay BEFORE DELETE ON factory.intervals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER shares_append_only BEFORE UPDATE OR DELETE ON factory.shares FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER addenda_append_only BEFORE UPDATE OR DELETE ON factory.addenda FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();

INSERT INTO ledger.retained_tables (name, order_columns) VALUES
    ('factory.intervals', '{interval_id,revision}'), ('factory.shares', '{interval_id,revision,call_id}'), ('factory.addenda', '{call_id,number}');

-- Months follow the ledger's; days of readings are made from yesterday to tomorrow, and dropped.
CREATE FUNCTION factory.ensure_partitions_v1(p_now timestamptz, p_keep_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    month ledger.partitions;
    retained ledger.retained_tables;
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
    FOR step IN -1 .. 1 LOOP
        day := date_trunc('day', p_now AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + step * interval '1 day';
        suffix := to_char(day AT TIME ZONE 'UTC', 'YYYY_MM_DD');
        CONTINUE WHEN to_regclass('factory.readings_' || suffix) IS NOT NULL;
        EXECUTE format('CREATE TABLE factory.readings_%s PARTITION OF factory.readings FOR VALUES FROM (%L) TO (%L)', suffix, day, day + interval '1 day');
        made := made + 1;
    END LOOP;
    suffix := 'readings_' || to_char((p_now AT TIME ZONE 'UTC') - p_keep_days * interval '1 day', 'YYYY_MM_DD');
    FOR old IN SELECT inhrelid FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'factory.readings'::regclass AND relname < suffix
    LOOP
        EXECUTE format('DROP TABLE %s', old);
    END LOOP;
    RETURN made;
END
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA factory FROM PUBLIC;
GRANT USAGE ON SCHEMA factory TO tokenworks_posting, tokenworks_retention;
GRANT SELECT ON ALL TABLES IN SCHEMA factory TO tokenworks_posting;
GRANT INSERT ON ALL TABLES IN SCHEMA factory TO tokenworks_posting;
GRANT UPDATE (retired_at) ON factory.meters TO tokenworks_posting;
GRANT UPDATE (posted_at) ON factory.intervals TO tokenworks_posting;
GRANT EXECUTE ON FUNCTION factory.ensure_partitions_v1 TO tokenworks_posting;
GRANT SELECT ON factory.intervals, factory.shares, factory.addenda TO tokenworks_retention;
