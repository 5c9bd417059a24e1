-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE identity.api_keys
    -- What a key may do; its secrets are in key_secrets.
    key_id uuid NOT NULL
    party_id uuid NOT NULL
    role text NOT NULL
    label text NOT NULL
    models text[]
    requests_per_minute integer
    spend_path_version integer NOT NULL
    expires_at timestamp with time zone
    revoked_at timestamp with time zone
    created_at timestamp with time zone NOT NULL
    mandate_id uuid
    call_quanta_max bigint
    CONSTRAINT api_keys_admin_is_platform CHECK ((role = 'admin'::text) = (party_id = '00000000-0000-0000-0000-000000000001'::uuid))
    CONSTRAINT api_keys_call_range CHECK (call_quanta_max >= 1 AND call_quanta_max <= '4611686018427387904'::bigint)
    CONSTRAINT api_keys_label_length CHECK (length(label) <= 200)
    CONSTRAINT api_keys_mandate FOREIGN KEY (mandate_id) REFERENCES agents.mandates(mandate_id)
    CONSTRAINT api_keys_models_count CHECK (cardinality(models) >= 1 AND cardinality(models) <= 1000)
    CONSTRAINT api_keys_party FOREIGN KEY (party_id) REFERENCES identity.parties(party_id)
    CONSTRAINT api_keys_path_version_positive CHECK (spend_path_version >= 1)
    CONSTRAINT api_keys_pkey PRIMARY KEY (key_id)
    CONSTRAINT api_keys_rate_range CHECK (requests_per_minute >= 1 AND requests_per_minute <= 1000000)
    CONSTRAINT api_keys_role_known CHECK (role = ANY (ARRAY['admin'::text, 'buyer'::text, 'supplier'::text]))
    CREATE INDEX api_keys_by_party ON identity.api_keys USING btree (party_id, key_id)
    GRANT INSERT, SELECT, UPDATE (revoked_at), UPDATE (spend_path_version) TO tokenworks_posting

TABLE identity.key_secrets
    -- Hashes of secrets; a rotation adds one and ends another.
    secret_sha256 text NOT NULL
    key_id uuid NOT NULL
    prefix text NOT NULL
    is_current boolean NOT NULL
    valid_until timestamp with time zone
    created_at timestamp with time zone NOT NULL
    CONSTRAINT key_secrets_is_a_hash CHECK (secret_sha256 ~ '^[0-9a-f]{64}$'::text)
    CONSTRAINT key_secrets_key FOREIGN KEY (key_id) REFERENCES identity.api_keys(key_id)
    CONSTRAINT key_secrets_pkey PRIMARY KEY (secret_sha256)
    CONSTRAINT key_secrets_prefix_is_short CHECK (length(prefix) = 10)
    CONSTRAINT key_secrets_replaced_ends CHECK (is_current = (valid_until IS NULL))
    CREATE INDEX key_secrets_by_key ON identity.key_secrets USING btree (key_id)
    CREATE UNIQUE INDEX key_secrets_one_current ON identity.key_secrets USING btree (key_id) WHERE is_current
    GRANT INSERT, SELECT, UPDATE (is_current), UPDATE (valid_until) TO tokenworks_posting

TABLE identity.parties
    -- Owners of accounts; organisations are roots, and only buyers have teams, users and agents.
    party_id uuid NOT NULL
    organisation_id uuid NOT NULL
    kind text NOT NULL
    level text NOT NULL
    name text NOT NULL
    parent_id uuid
    parent_level text
    default_tier text
    state text NOT NULL
    created_at timestamp with time zone NOT NULL
    CONSTRAINT parties_kind_key UNIQUE (party_id, kind)
    CONSTRAINT parties_kind_known CHECK (kind = ANY (ARRAY['buyer'::text, 'supplier'::text, 'power_producer'::text, 'rights_holder'::text, 'reseller'::text, 'platform'::text, 'tax_authority'::text]))
    CONSTRAINT parties_level_below_parent CHECK (level = 'organisation'::text OR level = 'team'::text AND parent_level = 'organisation'::text OR level = 'user'::text AND (parent_level = ANY (ARRAY['organisation'::text, 'team'::text])) OR level = 'agent'::text AND (parent_level = ANY (ARRAY['organisation'::text, 'team'::text, 'user'::text])))
    CONSTRAINT parties_name_shape CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text)
    CONSTRAINT parties_name_unique UNIQUE (name)
    CONSTRAINT parties_one_platform CHECK ((kind = 'platform'::text) = (party_id = '00000000-0000-0000-0000-000000000001'::uuid))
    CONSTRAINT parties_one_tax_authority CHECK ((kind = 'tax_authority'::text) = (party_id = '00000000-0000-0000-0000-000000000002'::uuid))
    CONSTRAINT parties_only_buyers_have_a_tree CHECK (kind = 'buyer'::text OR level = 'organisation'::text)
    CONSTRAINT parties_own_stay_active CHECK ((kind <> ALL (ARRAY['platform'::text, 'tax_authority'::text])) OR state = 'active'::text)
    CONSTRAINT parties_parent_in_same_tree FOREIGN KEY (parent_id, parent_level, kind, organisation_id) REFERENCES identity.parties(party_id, level, kind, organisation_id)
    CONSTRAINT parties_pkey PRIMARY KEY (party_id)
    CONSTRAINT parties_root_stands_alone CHECK (level = 'organisation'::text AND parent_id IS NULL AND parent_level IS NULL AND organisation_id = party_id OR level <> 'organisation'::text AND parent_id IS NOT NULL AND parent_level IS NOT NULL AND organisation_id <> party_id)
    CONSTRAINT parties_state_known CHECK (state = ANY (ARRAY['active'::text, 'frozen'::text, 'closed'::text]))
    CONSTRAINT parties_tier_shape CHECK (default_tier ~ '^[a-z][a-z0-9_]{0,31}$'::text)
    CONSTRAINT parties_tree_key UNIQUE (party_id, level, kind, organisation_id)
    CREATE INDEX parties_by_organisation ON identity.parties USING btree (organisation_id, party_id)
    CREATE INDEX parties_by_parent ON identity.parties USING btree (parent_id) WHERE (parent_id IS NOT NULL)
    GRANT INSERT, SELECT, UPDATE (default_tier), UPDATE (state) TO tokenworks_posting
