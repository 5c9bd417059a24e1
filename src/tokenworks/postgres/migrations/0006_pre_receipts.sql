-- Receipts: the keys that sign them and the key that salts them; the receipts themselves
-- are drafted again from the ledger's records whenever somebody asks.
CREATE SCHEMA receipts;

CREATE TABLE receipts.signing_keys (
    kid text PRIMARY KEY,                -- RFC 7638 thumbprint of the public key
    kind text NOT NULL,
    lane integer,                        -- NULL for a root
    public_jwk jsonb NOT NULL,
    private_encrypted bytea NOT NULL,    -- sealed under the operator's master key
    certificate text NOT NULL,           -- compact JWS by the root; replaced once, on retirement
    root_kid text NOT NULL REFERENCES receipts.signing_keys,
    valid_from timestamptz NOT NULL,
    retired_at timestamptz,              -- NULL while in use; a retired key stays published
    CONSTRAINT key_kind_known CHECK (kind IN ('root', 'lane')),
    CONSTRAINT lane_key_has_lane CHECK ((kind = 'lane') = (lane IS NOT NULL)),
    CONSTRAINT root_certifies_itself CHECK (kind = 'lane' OR root_kid = kid),
    CONSTRAINT retired_after_start CHECK (retired_at >= valid_from)
);
COMMENT ON TABLE receipts.signing_keys IS 'Ed25519 keys, in use and retired; never deleted.';

-- Two processes that start at once must not make two roots, or two keys of one lane.
CREATE UNIQUE INDEX one_root_in_use ON receipts.signing_keys (kind) WHERE kind = 'root' AND retired_at IS NULL;
CREATE UNIQUE INDEX one_key_of_a_lane_in_use ON receipts.signing_keys (lane) WHERE kind = 'lane' AND retired_at IS NULL;

CREATE TABLE receipts.salt_keys (
    salt_key_id smallint PRIMARY KEY,
    key_encrypted bytea NOT NULL,        -- sealed under the operator's master key
    created_at timestamptz NOT NULL,
    -- Another salt key would give every receipt of the past another root.
    CONSTRAINT one_salt_key CHECK (salt_key_id = 1)
);
COMMENT ON TABLE receipts.salt_keys IS 'The secret that makes hidden fields unguessable.';

GRANT USAGE ON SCHEMA receipts TO tokenworks_posting;
GRANT SELECT, INSERT ON receipts.signing_keys TO tokenworks_posting;
GRANT UPDATE (certificate, retired_at) ON receipts.signing_keys TO tokenworks_posting;
GRANT SELECT, INSERT ON receipts.salt_keys TO tokenworks_posting;
