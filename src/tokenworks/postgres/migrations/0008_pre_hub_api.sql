-- What the hub API itself remembers: the answer of each write that came with an
-- Idempotency-Key, so that a repeat is answered without being done again.
CREATE SCHEMA hub;

CREATE TABLE hub.idempotency_keys (
    -- The party of the API key that called; each party has a name space of its own.
    party_id uuid NOT NULL,
    idempotency_key text NOT NULL,
    -- SHA-256 over method, path, query and body; another request may not reuse the key.
    request_hash bytea NOT NULL,
    state text NOT NULL,
    -- Who runs it now; a run that took over from a dead one makes the dead one's answer void.
    run_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    answered_at timestamptz,
    status smallint,
    -- The stored body; secrets are taken out before it is stored.
    body jsonb,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (party_id, idempotency_key),
    CONSTRAINT idempotency_keys_key_length CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_keys_request_hash_is_sha256 CHECK (octet_length(request_hash) = 32),
    CONSTRAINT idempotency_keys_state_known CHECK (state IN ('running', 'answered', 'failed')),
    -- An answer is stored whole or not at all.
    CONSTRAINT idempotency_keys_answer_complete CHECK (
        (state = 'answered')
        = (answered_at IS NOT NULL AND status IS NOT NULL AND body IS NOT NULL)
    )
) PARTITION BY HASH (party_id);

CREATE TABLE hub.idempotency_keys_0 PARTITION OF hub.idempotency_keys
FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE hub.idempotency_keys_1 PARTITION OF hub.idempotency_keys
FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE hub.idempotency_keys_2 PARTITION OF hub.idempotency_keys
FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE hub.idempotency_keys_3 PARTITION OF hub.idempotency_keys
FOR VALUES WITH (MODULUS 4, REMAINDER 3);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tokenworks_posting') THEN
        GRANT USAGE ON SCHEMA hub TO tokenworks_posting;
        GRANT SELECT, INSERT ON hub.idempotency_keys TO tokenworks_posting;
        GRANT UPDATE (state, run_id, started_at, answered_at, status, body)
        ON hub.idempotency_keys TO tokenworks_posting;
    END IF;
END
$$;
