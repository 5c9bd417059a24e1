-- Payments of agents: one row a capture or release, as durable as the entry itself.
CREATE TABLE agents.payments (
    payment_id uuid NOT NULL,
    operation text NOT NULL,             -- of the ledger: 'capture' or 'void'
    ordinal integer NOT NULL,            -- parts of one payment are captured one after the other
    closes boolean NOT NULL,             -- whether nothing is held any more afterwards
    kind text NOT NULL,                  -- a scheme of x402, 'call' or 'escrow'
    payer text NOT NULL,                 -- the wallet's address
    agent_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    mandate_id uuid NOT NULL,
    payee_id uuid NOT NULL,
    currency text NOT NULL,
    authorised_quanta bigint NOT NULL,
    captured_quanta bigint NOT NULL,     -- by this capture
    resource text NOT NULL,              -- what was paid for: method and URL, or 'escrow:..'
    digest bytea NOT NULL,               -- of what the wallet signed
    reason text,                         -- of a release
    decision json NOT NULL,              -- the brake's
    receipt json,                        -- its fields; none for a release
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (payment_id, operation, ordinal),
    CONSTRAINT payment_is_capture_or_void CHECK (operation IN ('capture', 'void')),
    CONSTRAINT payment_within_authorised CHECK (captured_quanta >= 0 AND captured_quanta <= authorised_quanta),
    CONSTRAINT release_takes_nothing CHECK (operation = 'capture' OR captured_quanta = 0)
) PARTITION BY RANGE (payment_id);
COMMENT ON TABLE agents.payments IS 'Captures and releases of payments. A payment that is held is an open hold, not a row.';
CREATE INDEX payments_by_organisation ON agents.payments (organisation_id, payment_id);
CREATE INDEX payments_by_payee ON agents.payments (payee_id, payment_id);
CREATE TRIGGER payments_append_only BEFORE UPDATE OR DELETE ON agents.payments FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER payments_not_truncated BEFORE TRUNCATE ON agents.payments FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

CREATE TYPE agents.payment_row AS (
    payment_id uuid,
    operation text,
    ordinal integer,
    closes boolean,
    kind text,
    payer text,
    agent_id uuid,
    organisation_id uuid,
    mandate_id uuid,
    payee_id uuid,
    currency text,
    authorised_quanta bigint,
    captured_quanta bigint,
    resource text,
    digest bytea,
    reason text,
    decision json,
    receipt json
);

-- Parts of one payment never take more than was authorised: the ledger would let the hold grow.
-- The hold's row is locked by whoever captures it, so the sum cannot change meanwhile.
CREATE FUNCTION agents.record_payments_v1(p_rows text[], p_recorded_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    part agents.payment_row;
BEGIN
    INSERT INTO agents.payments (
        payment_id, operation, ordinal, closes, kind, payer, agent_id, organisation_id, mandate_id, payee_id, currency,
        authorised_quanta, captured_quanta, resource, digest, reason, decision, receipt, recorded_at)
    SELECT row.*, p_recorded_at
    FROM unnest(p_rows::agents.payment_row[]) AS row;
    FOR part IN SELECT row.* FROM unnest(p_rows::agents.payment_row[]) AS row
        WHERE row.ordinal > 0 OR NOT row.closes OR row.kind NOT IN ('exact', 'upto', 'call')
    LOOP
        IF (SELECT sum(captured_quanta) FROM agents.payments WHERE payment_id = part.payment_id) > part.authorised_quanta THEN
            RAISE EXCEPTION 'payment % would take more than was authorised', part.payment_id USING ERRCODE = '23514';
        END IF;
    END LOOP;
END
$$;

-- The ledger's rider of a process that sells calls and settles payments. A row of a payment has
-- a P before it, a call's row begins with its bracket; a call that a wallet paid has both, with a
-- B before them and a record separator between them.
CREATE FUNCTION agents.record_hub_v1(p_rows text[], p_recorded_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    payments text[];
BEGIN
    IF EXISTS (SELECT FROM unnest(p_rows) AS row WHERE starts_with(row, 'B(')) THEN
        p_rows := ARRAY(
            SELECT piece
            FROM unnest(p_rows) AS row
            CROSS JOIN LATERAL unnest(
                CASE WHEN starts_with(row, 'B(') THEN string_to_array(substr(row, 2), E'\x1e') ELSE ARRAY[row] END
            ) AS piece
        );
    END IF;
    payments := ARRAY(SELECT substr(row, 2) FROM unnest(p_rows) AS row WHERE starts_with(row, 'P('));
    IF cardinality(payments) > 0 THEN
        PERFORM agents.record_payments_v1(payments, p_recorded_at);
        p_rows := ARRAY(SELECT row FROM unnest(p_rows) AS row WHERE NOT starts_with(row, 'P('));
    END IF;
    IF cardinality(p_rows) > 0 THEN
        PERFORM gateway.record_calls_v1(p_rows, p_recorded_at);
    END IF;
END
$$;
INSERT INTO ledger.riders (name, function_name) VALUES ('hub', 'agents.record_hub_v1');

-- Partitions follow the ledger's months, and leave with them.
CREATE FUNCTION agents.ensure_partitions_v1() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    month ledger.partitions;
    suffix text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7813);
    FOR month IN SELECT * FROM ledger.partitions ORDER BY starts_at LOOP
        suffix := to_char(month.starts_at AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('agents.payments_' || suffix) IS NOT NULL;
        EXECUTE format('CREATE TABLE agents.payments_%s PARTITION OF agents.payments FOR VALUES FROM (%L) TO (%L) WITH (toast_tuple_target = 8160)', suffix, month.first_id, month.last_id);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
INSERT INTO ledger.retained_tables (name, order_columns) VALUES ('agents.payments', '{payment_id,operation,ordinal}');

REVOKE EXECUTE ON FUNCTION agents.record_payments_v1, agents.record_hub_v1, agents.ensure_partitions_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agents.ensure_partitions_v1 TO tokenworks_posting;
GRANT SELECT ON agents.payments TO tokenworks_posting;
GRANT USAGE ON SCHEMA agents TO tokenworks_retention;
GRANT SELECT ON agents.payments TO tokenworks_retention;
