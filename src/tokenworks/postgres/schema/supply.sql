-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE supply.offer_terms
    -- What an offer pays and to whom, one row a version; never changed, so that a settled call can be
explained for ever.
    offer_id uuid NOT NULL
    version integer NOT NULL
    upstream_model text NOT NULL
    priority integer NOT NULL
    context_tokens_max integer
    supplier_share_ppm integer
    costs jsonb
    tax_ppm integer NOT NULL
    reseller_ppm integer NOT NULL
    reseller_id uuid
    rights_ppm integer NOT NULL
    rights_id uuid
    power_ppm integer NOT NULL
    power_id uuid
    created_at timestamp with time zone NOT NULL
    CONSTRAINT offer_terms_context_positive CHECK (context_tokens_max >= 1)
    CONSTRAINT offer_terms_costs_is_an_object CHECK (jsonb_typeof(costs) = 'object'::text)
    CONSTRAINT offer_terms_offer FOREIGN KEY (offer_id) REFERENCES supply.offers(offer_id)
    CONSTRAINT offer_terms_one_cost_card CHECK ((supplier_share_ppm IS NULL) <> (costs IS NULL))
    CONSTRAINT offer_terms_pkey PRIMARY KEY (offer_id, version)
    CONSTRAINT offer_terms_power FOREIGN KEY (power_id) REFERENCES identity.parties(party_id)
    CONSTRAINT offer_terms_priority_range CHECK (priority >= 0 AND priority <= 1000000)
    CONSTRAINT offer_terms_reseller FOREIGN KEY (reseller_id) REFERENCES identity.parties(party_id)
    CONSTRAINT offer_terms_rights FOREIGN KEY (rights_id) REFERENCES identity.parties(party_id)
    CONSTRAINT offer_terms_sale_is_one_charge CHECK ((tax_ppm + reseller_ppm + rights_ppm) <= 1000000)
    CONSTRAINT offer_terms_shares_have_owners CHECK ((reseller_ppm = 0 OR reseller_id IS NOT NULL) AND (rights_ppm = 0 OR rights_id IS NOT NULL) AND (power_ppm = 0 OR power_id IS NOT NULL))
    CONSTRAINT offer_terms_shares_range CHECK (supplier_share_ppm >= 0 AND supplier_share_ppm <= 1000000 AND tax_ppm >= 0 AND tax_ppm <= 1000000 AND reseller_ppm >= 0 AND reseller_ppm <= 1000000 AND rights_ppm >= 0 AND rights_ppm <= 1000000 AND power_ppm >= 0 AND power_ppm <= 1000000)
    CONSTRAINT offer_terms_version_positive CHECK (version >= 1)
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE supply.offers
    -- Promises of suppliers to serve a model at a tier.
    offer_id uuid NOT NULL
    supplier_id uuid NOT NULL
    model text NOT NULL
    tier text NOT NULL
    state text NOT NULL
    blocked_reason text
    terms_version integer NOT NULL
    created_at timestamp with time zone NOT NULL
    changed_at timestamp with time zone NOT NULL
    CONSTRAINT offers_blocked_has_reason CHECK ((state = 'blocked'::text) = (blocked_reason IS NOT NULL))
    CONSTRAINT offers_model_shape CHECK (model ~ '^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}$'::text)
    CONSTRAINT offers_once_per_supplier UNIQUE (supplier_id, model, tier)
    CONSTRAINT offers_pkey PRIMARY KEY (offer_id)
    CONSTRAINT offers_state_known CHECK (state = ANY (ARRAY['active'::text, 'paused'::text, 'blocked'::text]))
    CONSTRAINT offers_supplier FOREIGN KEY (supplier_id) REFERENCES supply.suppliers(supplier_id)
    CONSTRAINT offers_terms_exist FOREIGN KEY (offer_id, terms_version) REFERENCES supply.offer_terms(offer_id, version) DEFERRABLE INITIALLY DEFERRED
    CONSTRAINT offers_tier_shape CHECK (tier ~ '^[a-z][a-z0-9_]{0,31}$'::text)
    GRANT INSERT, SELECT, UPDATE (blocked_reason), UPDATE (changed_at), UPDATE (state), UPDATE (terms_version) TO tokenworks_posting

TABLE supply.suppliers
    -- Endpoints that answer calls, and how to reach them.
    supplier_id uuid NOT NULL
    party_id uuid NOT NULL
    party_kind text NOT NULL DEFAULT 'supplier'::text
    name text NOT NULL
    kind text NOT NULL
    base_url text NOT NULL
    api_key_encrypted bytea
    allow_private boolean NOT NULL
    connect_timeout_ms integer NOT NULL
    first_byte_timeout_ms integer NOT NULL
    idle_timeout_ms integer NOT NULL
    state text NOT NULL
    created_at timestamp with time zone NOT NULL
    changed_at timestamp with time zone NOT NULL
    sends_call_id boolean NOT NULL DEFAULT false
    CONSTRAINT suppliers_http_only_when_vouched CHECK (base_url ~ '^https://'::text OR allow_private)
    CONSTRAINT suppliers_kind_known CHECK (kind = ANY (ARRAY['openai'::text, 'llama_cpp'::text]))
    CONSTRAINT suppliers_name_shape CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text)
    CONSTRAINT suppliers_name_unique UNIQUE (name)
    CONSTRAINT suppliers_party_is_a_supplier FOREIGN KEY (party_id, party_kind) REFERENCES identity.parties(party_id, kind)
    CONSTRAINT suppliers_pkey PRIMARY KEY (supplier_id)
    CONSTRAINT suppliers_state_known CHECK (state = ANY (ARRAY['active'::text, 'paused'::text]))
    CONSTRAINT suppliers_timeouts_range CHECK (connect_timeout_ms >= 1 AND connect_timeout_ms <= 3600000 AND first_byte_timeout_ms >= 1 AND first_byte_timeout_ms <= 3600000 AND idle_timeout_ms >= 1 AND idle_timeout_ms <= 3600000)
    CONSTRAINT suppliers_url_is_http CHECK (base_url ~ '^https?://'::text AND length(base_url) <= 2000)
    GRANT INSERT, SELECT, UPDATE (allow_private), UPDATE (api_key_encrypted), UPDATE (base_url), UPDATE (changed_at), UPDATE (connect_timeout_ms), UPDATE (first_byte_timeout_ms), UPDATE (idle_timeout_ms), UPDATE (sends_call_id), UPDATE (state) TO tokenworks_posting
