-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE agents.mandate_events
    -- What was done to a mandate, by whom; append-only.
    event_id uuid NOT NULL
    sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY
    mandate_id uuid NOT NULL
    kind text NOT NULL
    happened_at timestamp with time zone NOT NULL
    actor text NOT NULL
    details jsonb NOT NULL
    CONSTRAINT mandate_events_kind_known CHECK (kind = ANY (ARRAY['issued'::text, 'delegated'::text, 'frozen'::text, 'thawed'::text, 'revoked'::text, 'raised'::text]))
    CONSTRAINT mandate_events_mandate FOREIGN KEY (mandate_id) REFERENCES agents.mandates(mandate_id)
    CONSTRAINT mandate_events_pkey PRIMARY KEY (event_id)
    CREATE INDEX mandate_events_by_mandate ON agents.mandate_events USING btree (mandate_id, sequence)
    CREATE TRIGGER mandate_events_append_only BEFORE DELETE OR UPDATE ON agents.mandate_events FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER mandate_events_not_truncated BEFORE TRUNCATE ON agents.mandate_events FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE agents.mandates
    -- What agents may spend; sums over time are limits of the ledger's scope of the same id.
    mandate_id uuid NOT NULL
    agent_id uuid NOT NULL
    issuer_id uuid NOT NULL
    organisation_id uuid NOT NULL
    parent_id uuid
    parent_depth smallint
    depth smallint NOT NULL
    terms jsonb NOT NULL
    state text NOT NULL
    label text NOT NULL
    jws text NOT NULL
    created_at timestamp with time zone NOT NULL
    expires_at timestamp with time zone
    revoked_at timestamp with time zone
    CONSTRAINT mandates_agent FOREIGN KEY (agent_id) REFERENCES identity.parties(party_id)
    CONSTRAINT mandates_below_parent FOREIGN KEY (parent_id, parent_depth, organisation_id) REFERENCES agents.mandates(mandate_id, depth, organisation_id)
    CONSTRAINT mandates_chain_key UNIQUE (mandate_id, depth, organisation_id)
    CONSTRAINT mandates_depth CHECK (parent_id IS NULL AND parent_depth IS NULL AND depth = 1 OR parent_id IS NOT NULL AND parent_depth IS NOT NULL AND depth = (parent_depth + 1) AND depth <= 8)
    CONSTRAINT mandates_issuer FOREIGN KEY (issuer_id) REFERENCES identity.parties(party_id)
    CONSTRAINT mandates_label_length CHECK (length(label) <= 200)
    CONSTRAINT mandates_organisation FOREIGN KEY (organisation_id) REFERENCES identity.parties(party_id)
    CONSTRAINT mandates_pkey PRIMARY KEY (mandate_id)
    CONSTRAINT mandates_revoked_has_time CHECK ((state = 'revoked'::text) = (revoked_at IS NOT NULL))
    CONSTRAINT mandates_state_known CHECK (state = ANY (ARRAY['active'::text, 'frozen'::text, 'revoked'::text]))
    CREATE INDEX mandates_by_agent ON agents.mandates USING btree (agent_id, mandate_id)
    CREATE INDEX mandates_by_organisation ON agents.mandates USING btree (organisation_id, mandate_id)
    CREATE INDEX mandates_by_parent ON agents.mandates USING btree (parent_id) WHERE (parent_id IS NOT NULL)
    CREATE TRIGGER mandates_terms_fixed BEFORE DELETE OR UPDATE ON agents.mandates FOR EACH ROW EXECUTE FUNCTION agents.refuse_mandate_change()
    GRANT INSERT, SELECT, UPDATE (revoked_at), UPDATE (state) TO tokenworks_posting

TABLE agents.wallets
    -- Public keys that speak for agents; the private keys are never here.
    address text NOT NULL
    agent_id uuid NOT NULL
    label text NOT NULL
    created_at timestamp with time zone NOT NULL
    revoked_at timestamp with time zone
    CONSTRAINT wallets_address_shape CHECK (address ~ '^[A-Za-z0-9_-]{43}$'::text)
    CONSTRAINT wallets_agent FOREIGN KEY (agent_id) REFERENCES identity.parties(party_id)
    CONSTRAINT wallets_label_length CHECK (length(label) <= 200)
    CONSTRAINT wallets_pkey PRIMARY KEY (address)
    CREATE INDEX wallets_by_agent ON agents.wallets USING btree (agent_id)
    GRANT INSERT, SELECT, UPDATE (revoked_at) TO tokenworks_posting

CREATE OR REPLACE FUNCTION agents.refuse_mandate_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog'
AS $function$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state = 'revoked'
        OR (to_jsonb(OLD) - 'state' - 'revoked_at') <> (to_jsonb(NEW) - 'state' - 'revoked_at') THEN
        RAISE EXCEPTION 'a mandate''s terms never change, and a revoked one stays revoked' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$function$
-- may be called by: the owner only
