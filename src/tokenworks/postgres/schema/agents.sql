-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting
GRANT USAGE ON SCHEMA TO tokenworks_retention

TABLE agents.brake_rules
    -- Every rule set that ever was; the latest of a party is in force.
    version bigint NOT NULL
    party_id uuid NOT NULL
    rules json NOT NULL
    actor text NOT NULL
    created_at timestamp with time zone NOT NULL
    CONSTRAINT brake_rules_party_id_fkey FOREIGN KEY (party_id) REFERENCES identity.parties(party_id)
    CONSTRAINT brake_rules_pkey PRIMARY KEY (party_id, version)
    CONSTRAINT brake_rules_version_counts CHECK (version > 0)
    CONSTRAINT brake_rules_version_once UNIQUE (version)
    CREATE TRIGGER brake_rules_append_only BEFORE DELETE OR UPDATE ON agents.brake_rules FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER brake_rules_not_truncated BEFORE TRUNCATE ON agents.brake_rules FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE agents.escrow_calls
    -- Which milestone a call serves; append-only.
    PARTITION BY RANGE (call_id)
    call_id uuid NOT NULL
    escrow_id uuid NOT NULL
    milestone integer NOT NULL
    claimed_at timestamp with time zone NOT NULL
    CONSTRAINT escrow_calls_milestone_range CHECK (milestone >= 0 AND milestone <= 31)
    CONSTRAINT escrow_calls_pkey PRIMARY KEY (call_id)
    CREATE TRIGGER escrow_calls_append_only BEFORE DELETE OR UPDATE ON agents.escrow_calls FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER escrow_calls_not_truncated BEFORE TRUNCATE ON agents.escrow_calls FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.escrow_events
    -- Submissions, verdicts, disputes and decisions; append-only.
    PARTITION BY RANGE (escrow_id)
    escrow_id uuid NOT NULL
    sequence integer NOT NULL
    kind text NOT NULL
    occurred_at timestamp with time zone NOT NULL
    actor text NOT NULL
    content json NOT NULL
    result bytea
    CONSTRAINT escrow_events_kind_known CHECK (kind = ANY (ARRAY['opened'::text, 'lapsed'::text, 'submitted'::text, 'attested'::text, 'evaluated'::text, 'disputed'::text, 'decided'::text, 'carried_out'::text, 'cancel_asked'::text]))
    CONSTRAINT escrow_events_pkey PRIMARY KEY (escrow_id, sequence)
    CONSTRAINT escrow_events_result_of_submission CHECK ((kind = 'submitted'::text) = (result IS NOT NULL))
    CONSTRAINT escrow_events_result_size CHECK (octet_length(result) <= 262144)
    CREATE TRIGGER escrow_events_append_only BEFORE DELETE OR UPDATE ON agents.escrow_events FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER escrow_events_not_truncated BEFORE TRUNCATE ON agents.escrow_events FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.escrows
    -- Payments that are due when a declared condition is met.
    PARTITION BY RANGE (escrow_id)
    escrow_id uuid NOT NULL
    payer_agent_id uuid NOT NULL
    organisation_id uuid NOT NULL
    mandate_id uuid NOT NULL
    payee_id uuid NOT NULL
    payee_organisation_id uuid NOT NULL
    arbiter_id uuid
    currency text NOT NULL
    quanta bigint NOT NULL
    terms text NOT NULL
    terms_sha256 text NOT NULL
    authorisation text NOT NULL
    digest bytea NOT NULL
    authorisation_ends_at timestamp with time zone NOT NULL
    created_at timestamp with time zone NOT NULL
    state text NOT NULL
    due_at timestamp with time zone
    events_count integer NOT NULL
    CONSTRAINT escrows_amount_range CHECK (quanta >= 1 AND quanta <= '4611686018427387904'::bigint)
    CONSTRAINT escrows_arbiter_is_no_side CHECK (arbiter_id IS NULL OR arbiter_id <> payee_id AND arbiter_id <> payer_agent_id)
    CONSTRAINT escrows_pkey PRIMARY KEY (escrow_id)
    CONSTRAINT escrows_state_known CHECK (state = ANY (ARRAY['opening'::text, 'funded'::text, 'submitted'::text, 'disputed'::text, 'settled'::text, 'refunded'::text, 'cancelled'::text]))
    CONSTRAINT escrows_terms_hash_shape CHECK (terms_sha256 ~ '^[0-9a-f]{64}$'::text)
    CREATE INDEX escrows_by_arbiter ON ONLY agents.escrows USING btree (arbiter_id, escrow_id) WHERE (arbiter_id IS NOT NULL)
    CREATE INDEX escrows_by_organisation ON ONLY agents.escrows USING btree (organisation_id, escrow_id)
    CREATE INDEX escrows_by_payee ON ONLY agents.escrows USING btree (payee_id, escrow_id)
    CREATE INDEX escrows_due ON ONLY agents.escrows USING btree (due_at) WHERE (due_at IS NOT NULL)
    CREATE TRIGGER escrows_not_truncated BEFORE TRUNCATE ON agents.escrows FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER escrows_terms_fixed BEFORE DELETE OR UPDATE ON agents.escrows FOR EACH ROW EXECUTE FUNCTION agents.refuse_escrow_change()
    GRANT INSERT, SELECT, UPDATE (due_at), UPDATE (events_count), UPDATE (state) TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.judgements
    -- Why payments were held or denied: the same payment has the same answer.
    PARTITION BY RANGE (payment_id)
    payment_id uuid NOT NULL
    digest bytea NOT NULL
    agent_id uuid NOT NULL
    decision json NOT NULL
    judged_at timestamp with time zone NOT NULL
    CONSTRAINT judgements_pkey PRIMARY KEY (payment_id)
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.known_payees
    -- Whom an agent has paid, or a person has approved for it.
    WITH (fillfactor=80)
    agent_id uuid NOT NULL
    currency text NOT NULL
    payee_id uuid NOT NULL
    payments bigint NOT NULL
    recent_quanta bigint[] NOT NULL
    known_since timestamp with time zone NOT NULL
    approved_by text
    CONSTRAINT known_payees_payments_check CHECK (payments >= 0)
    CONSTRAINT known_payees_pkey PRIMARY KEY (agent_id, currency, payee_id)
    CONSTRAINT known_payees_recent_quanta_check CHECK (cardinality(recent_quanta) <= 9)
    GRANT INSERT, SELECT, UPDATE TO tokenworks_posting

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

