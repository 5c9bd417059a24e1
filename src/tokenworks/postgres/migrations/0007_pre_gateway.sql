-- The gateway's own records: one row per ended call, written in the ledger's transaction.
CREATE SCHEMA gateway;

CREATE TABLE gateway.calls (
    call_id uuid NOT NULL PRIMARY KEY,
    status text NOT NULL,             -- settled or failed (nothing charged, hold given back)
    outcome text NOT NULL,            -- the policy that decided the bill
    organisation_id uuid NOT NULL,
    team_id uuid,
    party_id uuid NOT NULL,
    key_id uuid NOT NULL,
    model text NOT NULL,
    tier text NOT NULL,
    is_stream boolean NOT NULL,
    supplier_id uuid,
    supplier_name text,
    usage json NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    is_estimate boolean NOT NULL,
    currency text NOT NULL,
    quoted_quanta bigint NOT NULL,
    charge_quanta bigint NOT NULL CHECK (charge_quanta >= 0),
    payable_quanta bigint NOT NULL CHECK (payable_quanta >= 0),
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    duration_ms double precision NOT NULL,
    first_token_ms double precision,
    attempt_count integer NOT NULL,
    attempts json,                    -- of a failed call; a settled one's stand in its receipt
    error_code text,
    receipt json                      -- every field of the receipt; NULL where nothing was sold
) PARTITION BY RANGE (call_id);
CREATE INDEX calls_by_organisation ON gateway.calls (organisation_id, call_id);

CREATE TABLE gateway.attempts (
    call_id uuid NOT NULL,
    ordinal integer NOT NULL,
    offer_id uuid NOT NULL,
    supplier_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (call_id, ordinal)
) PARTITION BY RANGE (call_id);
COMMENT ON TABLE gateway.attempts IS 'Second and later attempts, written before they are sent; the first one stands in the hold.';

CREATE TABLE gateway.idempotency_keys (
    organisation_id uuid NOT NULL,
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    call_id uuid NOT NULL,
    body_sha256 bytea NOT NULL,
    claimed_at timestamptz NOT NULL,
    PRIMARY KEY (organisation_id, idempotency_key)
) PARTITION BY HASH (organisation_id);
CREATE TABLE gateway.idempotency_keys_0 PARTITION OF gateway.idempotency_keys FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE gateway.idempotency_keys_1 PARTITION OF gateway.idempotency_keys FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE gateway.idempotency_keys_2 PARTITION OF gateway.idempotency_keys FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE gateway.idempotency_keys_3 PARTITION OF gateway.idempotency_keys FOR VALUES WITH (MODULUS 4, REMAINDER 3);

-- What the gateway hands over; the time of the end is the ledger's.
CREATE TYPE gateway.call_row AS (
    call_id uuid,
    status text,
    outcome text,
    organisation_id uuid,
    team_id uuid,
    party_id uuid,
    key_id uuid,
    model text,
    tier text,
    is_stream boolean,
    supplier_id uuid,
    supplier_name text,
    usage json,
    input_tokens bigint,
    output_tokens bigint,
    is_estimate boolean,
    currency text,
    quoted_quanta bigint,
    charge_quanta bigint,
    payable_quanta bigint,
    started_at timestamptz,
    duration_ms double precision,
    first_token_ms double precision,
    attempt_count integer,
    attempts json,
    error_code text,
    receipt json
);

-- The ledger's rider: as durable as the capture itself, and only for accepted operations.
CREATE FUNCTION gateway.record_calls_v1(p_rows text[], p_ended_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO gateway.calls (
        call_id, status, outcome, organisation_id, team_id, party_id, key_id, model, tier, is_stream, supplier_id, supplier_name,
        usage, input_tokens, output_tokens, is_estimate, currency, quoted_quanta, charge_quanta, payable_quanta, started_at,
        duration_ms, first_token_ms, attempt_count, attempts, error_code, receipt, ended_at)
    SELECT row.*, p_ended_at
    FROM unnest(p_rows::gateway.call_row[]) AS row
    ON CONFLICT DO NOTHING;
$$;
INSERT INTO ledger.riders (name, function_name) VALUES ('gateway', 'gateway.record_calls_v1');

-- Partitions follow the ledger's months.
CREATE FUNCTION gateway.ensure_partitions_v1() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
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
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA gateway FROM PUBLIC;
GRANT USAGE ON SCHEMA gateway TO tokenworks_posting;
GRANT SELECT ON ALL TABLES IN SCHEMA gateway TO tokenworks_posting;
GRANT INSERT ON gateway.attempts, gateway.idempotency_keys TO tokenworks_posting;
GRANT EXECUTE ON FUNCTION gateway.ensure_partitions_v1 TO tokenworks_posting;

-- Names of keys for lists of calls; nothing of the key itself.
CREATE VIEW gateway.key_names AS
SELECT key.key_id, secret.prefix, key.label
FROM identity.api_keys AS key
JOIN identity.key_secrets AS secret ON secret.key_id = key.key_id AND secret.is_current;
GRANT SELECT ON gateway.key_names TO tokenworks_posting;
