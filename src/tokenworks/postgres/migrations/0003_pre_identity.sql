-- Parties, their tree, and API keys. See docs of the package tokenworks.identity.
CREATE SCHEMA identity;

CREATE TABLE identity.parties (
    party_id uuid NOT NULL,
    -- The root of the tree; the party itself when it is the root.
    organisation_id uuid NOT NULL,
    kind text NOT NULL,
    level text NOT NULL,
    name text NOT NULL,
    parent_id uuid,
    -- The parent's level, so that the tree's rule can be a constraint.
    parent_level text,
    -- NULL: the parent's.
    default_tier text,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT parties_pkey PRIMARY KEY (party_id),
    CONSTRAINT parties_name_unique UNIQUE (name),
    CONSTRAINT parties_name_shape CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT parties_kind_known CHECK (
        kind IN (
            'buyer', 'supplier', 'power_producer', 'rights_holder', 'reseller', 'platform',
            'tax_authority'
        )
    ),
    CONSTRAINT parties_state_known CHECK (state IN ('active', 'frozen', 'closed')),
    CONSTRAINT parties_tier_shape CHECK (default_tier ~ '^[a-z][a-z0-9_]{0,31}$'),
    -- A root is its own organisation and has no parent; every other party has one.
    CONSTRAINT parties_root_stands_alone CHECK (
        (level = 'organisation' AND parent_id IS NULL AND parent_level IS NULL
            AND organisation_id = party_id)
        OR (level <> 'organisation' AND parent_id IS NOT NULL AND parent_level IS NOT NULL
            AND organisation_id <> party_id)
    ),
    -- Levels strictly descend, so a chain is at most four long and never a circle.
    CONSTRAINT parties_level_below_parent CHECK (
        level = 'organisation'
        OR (level = 'team' AND parent_level = 'organisation')
        OR (level = 'user' AND parent_level IN ('organisation', 'team'))
        OR (level = 'agent' AND parent_level IN ('organisation', 'team', 'user'))
    ),
    CONSTRAINT parties_only_buyers_have_a_tree CHECK (kind = 'buyer' OR level = 'organisation'),
    -- The hub has one operator and one tax authority, known by their ids from the start;
    -- a frozen platform could not be thawed by anyone.
    CONSTRAINT parties_one_platform CHECK (
        (kind = 'platform') = (party_id = '00000000-0000-0000-0000-000000000001')
    ),
    CONSTRAINT parties_one_tax_authority CHECK (
        (kind = 'tax_authority') = (party_id = '00000000-0000-0000-0000-000000000002')
    ),
    CONSTRAINT parties_own_stay_active CHECK (
        kind NOT IN ('platform', 'tax_authority') OR state = 'active'
    ),
    -- What a child refers to: the parent's level, kind and organisation cannot differ from
    -- what the child's row says of them.
    CONSTRAINT parties_tree_key UNIQUE (party_id, level, kind, organisation_id),
    CONSTRAINT parties_parent_in_same_tree FOREIGN KEY (
        parent_id, parent_level, kind, organisation_id
    ) REFERENCES identity.parties (party_id, level, kind, organisation_id),
    -- What other schemas refer to when a party must be of a certain kind.
    CONSTRAINT parties_kind_key UNIQUE (party_id, kind)
);
COMMENT ON TABLE identity.parties IS
'Owners of accounts; organisations are roots, and only buyers have teams, users and agents.';
CREATE INDEX parties_by_parent ON identity.parties (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX parties_by_organisation ON identity.parties (organisation_id, party_id);

INSERT INTO identity.parties (
    party_id, organisation_id, kind, level, name, state, created_at
) VALUES
(
    '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001',
    'platform', 'organisation', 'platform', 'active', '1970-01-01T00:00:00Z'
),
(
    '00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-000000000002',
    'tax_authority', 'organisation', 'tax', 'active', '1970-01-01T00:00:00Z'
);

CREATE TABLE identity.api_keys (
    key_id uuid NOT NULL,
    party_id uuid NOT NULL,
    role text NOT NULL,
    label text NOT NULL,
    -- NULL: every model.
    models text[],
    -- NULL: no rate of the key's own.
    requests_per_minute integer,
    -- The version of the ledger's spend path of this key (the path's id is the key's).
    spend_path_version integer NOT NULL,
    -- NULL: never. The first moment that is refused.
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT api_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_keys_party FOREIGN KEY (party_id) REFERENCES identity.parties (party_id),
    CONSTRAINT api_keys_role_known CHECK (role IN ('admin', 'buyer', 'supplier')),
    -- Nobody but the operator can ever hold an admin key, whatever a program does.
    CONSTRAINT api_keys_admin_is_platform CHECK (
        (role = 'admin') = (party_id = '00000000-0000-0000-0000-000000000001')
    ),
    CONSTRAINT api_keys_label_length CHECK (length(label) <= 200),
    CONSTRAINT api_keys_models_count CHECK (cardinality(models) BETWEEN 1 AND 1000),
    CONSTRAINT api_keys_rate_range CHECK (requests_per_minute BETWEEN 1 AND 1000000),
    CONSTRAINT api_keys_path_version_positive CHECK (spend_path_version >= 1)
);
COMMENT ON TABLE identity.api_keys IS 'What a key may do; its secrets are in key_secrets.';
CREATE INDEX api_keys_by_party ON identity.api_keys (party_id, key_id);

CREATE TABLE identity.key_secrets (
    secret_sha256 text NOT NULL,
    key_id uuid NOT NULL,
    -- The first characters, to recognise a key by; 42 of the secret's 256 bits.
    prefix text NOT NULL,
    -- The newest secret of the key.
    is_current boolean NOT NULL,
    -- Set when a rotation replaced it: the first moment at which it is refused.
    valid_until timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT key_secrets_pkey PRIMARY KEY (secret_sha256),
    CONSTRAINT key_secrets_key FOREIGN KEY (key_id) REFERENCES identity.api_keys (key_id),
    CONSTRAINT key_secrets_is_a_hash CHECK (secret_sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT key_secrets_prefix_is_short CHECK (length(prefix) = 10),
    -- A replaced secret always has an end; the current one ends with its key.
    CONSTRAINT key_secrets_replaced_ends CHECK (is_current = (valid_until IS NULL))
);
COMMENT ON TABLE identity.key_secrets IS 'Hashes of secrets; a rotation adds one and ends another.';
CREATE UNIQUE INDEX key_secrets_one_current ON identity.key_secrets (key_id) WHERE is_current;
CREATE INDEX key_secrets_by_key ON identity.key_secrets (key_id);

DO $$
BEGIN
    -- A database with a single role has no tokenworks_posting; then the owner serves calls.
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tokenworks_posting') THEN
        GRANT USAGE ON SCHEMA identity TO tokenworks_posting;
        GRANT SELECT, INSERT ON identity.parties TO tokenworks_posting;
        GRANT UPDATE (state, default_tier) ON identity.parties TO tokenworks_posting;
        GRANT SELECT, INSERT ON identity.api_keys TO tokenworks_posting;
        GRANT UPDATE (revoked_at, spend_path_version) ON identity.api_keys TO tokenworks_posting;
        GRANT SELECT, INSERT ON identity.key_secrets TO tokenworks_posting;
        GRANT UPDATE (is_current, valid_until) ON identity.key_secrets TO tokenworks_posting;
    END IF;
END
$$;
