-- Calls of models that a payee named for a milestone: what the hub metered in them is seen by the
-- milestone's condition, and by no other one.

CREATE TABLE agents.escrow_calls (
    call_id uuid NOT NULL,
    escrow_id uuid NOT NULL,
    milestone integer NOT NULL,          -- its place in the terms
    claimed_at timestamptz NOT NULL,
    -- One call is work for one payer: nobody is paid twice for the same tokens.
    CONSTRAINT escrow_calls_pkey PRIMARY KEY (call_id),
    CONSTRAINT escrow_calls_milestone_range CHECK (milestone BETWEEN 0 AND 31)
) PARTITION BY RANGE (call_id);
COMMENT ON TABLE agents.escrow_calls IS 'Which milestone a call serves; append-only.';
CREATE TRIGGER escrow_calls_append_only BEFORE UPDATE OR DELETE ON agents.escrow_calls FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER escrow_calls_not_truncated BEFORE TRUNCATE ON agents.escrow_calls FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

INSERT INTO ledger.retained_tables (name, order_columns) VALUES ('agents.escrow_calls', '{call_id}');

GRANT SELECT, INSERT ON agents.escrow_calls TO tokenworks_posting;
GRANT SELECT ON agents.escrow_calls TO tokenworks_retention;