TABLE agents.payments
    -- Captures and releases of payments. A payment that is held is an open hold, not a row.
    PARTITION BY RANGE (payment_id)
    payment_id uuid NOT NULL
    operation text NOT NULL
    ordinal integer NOT NULL
    closes boolean NOT NULL
    kind text NOT NULL
    payer text NOT NULL
    agent_id uuid NOT NULL
    organisation_id uuid NOT NULL
    mandate_id uuid NOT NULL
    payee_id uuid NOT NULL
    currency text NOT NULL
    authorised_quanta bigint NOT NULL
    captured_quanta bigint NOT NULL
    resource text NOT NULL
    digest bytea NOT NULL
    reason text
    decision json NOT NULL
    receipt json
    recorded_at timestamp with time zone NOT NULL
    CONSTRAINT payment_is_capture_or_void CHECK (operation = ANY (ARRAY['capture'::text, 'void'::text]))
    CONSTRAINT payment_within_authorised CHECK (captured_quanta >= 0 AND captured_quanta <= authorised_quanta)
    CONSTRAINT payments_pkey PRIMARY KEY (payment_id, operation, ordinal)
    CONSTRAINT release_takes_nothing CHECK (operation = 'capture'::text OR captured_quanta = 0)
    CREATE INDEX payments_by_organisation ON ONLY agents.payments USING btree (organisation_id, payment_id)
    CREATE INDEX payments_by_payee ON ONLY agents.payments USING btree (payee_id, payment_id)
    CREATE TRIGGER payments_append_only BEFORE DELETE OR UPDATE ON agents.payments FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    CREATE TRIGGER payments_not_truncated BEFORE TRUNCATE ON agents.payments FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()
    GRANT SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.profiles
    -- What is usual for an agent: statistics of bounded size that may be lost; they only raise scrutiny.
    WITH (fillfactor=50, toast_tuple_target=8160, autovacuum_vacuum_scale_factor=0.02)
    agent_id uuid NOT NULL
    currency text NOT NULL
    state bytea NOT NULL
    changed_at timestamp with time zone NOT NULL
    CONSTRAINT profiles_pkey PRIMARY KEY (agent_id, currency)
    CONSTRAINT profiles_state_check CHECK (octet_length(state) <= 4096)
    GRANT INSERT, SELECT, UPDATE TO tokenworks_posting

