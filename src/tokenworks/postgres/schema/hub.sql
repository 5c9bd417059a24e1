-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE hub.idempotency_keys
    PARTITION BY HASH (party_id)
    party_id uuid NOT NULL
    idempotency_key text NOT NULL
    request_hash bytea NOT NULL
    state text NOT NULL
    run_id uuid NOT NULL
    started_at timestamp with time zone NOT NULL
    answered_at timestamp with time zone
    status smallint
    body jsonb
    CONSTRAINT idempotency_keys_answer_complete CHECK ((state = 'answered'::text) = (answered_at IS NOT NULL AND status IS NOT NULL AND body IS NOT NULL))
    CONSTRAINT idempotency_keys_key_length CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 255)
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (party_id, idempotency_key)
    CONSTRAINT idempotency_keys_request_hash_is_sha256 CHECK (octet_length(request_hash) = 32)
    CONSTRAINT idempotency_keys_state_known CHECK (state = ANY (ARRAY['running'::text, 'answered'::text, 'failed'::text]))
    PARTITION idempotency_keys_0 FOR VALUES WITH (modulus 4, remainder 0)
    PARTITION idempotency_keys_1 FOR VALUES WITH (modulus 4, remainder 1)
    PARTITION idempotency_keys_2 FOR VALUES WITH (modulus 4, remainder 2)
    PARTITION idempotency_keys_3 FOR VALUES WITH (modulus 4, remainder 3)
    GRANT INSERT, SELECT, UPDATE (answered_at), UPDATE (body), UPDATE (run_id), UPDATE (started_at), UPDATE (state), UPDATE (status) TO tokenworks_posting
