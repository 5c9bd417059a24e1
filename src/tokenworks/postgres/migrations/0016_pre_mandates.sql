-- Wallets (whose key speaks for an agent), mandates (what it may spend), and what changed in them.
-- The terms of a mandate never change: only its state does, and every change leaves an event.

CREATE TABLE agents.wallets (
    address text NOT NULL,            -- an Ed25519 public key, base64url
    agent_id uuid NOT NULL,
    label text NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT wallets_pkey PRIMARY KEY (address),
    CONSTRAINT wallets_agent FOREIGN KEY (agent_id) REFERENCES identity.parties (party_id),
    CONSTRAINT wallets_address_shape CHECK (address ~ '^[A-Za-z0-9_-]{43}$'),
    CONSTRAINT wallets_label_length CHECK (length(label) <= 200)
);
COMMENT ON TABLE agents.wallets IS 'Public keys that speak for agents; the private keys are never here.';
CREATE INDEX wallets_by_agent ON agents.wallets (agent_id);

CREATE TABLE agents.mandates (
    mandate_id uuid NOT NULL,         -- also the scope in the ledger
    agent_id uuid NOT NULL,
    issuer_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    parent_id uuid,
    parent_depth smallint,
    depth smallint NOT NULL,
    terms jsonb NOT NULL,
    state text NOT NULL,
    label text NOT NULL,
    jws text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,           -- NULL: never; of the terms and the chain above the earliest
    revoked_at timestamptz,
    CONSTRAINT mandates_pkey PRIMARY KEY (mandate_id),
    CONSTRAINT mandates_agent FOREIGN KEY (agent_id) REFERENCES identity.parties (party_id),
    CONSTRAINT mandates_issuer FOREIGN KEY (issuer_id) REFERENCES identity.parties (party_id),
    CONSTRAINT mandates_organisation FOREIGN KEY (organisation_id) REFERENCES identity.parties (party_id),
    -- What a child refers to: a chain stays in one organisation and goes down by one.
    CONSTRAINT mandates_chain_key UNIQUE (mandate_id, depth, organisation_id),
    CONSTRAINT mandates_below_parent FOREIGN KEY (parent_id, parent_depth, organisation_id)
    REFERENCES agents.mandates (mandate_id, depth, organisation_id),
    CONSTRAINT mandates_depth CHECK (
        (parent_id IS NULL AND parent_depth IS NULL AND depth = 1)
        OR (parent_id IS NOT NULL AND parent_depth IS NOT NULL AND depth = parent_depth + 1 AND depth <= 8)
    ),
    CONSTRAINT mandates_state_known CHECK (state IN ('active', 'frozen', 'revoked')),
    CONSTRAINT mandates_revoked_has_time CHECK ((state = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT mandates_label_length CHECK (length(label) <= 200)
);
COMMENT ON TABLE agents.mandates IS 'What agents may spend; sums over time are limits of the ledger''s scope of the same id.';
CREATE INDEX mandates_by_parent ON agents.mandates (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX mandates_by_agent ON agents.mandates (agent_id, mandate_id);
CREATE INDEX mandates_by_organisation ON agents.mandates (organisation_id, mandate_id);

-- Few rows, made by people: not partitioned.
CREATE TABLE agents.mandate_events (
    event_id uuid NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    mandate_id uuid NOT NULL,
    kind text NOT NULL,               -- issued, delegated, frozen, thawed, revoked, raised
    happened_at timestamptz NOT NULL,
    actor text NOT NULL,
    details jsonb NOT NULL,
    CONSTRAINT mandate_events_pkey PRIMARY KEY (event_id),
    CONSTRAINT mandate_events_mandate FOREIGN KEY (mandate_id) REFERENCES agents.mandates (mandate_id),
    CONSTRAINT mandate_events_kind_known CHECK (
        kind IN ('issued', 'delegated', 'frozen', 'thawed', 'revoked', 'raised')
    )
);
COMMENT ON TABLE agents.mandate_events IS 'What was done to a mandate, by whom; append-only.';
CREATE INDEX mandate_events_by_mandate ON agents.mandate_events (mandate_id, sequence);
CREATE TRIGGER mandate_events_append_only BEFORE UPDATE OR DELETE ON agents.mandate_events
FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER mandate_events_not_truncated BEFORE TRUNCATE ON agents.mandate_events
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Also where a single role owns everything: of a mandate only its state moves, and revoked is final.
CREATE FUNCTION agents.refuse_mandate_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state = 'revoked'
        OR (to_jsonb(OLD) - 'state' - 'revoked_at') <> (to_jsonb(NEW) - 'state' - 'revoked_at') THEN
        RAISE EXCEPTION 'a mandate''s terms never change, and a revoked one stays revoked' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER mandates_terms_fixed BEFORE UPDATE OR DELETE ON agents.mandates
FOR EACH ROW EXECUTE FUNCTION agents.refuse_mandate_change();
REVOKE EXECUTE ON FUNCTION agents.refuse_mandate_change FROM PUBLIC;

-- A key that spends through a mandate; NULL: along its party's tree alone.
ALTER TABLE identity.api_keys ADD COLUMN mandate_id uuid;
ALTER TABLE identity.api_keys ADD CONSTRAINT api_keys_mandate
FOREIGN KEY (mandate_id) REFERENCES agents.mandates (mandate_id);
-- Quanta that one call of the key may cost at most; NULL: no bound of its own.
ALTER TABLE identity.api_keys ADD COLUMN call_quanta_max bigint;
ALTER TABLE identity.api_keys ADD CONSTRAINT api_keys_call_range CHECK (call_quanta_max BETWEEN 1 AND 4611686018427387904);

GRANT SELECT, INSERT ON agents.wallets, agents.mandates, agents.mandate_events TO tokenworks_posting;
GRANT UPDATE (revoked_at) ON agents.wallets TO tokenworks_posting;
GRANT UPDATE (state, revoked_at) ON agents.mandates TO tokenworks_posting;

-- Open the scopes that are not there yet, each with its limits, and publish a path through them;
-- all of it, or nothing. A scope that exists keeps its state and its limits, so a repeat (or a
-- slow process that comes late) never thaws, reopens or widens anything. A path of NULL: none.
CREATE FUNCTION ledger.open_path_v1(
    p_path uuid, p_scopes uuid[], p_funding bigint[], p_new uuid[], p_expiries timestamptz[],
    p_limit_scopes uuid[], p_limit_assets text[], p_limit_quanta bigint[], p_limit_windows text[],
    p_actor text, p_now timestamptz
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    WITH opened AS (
        INSERT INTO ledger.scopes (scope_id, state, expires_at, changed_at)
        SELECT scope_id, 'active', expires_at, p_now
        FROM unnest(p_new, p_expiries) AS fresh (scope_id, expires_at)
        ORDER BY scope_id
        ON CONFLICT (scope_id) DO NOTHING
        RETURNING scope_id
    ), limited AS (
        INSERT INTO ledger.limits (scope_id, asset_id, quanta, window_kind, time_zone, opened_at)
        SELECT asked.scope_id, asset.asset_id, asked.quanta, asked.kind, 'UTC', p_now
        FROM unnest(p_limit_scopes, p_limit_assets, p_limit_quanta, p_limit_windows) AS asked (scope_id, code, quanta, kind)
        JOIN opened ON opened.scope_id = asked.scope_id
        JOIN ledger.assets AS asset ON asset.code = asked.code
        RETURNING limit_id, quanta
    )
    INSERT INTO ledger.limit_changes (limit_id, changed_at, quanta, actor)
    SELECT limit_id, p_now, quanta, p_actor FROM limited;
    RETURN CASE WHEN p_path IS NULL THEN 0 ELSE ledger.publish_path_v1(p_path, p_scopes, p_funding, p_now) END;
END
$$;
REVOKE EXECUTE ON FUNCTION ledger.open_path_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.open_path_v1 TO tokenworks_posting;
