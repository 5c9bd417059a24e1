-- The brake: rules of owners, what is usual for an agent, payments that wait for people, webhooks.

CREATE TABLE agents.brake_rules (
    version bigint NOT NULL,          -- one count for the whole hub: the highest of a chain says what was in force
    party_id uuid NOT NULL REFERENCES identity.parties (party_id),
    rules json NOT NULL,              -- as the owner wrote them: only what differs from what it inherits
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT brake_rules_pkey PRIMARY KEY (party_id, version),
    CONSTRAINT brake_rules_version_once UNIQUE (version),
    CONSTRAINT brake_rules_version_counts CHECK (version > 0)
);
COMMENT ON TABLE agents.brake_rules IS 'Every rule set that ever was; the latest of a party is in force.';
CREATE TRIGGER brake_rules_append_only BEFORE UPDATE OR DELETE ON agents.brake_rules FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER brake_rules_not_truncated BEFORE TRUNCATE ON agents.brake_rules FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- One row an agent and currency, rewritten by each payment: kept in one piece, two to a page.
CREATE TABLE agents.profiles (
    agent_id uuid NOT NULL,
    currency text NOT NULL,
    state bytea NOT NULL CHECK (octet_length(state) <= 4096),
    changed_at timestamptz NOT NULL,
    CONSTRAINT profiles_pkey PRIMARY KEY (agent_id, currency)
) WITH (fillfactor = 50, toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE agents.profiles ALTER COLUMN state SET STORAGE MAIN;
COMMENT ON TABLE agents.profiles IS 'What is usual for an agent: statistics of bounded size that may be lost; they only raise scrutiny.';

CREATE TABLE agents.known_payees (
    agent_id uuid NOT NULL,
    currency text NOT NULL,
    payee_id uuid NOT NULL,
    payments bigint NOT NULL CHECK (payments >= 0),
    recent_quanta bigint[] NOT NULL CHECK (cardinality(recent_quanta) <= 9),
    known_since timestamptz NOT NULL,
    approved_by text,                 -- who said that this payee is known; NULL: it was paid
    CONSTRAINT known_payees_pkey PRIMARY KEY (agent_id, currency, payee_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE agents.known_payees IS 'Whom an agent has paid, or a person has approved for it.';

-- Denials and holds only: what was let pass stands in the payment itself.
CREATE TABLE agents.judgements (
    payment_id uuid NOT NULL,
    digest bytea NOT NULL,
    agent_id uuid NOT NULL,
    decision json NOT NULL,
    judged_at timestamptz NOT NULL,
    CONSTRAINT judgements_pkey PRIMARY KEY (payment_id)
) PARTITION BY RANGE (payment_id);
COMMENT ON TABLE agents.judgements IS 'Why payments were held or denied: the same payment has the same answer.';

CREATE TABLE agents.reviews (
    review_id uuid NOT NULL,          -- the payment's id
    digest bytea NOT NULL,            -- of the exact payload that people decide on
    organisation_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    party_chain uuid[] NOT NULL,      -- from the organisation down to the agent: who may see it
    subject json NOT NULL,
    decision json NOT NULL,
    approvals_needed smallint NOT NULL,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    decided_at timestamptz,
    note text NOT NULL DEFAULT '',
    CONSTRAINT reviews_pkey PRIMARY KEY (review_id),
    CONSTRAINT reviews_state_known CHECK (state IN ('pending', 'approved', 'denied', 'expired')),
    CONSTRAINT reviews_decided_when_ended CHECK ((state = 'pending') = (decided_at IS NULL)),
    CONSTRAINT reviews_need_one_or_two CHECK (approvals_needed IN (1, 2)),
    CONSTRAINT reviews_expire_later CHECK (created_at < expires_at)
) PARTITION BY RANGE (review_id);
COMMENT ON TABLE agents.reviews IS 'Payments that wait, or waited, for a person.';
CREATE INDEX reviews_pending ON agents.reviews (expires_at) WHERE state = 'pending';
CREATE INDEX reviews_by_organisation ON agents.reviews (organisation_id, review_id);

-- Fail closed for ever: what has ended stays as it ended, and nothing else of a review changes.
CREATE FUNCTION agents.refuse_second_end() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.state <> 'pending' OR NEW.state = 'pending'
        OR (to_jsonb(NEW) - '{state,decided_at,note}'::text[]) <> (to_jsonb(OLD) - '{state,decided_at,note}'::text[]) THEN
        RAISE EXCEPTION 'a review ends once and its subject never changes' USING ERRCODE = 'TW020';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER reviews_end_once BEFORE UPDATE ON agents.reviews FOR EACH ROW EXECUTE FUNCTION agents.refuse_second_end();
CREATE TRIGGER reviews_stay BEFORE DELETE ON agents.reviews FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();

CREATE TABLE agents.review_decisions (
    review_id uuid NOT NULL,
    ordinal smallint NOT NULL,
    word text NOT NULL,
    digest bytea NOT NULL,            -- what was decided on, as the person named it
    person_id uuid,                   -- whom the key stands for; NULL: the clock
    actor text NOT NULL,
    scope text NOT NULL,
    raise_window text,                -- with the scope 'raise': which limit of the mandate, and how far
    raise_quanta bigint,
    note text NOT NULL,
    decided_at timestamptz NOT NULL,
    CONSTRAINT review_decisions_pkey PRIMARY KEY (review_id, ordinal),
    -- Two persons are two persons.
    CONSTRAINT review_decisions_person_once UNIQUE (review_id, person_id),
    CONSTRAINT review_decisions_word_known CHECK (word IN ('approve', 'deny', 'expire')),
    CONSTRAINT review_decisions_scope_known CHECK (scope IN ('once', 'payee', 'raise')),
    CONSTRAINT review_decisions_raise_whole CHECK ((scope = 'raise') = (raise_window IS NOT NULL) AND (raise_window IS NULL) = (raise_quanta IS NULL)),
    CONSTRAINT review_decisions_people_decide CHECK ((word = 'expire') = (person_id IS NULL))
) PARTITION BY RANGE (review_id);
COMMENT ON TABLE agents.review_decisions IS 'Who said what about a review, and why.';
CREATE TRIGGER review_decisions_append_only BEFORE UPDATE OR DELETE ON agents.review_decisions FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();

CREATE TABLE agents.webhooks (
    party_id uuid NOT NULL REFERENCES identity.parties (party_id),
    url text NOT NULL,
    secret_encrypted bytea NOT NULL,
    allow_private boolean NOT NULL,   -- an admin vouched for a private address and for plain http
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT webhooks_pkey PRIMARY KEY (party_id)
);
COMMENT ON TABLE agents.webhooks IS 'Where an owner wants to be told of reviews.';

CREATE TABLE agents.webhook_deliveries (
    review_id uuid NOT NULL,
    party_id uuid NOT NULL,           -- whose webhook
    event text NOT NULL,
    state text NOT NULL,
    attempts smallint NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    attempted_at timestamptz,
    http_status smallint,
    error text,                       -- why the last attempt failed; never what the receiver answered
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (review_id, party_id, event),
    CONSTRAINT webhook_deliveries_event_known CHECK (event IN ('opened', 'approved', 'denied', 'expired')),
    CONSTRAINT webhook_deliveries_state_known CHECK (state IN ('waiting', 'delivered', 'given_up'))
) PARTITION BY RANGE (review_id);
COMMENT ON TABLE agents.webhook_deliveries IS 'The outbox of webhooks, and afterwards their log.';
CREATE INDEX webhook_deliveries_due ON agents.webhook_deliveries (next_attempt_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_by_party ON agents.webhook_deliveries (party_id, review_id);

INSERT INTO ledger.retained_tables (name, order_columns) VALUES
    ('agents.judgements', '{payment_id}'), ('agents.reviews', '{review_id}'), ('agents.review_decisions', '{review_id,ordinal}'),
    ('agents.webhook_deliveries', '{review_id,party_id,event}');

-- Partitions follow the ledger's months, for every table of this schema that is retained; so a
-- table that comes later only needs its row there. A payment's row is large and kept in one piece.
CREATE OR REPLACE FUNCTION agents.ensure_partitions_v1() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
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
$$;

REVOKE EXECUTE ON FUNCTION agents.refuse_second_end, agents.ensure_partitions_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agents.ensure_partitions_v1 TO tokenworks_posting;
GRANT SELECT, INSERT ON agents.brake_rules, agents.judgements, agents.reviews, agents.review_decisions TO tokenworks_posting;
GRANT UPDATE (state, decided_at, note) ON agents.reviews TO tokenworks_posting;
GRANT SELECT, INSERT, UPDATE ON agents.profiles, agents.known_payees, agents.webhook_deliveries TO tokenworks_posting;
GRANT SELECT, INSERT, UPDATE, DELETE ON agents.webhooks TO tokenworks_posting;
GRANT USAGE ON SCHEMA agents TO tokenworks_retention;
GRANT SELECT ON agents.judgements, agents.reviews, agents.review_decisions, agents.webhook_deliveries TO tokenworks_retention;
