-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE receipts.salt_keys
    -- The secret that makes hidden fields unguessable.
    salt_key_id smallint NOT NULL
    key_encrypted bytea NOT NULL
    created_at timestamp with time zone NOT NULL
    CONSTRAINT one_salt_key CHECK (salt_key_id = 1)
    CONSTRAINT salt_keys_pkey PRIMARY KEY (salt_key_id)
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE receipts.signing_keys
    -- Ed25519 keys, in use and retired; never deleted.
    kid text NOT NULL
    kind text NOT NULL
    lane integer
    public_jwk jsonb NOT NULL
    private_encrypted bytea NOT NULL
    certificate text NOT NULL
    root_kid text NOT NULL
    valid_from timestamp with time zone NOT NULL
    retired_at timestamp with time zone
    CONSTRAINT key_kind_known CHECK (kind = ANY (ARRAY['root'::text, 'lane'::text]))
    CONSTRAINT lane_key_has_lane CHECK ((kind = 'lane'::text) = (lane IS NOT NULL))
    CONSTRAINT retired_after_start CHECK (retired_at >= valid_from)
    CONSTRAINT root_certifies_itself CHECK (kind = 'lane'::text OR root_kid = kid)
    CONSTRAINT signing_keys_pkey PRIMARY KEY (kid)
    CONSTRAINT signing_keys_root_kid_fkey FOREIGN KEY (root_kid) REFERENCES receipts.signing_keys(kid)
    CREATE UNIQUE INDEX one_key_of_a_lane_in_use ON receipts.signing_keys USING btree (lane) WHERE ((kind = 'lane'::text) AND (retired_at IS NULL))
    CREATE UNIQUE INDEX one_root_in_use ON receipts.signing_keys USING btree (kind) WHERE ((kind = 'root'::text) AND (retired_at IS NULL))
    GRANT INSERT, SELECT, UPDATE (certificate), UPDATE (retired_at) TO tokenworks_posting
