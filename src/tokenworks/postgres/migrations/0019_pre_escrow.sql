-- Escrows: terms that never change, and everything that ever happened to one. How an escrow stands
-- is computed from its events; the columns that move are there to find what is due.

CREATE TABLE agents.escrows (
    escrow_id uuid NOT NULL,             -- the payment's id, and the hold's
    payer_agent_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    mandate_id uuid NOT NULL,
    payee_id uuid NOT NULL,
    payee_organisation_id uuid NOT NULL,
    arbiter_id uuid,                     -- NULL: the hub's operator
    currency text NOT NULL,
    quanta bigint NOT NULL,
    terms text NOT NULL,                 -- canonical JSON, as the payer's wallet signed its hash
    terms_sha256 text NOT NULL,
    authorisation text NOT NULL,         -- the wallet's JWS
    digest bytea NOT NULL,               -- of what the wallet signed
    authorisation_ends_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    state text NOT NULL,
    due_at timestamptz,                  -- when somebody has to look at it; NULL: never by itself
    events_count integer NOT NULL,
    CONSTRAINT escrows_pkey PRIMARY KEY (escrow_id),
    CONSTRAINT escrows_amount_range CHECK (quanta BETWEEN 1 AND 4611686018427387904),
    CONSTRAINT escrows_state_known CHECK (
        state IN ('opening', 'funded', 'submitted', 'disputed', 'settled', 'refunded', 'cancelled')
    ),
    CONSTRAINT escrows_terms_hash_shape CHECK (terms_sha256 ~ '^[0-9a-f]{64}$'),
    -- An arbiter that is a side of the escrow would be judge in its own cause.
    CONSTRAINT escrows_arbiter_is_no_side CHECK (arbiter_id IS NULL OR arbiter_id NOT IN (payee_id, payer_agent_id))
) PARTITION BY RANGE (escrow_id);
COMMENT ON TABLE agents.escrows IS 'Payments that are due when a declared condition is met.';
CREATE INDEX escrows_due ON agents.escrows (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX escrows_by_organisation ON agents.escrows (organisation_id, escrow_id);
CREATE INDEX escrows_by_payee ON agents.escrows (payee_id, escrow_id);
CREATE INDEX escrows_by_arbiter ON agents.escrows (arbiter_id, escrow_id) WHERE arbiter_id IS NOT NULL;

CREATE TABLE agents.escrow_events (
    escrow_id uuid NOT NULL,
    sequence integer NOT NULL,           -- gapless from 0
    kind text NOT NULL,
    occurred_at timestamptz NOT NULL,
    actor text NOT NULL,
    content json NOT NULL,
    result bytea,                        -- canonical JSON; of a submission only
    CONSTRAINT escrow_events_pkey PRIMARY KEY (escrow_id, sequence),
    CONSTRAINT escrow_events_kind_known CHECK (
        kind IN ('opened', 'lapsed', 'submitted', 'attested', 'evaluated', 'disputed', 'decided', 'carried_out', 'cancel_asked')
    ),
    CONSTRAINT escrow_events_result_of_submission CHECK ((kind = 'submitted') = (result IS NOT NULL)),
    CONSTRAINT escrow_events_result_size CHECK (octet_length(result) <= 262144)
) PARTITION BY RANGE (escrow_id);
COMMENT ON TABLE agents.escrow_events IS 'Submissions, verdicts, disputes and decisions; append-only.';
CREATE TRIGGER escrow_events_append_only BEFORE UPDATE OR DELETE ON agents.escrow_events FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER escrow_events_not_truncated BEFORE TRUNCATE ON agents.escrow_events FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Also where a single role owns everything: what both sides agreed to never changes, events are
-- only added, and what is over stays over.
CREATE FUNCTION agents.refuse_escrow_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.events_count < OLD.events_count
        OR (to_jsonb(OLD) - '{state,due_at,events_count}'::text[]) <> (to_jsonb(NEW) - '{state,due_at,events_count}'::text[])
        OR (OLD.state IN ('settled', 'refunded', 'cancelled') AND NEW.state <> OLD.state) THEN
        RAISE EXCEPTION 'the terms of an escrow never change, and one that is over stays over' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER escrows_terms_fixed BEFORE UPDATE OR DELETE ON agents.escrows FOR EACH ROW EXECUTE FUNCTION agents.refuse_escrow_change();
CREATE TRIGGER escrows_not_truncated BEFORE TRUNCATE ON agents.escrows FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

INSERT INTO ledger.retained_tables (name, order_columns) VALUES
    ('agents.escrows', '{escrow_id}'), ('agents.escrow_events', '{escrow_id,sequence}');

REVOKE EXECUTE ON FUNCTION agents.refuse_escrow_change FROM PUBLIC;
GRANT SELECT, INSERT ON agents.escrows, agents.escrow_events TO tokenworks_posting;
GRANT UPDATE (state, due_at, events_count) ON agents.escrows TO tokenworks_posting;
GRANT USAGE ON SCHEMA agents TO tokenworks_retention;
GRANT SELECT ON agents.escrows, agents.escrow_events TO tokenworks_retention;
