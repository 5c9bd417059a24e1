-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting
GRANT USAGE ON SCHEMA TO tokenworks_retention

TABLE gateway.attempts
    -- Second and later attempts, written before they are sent; the first one stands in the hold.
    PARTITION BY RANGE (call_id)
    call_id uuid NOT NULL
    ordinal integer NOT NULL
    offer_id uuid NOT NULL
    supplier_id uuid NOT NULL
    started_at timestamp with time zone NOT NULL
    CONSTRAINT attempts_pkey PRIMARY KEY (call_id, ordinal)
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE gateway.calls
    PARTITION BY RANGE (call_id)
    call_id uuid NOT NULL
    status text NOT NULL
    outcome text NOT NULL
    organisation_id uuid NOT NULL
    team_id uuid
    party_id uuid NOT NULL
    key_id uuid NOT NULL
    model text NOT NULL
    tier text NOT NULL
    is_stream boolean NOT NULL
    supplier_id uuid
    supplier_name text
    usage json NOT NULL
    input_tokens bigint NOT NULL
    output_tokens bigint NOT NULL
    is_estimate boolean NOT NULL
    currency text NOT NULL
    quoted_quanta bigint NOT NULL
    charge_quanta bigint NOT NULL
    payable_quanta bigint NOT NULL
    started_at timestamp with time zone NOT NULL
    ended_at timestamp with time zone NOT NULL
    duration_ms double precision NOT NULL
    first_token_ms double precision
    attempt_count integer NOT NULL
    attempts json
    error_code text
    receipt json
    CONSTRAINT calls_charge_quanta_check CHECK (charge_quanta >= 0)
    CONSTRAINT calls_payable_quanta_check CHECK (payable_quanta >= 0)
    CONSTRAINT calls_pkey PRIMARY KEY (call_id)
    CREATE INDEX calls_by_organisation ON ONLY gateway.calls USING btree (organisation_id, call_id)
    GRANT SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE gateway.idempotency_keys
    PARTITION BY HASH (organisation_id)
    organisation_id uuid NOT NULL
    idempotency_key text NOT NULL
    call_id uuid NOT NULL
    body_sha256 bytea NOT NULL
    claimed_at timestamp with time zone NOT NULL
    CONSTRAINT idempotency_keys_idempotency_key_check CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 255)
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (organisation_id, idempotency_key)
    PARTITION idempotency_keys_0 FOR VALUES WITH (modulus 4, remainder 0)
    PARTITION idempotency_keys_1 FOR VALUES WITH (modulus 4, remainder 1)
    PARTITION idempotency_keys_2 FOR VALUES WITH (modulus 4, remainder 2)
    PARTITION idempotency_keys_3 FOR VALUES WITH (modulus 4, remainder 3)
    GRANT INSERT, SELECT TO tokenworks_posting

TYPE gateway.call_row
    call_id uuid
    status text
    outcome text
    organisation_id uuid
    team_id uuid
    party_id uuid
    key_id uuid
    model text
    tier text
    is_stream boolean
    supplier_id uuid
    supplier_name text
    usage json
    input_tokens bigint
    output_tokens bigint
    is_estimate boolean
    currency text
    quoted_quanta bigint
    charge_quanta bigint
    payable_quanta bigint
    started_at timestamp with time zone
    duration_ms double precision
    first_token_ms double precision
    attempt_count integer
    attempts json
    error_code text
    receipt json

VIEW gateway.key_names
    key_id uuid
    prefix text
    label text
    GRANT SELECT TO tokenworks_posting
 SELECT key.key_id,
    secret.prefix,
    key.label
   FROM identity.api_keys key
     JOIN identity.key_secrets secret ON secret.key_id = key.key_id AND secret.is_current;

CREATE OR REPLACE FUNCTION gateway.ensure_partitions_v1()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
DECLARE
    month ledger.partitions;
    suffix text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7813);
    FOR month IN SELECT * FROM ledger.partitions ORDER BY starts_at LOOP
        suffix := to_char(month.starts_at AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('gateway.calls_' || suffix) IS NOT NULL;
        -- A row is about 2.5 kB: kept in one piece, it need not be compressed on the hot path.
        EXECUTE format('CREATE TABLE gateway.calls_%s PARTITION OF gateway.calls FOR VALUES FROM (%L) TO (%L) WITH (toast_tuple_target = 8160)', suffix, month.first_id, month.last_id);
        EXECUTE format('CREATE TABLE gateway.attempts_%s PARTITION OF gateway.attempts FOR VALUES FROM (%L) TO (%L)', suffix, month.first_id, month.last_id);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$function$
-- may be called by: tokenworks_posting

CREATE OR REPLACE FUNCTION gateway.record_calls_v1(p_rows text[], p_ended_at timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
    INSERT INTO gateway.calls (
        call_id, status, outcome, organisation_id, team_id, party_id, key_id, model, tier, is_stream, supplier_id, supplier_name,
        usage, input_tokens, output_tokens, is_estimate, currency, quoted_quanta, charge_quanta, payable_quanta, started_at,
        duration_ms, first_token_ms, attempt_count, attempts, error_code, receipt, ended_at)
    SELECT row.*, p_ended_at
    FROM unnest(p_rows::gateway.call_row[]) AS row
    ON CONFLICT DO NOTHING;
$function$
-- may be called by: the owner only