TABLE agents.review_decisions
    -- Who said what about a review, and why.
    PARTITION BY RANGE (review_id)
    review_id uuid NOT NULL
    ordinal smallint NOT NULL
    word text NOT NULL
    digest bytea NOT NULL
    person_id uuid
    actor text NOT NULL
    scope text NOT NULL
    raise_window text
    raise_quanta bigint
    note text NOT NULL
    decided_at timestamp with time zone NOT NULL
    CONSTRAINT review_decisions_people_decide CHECK ((word = 'expire'::text) = (person_id IS NULL))
    CONSTRAINT review_decisions_person_once UNIQUE (review_id, person_id)
    CONSTRAINT review_decisions_pkey PRIMARY KEY (review_id, ordinal)
    CONSTRAINT review_decisions_raise_whole CHECK ((scope = 'raise'::text) = (raise_window IS NOT NULL) AND (raise_window IS NULL) = (raise_quanta IS NULL))
    CONSTRAINT review_decisions_scope_known CHECK (scope = ANY (ARRAY['once'::text, 'payee'::text, 'raise'::text]))
    CONSTRAINT review_decisions_word_known CHECK (word = ANY (ARRAY['approve'::text, 'deny'::text, 'expire'::text]))
    CREATE TRIGGER review_decisions_append_only BEFORE DELETE OR UPDATE ON agents.review_decisions FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.reviews
    -- Payments that wait, or waited, for a person.
    PARTITION BY RANGE (review_id)
    review_id uuid NOT NULL
    digest bytea NOT NULL
    organisation_id uuid NOT NULL
    agent_id uuid NOT NULL
    party_chain uuid[] NOT NULL
    subject json NOT NULL
    decision json NOT NULL
    approvals_needed smallint NOT NULL
    state text NOT NULL
    created_at timestamp with time zone NOT NULL
    expires_at timestamp with time zone NOT NULL
    decided_at timestamp with time zone
    note text NOT NULL DEFAULT ''::text
    CONSTRAINT reviews_decided_when_ended CHECK ((state = 'pending'::text) = (decided_at IS NULL))
    CONSTRAINT reviews_expire_later CHECK (created_at < expires_at)
    CONSTRAINT reviews_need_one_or_two CHECK (approvals_needed = ANY (ARRAY[1, 2]))
    CONSTRAINT reviews_pkey PRIMARY KEY (review_id)
    CONSTRAINT reviews_state_known CHECK (state = ANY (ARRAY['pending'::text, 'approved'::text, 'denied'::text, 'expired'::text]))
    CREATE INDEX reviews_by_organisation ON ONLY agents.reviews USING btree (organisation_id, review_id)
    CREATE INDEX reviews_pending ON ONLY agents.reviews USING btree (expires_at) WHERE (state = 'pending'::text)
    CREATE TRIGGER reviews_end_once BEFORE UPDATE ON agents.reviews FOR EACH ROW EXECUTE FUNCTION agents.refuse_second_end()
    CREATE TRIGGER reviews_stay BEFORE DELETE ON agents.reviews FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT, UPDATE (decided_at), UPDATE (note), UPDATE (state) TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

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

