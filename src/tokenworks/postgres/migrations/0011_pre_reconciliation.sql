-- Statements of suppliers, matched with what the hub believes it owes; the close of a date; refunds of calls.
CREATE SCHEMA reconciliation;

CREATE TABLE reconciliation.statements (
    statement_id uuid NOT NULL,
    supplier_id uuid NOT NULL REFERENCES supply.suppliers (supplier_id),
    party_id uuid NOT NULL,           -- who is owed
    file_name text NOT NULL,
    file_sha256 bytea NOT NULL,
    content bytea NOT NULL,           -- the file as it came
    columns json NOT NULL,            -- our name of a column -> the file's
    currency text NOT NULL,
    since timestamptz NOT NULL,       -- attempts of this period must be on the statement
    until timestamptz NOT NULL,
    tolerance_quanta bigint NOT NULL,
    tolerance_ppm integer NOT NULL,
    window_s integer NOT NULL,
    line_count integer NOT NULL,
    total_quanta numeric(39, 0) NOT NULL,
    imported_at timestamptz NOT NULL,
    actor text NOT NULL,
    CONSTRAINT statements_pkey PRIMARY KEY (statement_id),
    -- The same file again is the same statement.
    CONSTRAINT statements_file_once UNIQUE (supplier_id, file_sha256),
    CONSTRAINT statements_period CHECK (since < until),
    CONSTRAINT statements_tolerance CHECK (tolerance_quanta >= 0 AND tolerance_ppm BETWEEN 0 AND 1000000 AND window_s >= 0)
);
COMMENT ON TABLE reconciliation.statements IS 'What suppliers say they are owed, as they said it.';
CREATE INDEX statements_by_supplier ON reconciliation.statements (supplier_id, statement_id);

CREATE TABLE reconciliation.lines (
    statement_id uuid NOT NULL REFERENCES reconciliation.statements (statement_id),
    line_number integer NOT NULL,     -- in the file, the header is 1
    supplier_id uuid NOT NULL,
    reference text NOT NULL,          -- the supplier's own name of the line
    call_id uuid,                     -- ours, where the supplier echoes it
    occurred_at timestamptz,
    model text,
    input_tokens bigint,
    output_tokens bigint,
    quanta bigint NOT NULL CHECK (quanta >= 0),
    verdict text NOT NULL,
    attempt_call_id uuid,             -- the attempt that it bills
    attempt_ordinal integer,
    attempt_owed_quanta bigint,
    day date,                         -- UTC; NULL: neither line nor attempt has a time
    CONSTRAINT lines_pkey PRIMARY KEY (statement_id, line_number),
    CONSTRAINT lines_verdict_known CHECK (verdict IN ('matched', 'amount_differs', 'missing_here', 'duplicate', 'ambiguous')),
    CONSTRAINT lines_attempt_whole CHECK (
        (verdict IN ('matched', 'amount_differs')) = (attempt_call_id IS NOT NULL)
        AND (attempt_call_id IS NULL) = (attempt_ordinal IS NULL)
        AND (attempt_call_id IS NULL) = (attempt_owed_quanta IS NULL)
    )
);
COMMENT ON TABLE reconciliation.lines IS 'The lines of statements, each with what it was found to be.';
-- An attempt is billed once, over all statements.
CREATE UNIQUE INDEX lines_attempt_billed_once ON reconciliation.lines (attempt_call_id, attempt_ordinal) WHERE attempt_call_id IS NOT NULL;
CREATE INDEX lines_by_reference ON reconciliation.lines (supplier_id, reference);

CREATE TABLE reconciliation.unbilled_attempts (
    statement_id uuid NOT NULL REFERENCES reconciliation.statements (statement_id),
    call_id uuid NOT NULL,
    ordinal integer NOT NULL,
    model text NOT NULL,
    started_at timestamptz NOT NULL,
    owed_quanta bigint NOT NULL,
    verdict text NOT NULL,
    CONSTRAINT unbilled_attempts_pkey PRIMARY KEY (statement_id, call_id, ordinal),
    CONSTRAINT unbilled_attempts_verdict_known CHECK (verdict IN ('missing_at_supplier', 'ambiguous'))
);
COMMENT ON TABLE reconciliation.unbilled_attempts IS 'Attempts that no line of the statement certainly bills.';

CREATE TABLE reconciliation.proposals (
    statement_id uuid NOT NULL REFERENCES reconciliation.statements (statement_id),
    fact_id uuid NOT NULL,            -- of the entry, once it is accepted
    quanta bigint NOT NULL,           -- above zero: the supplier gets more
    CONSTRAINT proposals_pkey PRIMARY KEY (statement_id),
    CONSTRAINT proposals_change_something CHECK (quanta <> 0)
);
COMMENT ON TABLE reconciliation.proposals IS 'Correcting entries that nobody posted yet, or somebody accepted.';

