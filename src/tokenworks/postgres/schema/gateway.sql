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
    refunded_quanta bigint NOT NULL DEFAULT 0
    CONSTRAINT calls_charge_quanta_check CHECK (charge_quanta >= 0)
    CONSTRAINT calls_payable_quanta_check CHECK (payable_quanta >= 0)
    CONSTRAINT calls_pkey PRIMARY KEY (call_id)
    CONSTRAINT refunds_within_charge CHECK (refunded_quanta >= 0 AND refunded_quanta <= charge_quanta) NOT VALID
    CREATE INDEX calls_booked_late ON ONLY gateway.calls USING btree (ended_at) WHERE ((ended_at - started_at) > '00:14:00'::interval)
    CREATE INDEX calls_by_span ON ONLY gateway.calls USING btree (gateway.call_span(call_id), organisation_id, call_id)
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

TABLE gateway.refunds
    -- Refunds of calls, claimed under the call's row lock before they are posted.
    refund_id uuid NOT NULL
    call_id uuid NOT NULL
    reference text NOT NULL
    quanta bigint NOT NULL
    before_quanta bigint NOT NULL
    borne_by text NOT NULL
    reason text NOT NULL
    actor text NOT NULL
    requested_at timestamp with time zone NOT NULL
    CONSTRAINT refunds_bearer_known CHECK (borne_by = ANY (ARRAY['platform'::text, 'supplier'::text]))
    CONSTRAINT refunds_named_once UNIQUE (call_id, reference)
    CONSTRAINT refunds_pkey PRIMARY KEY (refund_id)
    CONSTRAINT refunds_quanta_check CHECK (quanta > 0)
    CREATE TRIGGER refunds_append_only BEFORE DELETE OR UPDATE ON gateway.refunds FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT SELECT TO tokenworks_posting

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

CREATE OR REPLACE FUNCTION gateway.call_span(call_id uuid)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (((get_byte(uuid_send(call_id), 0) * 16384) + (get_byte(uuid_send(call_id), 1) * 64)) + (get_byte(uuid_send(call_id), 2) / 4))
-- may be called by: tokenworks_posting

CREATE OR REPLACE FUNCTION gateway.claim_refund_v1(p_refund uuid, p_call uuid, p_reference text, p_quanta bigint, p_borne_by text, p_reason text, p_actor text, p_now timestamp with time zone)
 RETURNS SETOF gateway.refunds
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
DECLARE
    refunded bigint;
BEGIN
    SELECT refunded_quanta INTO refunded FROM gateway.calls WHERE call_id = p_call FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM gateway.refunds WHERE call_id = p_call AND reference = p_reference) THEN
        UPDATE gateway.calls SET refunded_quanta = refunded + p_quanta WHERE call_id = p_call;
        INSERT INTO gateway.refunds (refund_id, call_id, reference, quanta, before_quanta, borne_by, reason, actor, requested_at)
        VALUES (p_refund, p_call, p_reference, p_quanta, refunded, p_borne_by, p_reason, p_actor, p_now);
    END IF;
    RETURN QUERY SELECT * FROM gateway.refunds WHERE call_id = p_call AND reference = p_reference;
END
$function$
-- may be called by: tokenworks_posting

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

CREATE OR REPLACE FUNCTION gateway.span_floor(span integer)
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (rpad(lpad(to_hex(((span)::bigint * 4)), 6, '0'::text), 32, '0'::text))::uuid
-- may be called by: tokenworks_posting