TABLE agents.webhook_deliveries
    -- The outbox of webhooks, and afterwards their log.
    PARTITION BY RANGE (review_id)
    review_id uuid NOT NULL
    party_id uuid NOT NULL
    event text NOT NULL
    state text NOT NULL
    attempts smallint NOT NULL
    next_attempt_at timestamp with time zone NOT NULL
    created_at timestamp with time zone NOT NULL
    attempted_at timestamp with time zone
    http_status smallint
    error text
    CONSTRAINT webhook_deliveries_event_known CHECK (event = ANY (ARRAY['opened'::text, 'approved'::text, 'denied'::text, 'expired'::text]))
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (review_id, party_id, event)
    CONSTRAINT webhook_deliveries_state_known CHECK (state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'given_up'::text]))
    CREATE INDEX webhook_deliveries_by_party ON ONLY agents.webhook_deliveries USING btree (party_id, review_id)
    CREATE INDEX webhook_deliveries_due ON ONLY agents.webhook_deliveries USING btree (next_attempt_at) WHERE (state = 'waiting'::text)
    GRANT INSERT, SELECT, UPDATE TO tokenworks_posting
    GRANT SELECT TO tokenworks_retention

TABLE agents.webhooks
    -- Where an owner wants to be told of reviews.
    party_id uuid NOT NULL
    url text NOT NULL
    secret_encrypted bytea NOT NULL
    allow_private boolean NOT NULL
    actor text NOT NULL
    created_at timestamp with time zone NOT NULL
    CONSTRAINT webhooks_party_id_fkey FOREIGN KEY (party_id) REFERENCES identity.parties(party_id)
    CONSTRAINT webhooks_pkey PRIMARY KEY (party_id)
    GRANT DELETE, INSERT, SELECT, UPDATE TO tokenworks_posting

TYPE agents.payment_row
    payment_id uuid
    operation text
    ordinal integer
    closes boolean
    kind text
    payer text
    agent_id uuid
    organisation_id uuid
    mandate_id uuid
    payee_id uuid
    currency text
    authorised_quanta bigint
    captured_quanta bigint
    resource text
    digest bytea
    reason text
    decision json
    receipt json

CREATE OR REPLACE FUNCTION agents.ensure_partitions_v1()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
DECLARE
    month ledger.partitions;
    retained ledger.retained_tables;
    suffix text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7813);
    FOR month IN SELECT * FROM ledger.partitions ORDER BY starts_at LOOP
        suffix := to_char(month.starts_at AT TIME ZONE 'UTC', 'YYYY_MM');
        FOR retained IN SELECT * FROM ledger.retained_tables WHERE name LIKE 'agents.%' ORDER BY name LOOP
            CONTINUE WHEN to_regclass(retained.name || '_' || suffix) IS NOT NULL;
            EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L) WITH (toast_tuple_target = %s)',
                retained.name || '_' || suffix, retained.name, month.first_id, month.last_id, CASE retained.name WHEN 'agents.payments' THEN 8160 ELSE 2040 END);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$function$
-- may be called by: tokenworks_posting

CREATE OR REPLACE FUNCTION agents.record_hub_v1(p_rows text[], p_recorded_at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
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
$function$
-- may be called by: the owner only

CREATE OR REPLACE FUNCTION agents.record_payments_v1(p_rows text[], p_recorded_at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog'
AS $function$
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
$function$
-- may be called by: the owner only

CREATE OR REPLACE FUNCTION agents.refuse_escrow_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog'
AS $function$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.events_count < OLD.events_count
        OR (to_jsonb(OLD) - '{state,due_at,events_count}'::text[]) <> (to_jsonb(NEW) - '{state,due_at,events_count}'::text[])
        OR (OLD.state IN ('settled', 'refunded', 'cancelled') AND NEW.state <> OLD.state) THEN
        RAISE EXCEPTION 'the terms of an escrow never change, and one that is over stays over' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$function$
-- may be called by: the owner only

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

CREATE OR REPLACE FUNCTION agents.refuse_second_end()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog'
AS $function$
BEGIN
    IF OLD.state <> 'pending' OR NEW.state = 'pending'
        OR (to_jsonb(NEW) - '{state,decided_at,note}'::text[]) <> (to_jsonb(OLD) - '{state,decided_at,note}'::text[]) THEN
        RAISE EXCEPTION 'a review ends once and its subject never changes' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$function$
-- may be called by: the owner only