CREATE TABLE reconciliation.acceptances (
    statement_id uuid NOT NULL REFERENCES reconciliation.proposals (statement_id),
    accepted_at timestamptz NOT NULL,
    actor text NOT NULL,
    CONSTRAINT acceptances_pkey PRIMARY KEY (statement_id)
);

CREATE TRIGGER statements_append_only BEFORE UPDATE OR DELETE ON reconciliation.statements FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER lines_append_only BEFORE UPDATE OR DELETE ON reconciliation.lines FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER unbilled_attempts_append_only BEFORE UPDATE OR DELETE ON reconciliation.unbilled_attempts FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER proposals_append_only BEFORE UPDATE OR DELETE ON reconciliation.proposals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER acceptances_append_only BEFORE UPDATE OR DELETE ON reconciliation.acceptances FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();

GRANT USAGE ON SCHEMA reconciliation TO tokenworks_posting;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA reconciliation TO tokenworks_posting;

-- A lane books nothing before p_until any more: its time is raised once a batch under way has
-- ended, and a batch's time is never before its lane's. One lane at a time, so that a lane that
-- does not end its batch keeps no other one waiting.
CREATE FUNCTION ledger.raise_lane_v1(p_lane integer, p_until timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    skew_max_ms integer;
BEGIN
    SELECT clock_skew_max_ms INTO skew_max_ms FROM ledger.settings;
    IF skew_max_ms IS NOT NULL AND p_until > clock_timestamp() THEN
        RAISE EXCEPTION 'lanes are never raised into the future' USING ERRCODE = 'TW003';
    END IF;
    UPDATE ledger.lanes SET last_time = p_until WHERE lane = p_lane AND last_time < p_until;
END
$$;

-- Let no batch begin, and no new lane, until this transaction ends.
CREATE FUNCTION ledger.stop_lanes_v1() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7811);
    PERFORM FROM ledger.lanes ORDER BY lane FOR NO KEY UPDATE;
END
$$;

-- Store the close of a date; false when it is closed already.
CREATE FUNCTION ledger.add_closing_v1(p_date date, p_now timestamptz, p_actor text, p_statement text, p_signature text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM ledger.closings WHERE closed_date > p_date) THEN
        RAISE EXCEPTION 'a later date than % is closed', p_date USING ERRCODE = 'TW006';
    END IF;
    INSERT INTO ledger.closings (closed_date, closed_at, actor, statement, signature)
    VALUES (p_date, p_now, p_actor, p_statement, p_signature)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

REVOKE EXECUTE ON FUNCTION ledger.raise_lane_v1, ledger.stop_lanes_v1, ledger.add_closing_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.raise_lane_v1, ledger.stop_lanes_v1, ledger.add_closing_v1 TO tokenworks_posting;

-- What was refunded of a call. NOT VALID: rows that are there have refunded nothing, so there is
-- nothing to look through while calls wait for the table.
ALTER TABLE gateway.calls ADD COLUMN refunded_quanta bigint NOT NULL DEFAULT 0;
ALTER TABLE gateway.calls ADD CONSTRAINT refunds_within_charge CHECK (refunded_quanta BETWEEN 0 AND charge_quanta) NOT VALID;

CREATE TABLE gateway.refunds (
    refund_id uuid NOT NULL,          -- the fact of its entry
    call_id uuid NOT NULL,
    reference text NOT NULL,          -- the operator's own name of the refund
    quanta bigint NOT NULL CHECK (quanta > 0),
    before_quanta bigint NOT NULL,    -- refunded of the call before
    borne_by text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    requested_at timestamptz NOT NULL,
    CONSTRAINT refunds_pkey PRIMARY KEY (refund_id),
    CONSTRAINT refunds_named_once UNIQUE (call_id, reference),
    CONSTRAINT refunds_bearer_known CHECK (borne_by IN ('platform', 'supplier'))
);
COMMENT ON TABLE gateway.refunds IS 'Refunds of calls, claimed under the call''s row lock before they are posted.';
CREATE TRIGGER refunds_append_only BEFORE UPDATE OR DELETE ON gateway.refunds FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();

-- Claim a refund under the call's row lock, or return the one of that reference; no row: no such
-- call. The constraint on the call's row refuses more than was charged.
CREATE FUNCTION gateway.claim_refund_v1(
    p_refund uuid, p_call uuid, p_reference text, p_quanta bigint, p_borne_by text, p_reason text, p_actor text, p_now timestamptz
) RETURNS SETOF gateway.refunds
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
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
$$;
REVOKE EXECUTE ON FUNCTION gateway.claim_refund_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gateway.claim_refund_v1 TO tokenworks_posting;
GRANT SELECT ON gateway.refunds TO tokenworks_posting;
