-- Suppliers, their offers and what they are paid. See docs of the package tokenworks.supply.
CREATE SCHEMA supply;

CREATE TABLE supply.suppliers (
    supplier_id uuid NOT NULL,
    -- Who is owed; several endpoints may belong to one party.
    party_id uuid NOT NULL,
    party_kind text NOT NULL GENERATED ALWAYS AS ('supplier') STORED,
    name text NOT NULL,
    kind text NOT NULL,
    base_url text NOT NULL,
    -- AES-256-GCM under the master key, bound to supplier_id; NULL: the supplier wants none.
    api_key_encrypted bytea,
    -- The operator vouches for an address in a private network, and for plain http.
    allow_private boolean NOT NULL,
    connect_timeout_ms integer NOT NULL,
    first_byte_timeout_ms integer NOT NULL,
    idle_timeout_ms integer NOT NULL,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT suppliers_pkey PRIMARY KEY (supplier_id),
    -- Only a party of kind supplier has the account that a purchase is owed to.
    CONSTRAINT suppliers_party_is_a_supplier FOREIGN KEY (party_id, party_kind)
    REFERENCES identity.parties (party_id, kind),
    CONSTRAINT suppliers_name_unique UNIQUE (name),
    CONSTRAINT suppliers_name_shape CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT suppliers_kind_known CHECK (kind IN ('openai', 'llama_cpp')),
    CONSTRAINT suppliers_state_known CHECK (state IN ('active', 'paused')),
    CONSTRAINT suppliers_url_is_http CHECK (
        base_url ~ '^https?://' AND length(base_url) <= 2000
    ),
    -- Plain http to the open internet would show the supplier's key to everyone on the way.
    CONSTRAINT suppliers_http_only_when_vouched CHECK (base_url ~ '^https://' OR allow_private),
    CONSTRAINT suppliers_timeouts_range CHECK (
        connect_timeout_ms BETWEEN 1 AND 3600000
        AND first_byte_timeout_ms BETWEEN 1 AND 3600000
        AND idle_timeout_ms BETWEEN 1 AND 3600000
    )
);
COMMENT ON TABLE supply.suppliers IS 'Endpoints that answer calls, and how to reach them.';

CREATE TABLE supply.offers (
    offer_id uuid NOT NULL,
    supplier_id uuid NOT NULL,
    -- The public name, which a buyer writes before the @.
    model text NOT NULL,
    tier text NOT NULL,
    state text NOT NULL,
    blocked_reason text,
    -- The version of the terms in force.
    terms_version integer NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT offers_pkey PRIMARY KEY (offer_id),
    CONSTRAINT offers_supplier FOREIGN KEY (supplier_id) REFERENCES supply.suppliers (supplier_id),
    -- A supplier that serves a model twice at a tier is two endpoints, hence two suppliers.
    CONSTRAINT offers_once_per_supplier UNIQUE (supplier_id, model, tier),
    -- An @ would be taken for the tier.
    CONSTRAINT offers_model_shape CHECK (model ~ '^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}$'),
    CONSTRAINT offers_tier_shape CHECK (tier ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT offers_state_known CHECK (state IN ('active', 'paused', 'blocked')),
    -- Whoever finds an offer blocked can read why.
    CONSTRAINT offers_blocked_has_reason CHECK ((state = 'blocked') = (blocked_reason IS NOT NULL))
);
COMMENT ON TABLE supply.offers IS 'Promises of suppliers to serve a model at a tier.';

CREATE TABLE supply.offer_terms (
    offer_id uuid NOT NULL,
    version integer NOT NULL,
    upstream_model text NOT NULL,
    priority integer NOT NULL,
    context_tokens_max integer,
    -- The cost card: a share of the charge, or nano-USD per million of each axis.
    supplier_share_ppm integer,
    costs jsonb,
    tax_ppm integer NOT NULL,
    reseller_ppm integer NOT NULL,
    reseller_id uuid,
    rights_ppm integer NOT NULL,
    rights_id uuid,
    power_ppm integer NOT NULL,
    power_id uuid,
    created_at timestamptz NOT NULL,
    CONSTRAINT offer_terms_pkey PRIMARY KEY (offer_id, version),
    CONSTRAINT offer_terms_offer FOREIGN KEY (offer_id) REFERENCES supply.offers (offer_id),
    CONSTRAINT offer_terms_version_positive CHECK (version >= 1),
    CONSTRAINT offer_terms_one_cost_card CHECK ((supplier_share_ppm IS NULL) <> (costs IS NULL)),
    CONSTRAINT offer_terms_costs_is_an_object CHECK (jsonb_typeof(costs) = 'object'),
    CONSTRAINT offer_terms_shares_range CHECK (
        supplier_share_ppm BETWEEN 0 AND 1000000
        AND tax_ppm BETWEEN 0 AND 1000000
        AND reseller_ppm BETWEEN 0 AND 1000000
        AND rights_ppm BETWEEN 0 AND 1000000
        AND power_ppm BETWEEN 0 AND 1000000
    ),
    -- The legs of a sale come out of one charge.
    CONSTRAINT offer_terms_sale_is_one_charge CHECK (
        tax_ppm + reseller_ppm + rights_ppm <= 1000000
    ),
    -- A share that nobody owns would be lost.
    CONSTRAINT offer_terms_shares_have_owners CHECK (
        (reseller_ppm = 0 OR reseller_id IS NOT NULL)
        AND (rights_ppm = 0 OR rights_id IS NOT NULL)
        AND (power_ppm = 0 OR power_id IS NOT NULL)
    ),
    CONSTRAINT offer_terms_reseller FOREIGN KEY (reseller_id)
    REFERENCES identity.parties (party_id),
    CONSTRAINT offer_terms_rights FOREIGN KEY (rights_id) REFERENCES identity.parties (party_id),
    CONSTRAINT offer_terms_power FOREIGN KEY (power_id) REFERENCES identity.parties (party_id),
    CONSTRAINT offer_terms_context_positive CHECK (context_tokens_max >= 1),
    CONSTRAINT offer_terms_priority_range CHECK (priority BETWEEN 0 AND 1000000)
);
COMMENT ON TABLE supply.offer_terms IS
'What an offer pays and to whom, one row a version; never changed, so that a settled call can be
explained for ever.';

-- The terms in force must exist; checked at commit, because both rows are new together.
ALTER TABLE supply.offers ADD CONSTRAINT offers_terms_exist
FOREIGN KEY (offer_id, terms_version) REFERENCES supply.offer_terms (offer_id, version)
DEFERRABLE INITIALLY DEFERRED;

DO $$
BEGIN
    -- A database with a single role has no tokenworks_posting; then the owner serves calls.
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tokenworks_posting') THEN
        GRANT USAGE ON SCHEMA supply TO tokenworks_posting;
        GRANT SELECT, INSERT ON supply.suppliers TO tokenworks_posting;
        GRANT UPDATE (
            base_url, api_key_encrypted, allow_private, connect_timeout_ms, first_byte_timeout_ms,
            idle_timeout_ms, state, changed_at
        ) ON supply.suppliers TO tokenworks_posting;
        GRANT SELECT, INSERT ON supply.offers TO tokenworks_posting;
        GRANT UPDATE (state, blocked_reason, terms_version, changed_at) ON supply.offers
        TO tokenworks_posting;
        GRANT SELECT, INSERT ON supply.offer_terms TO tokenworks_posting;
    END IF;
END
$$;
