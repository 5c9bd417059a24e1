-- name: insert_key
-- Store a new key, unless a key in use (the root, or this lane's) was stored before it.
INSERT INTO receipts.signing_keys
    (kid, kind, lane, public_jwk, private_encrypted, certificate, root_kid, valid_from)
VALUES (
    %(kid)s, %(kind)s, %(lane)s, %(public_jwk)s, %(private_encrypted)s, %(certificate)s,
    %(root_kid)s, %(valid_from)s
)
ON CONFLICT DO NOTHING;

-- name: active_root
-- The root key in use.
SELECT kid, kind, lane, public_jwk, private_encrypted, certificate, root_kid, valid_from, retired_at
FROM receipts.signing_keys
WHERE kind = 'root' AND retired_at IS NULL;

-- name: active_lane_key
-- The key in use of one lane.
SELECT kid, kind, lane, public_jwk, private_encrypted, certificate, root_kid, valid_from, retired_at
FROM receipts.signing_keys
WHERE kind = 'lane' AND lane = %(lane)s AND retired_at IS NULL;

-- name: key_by_kid
-- One key, in use or retired.
SELECT kid, kind, lane, public_jwk, private_encrypted, certificate, root_kid, valid_from, retired_at
FROM receipts.signing_keys
WHERE kid = %(kid)s;

-- name: published_keys
-- Every key ever used, oldest first, without its private part.
SELECT kind, lane, public_jwk, certificate, valid_from, retired_at
FROM receipts.signing_keys
ORDER BY valid_from, kid;

-- name: retire_key
-- End a key's use; its new certificate says until when it could sign.
UPDATE receipts.signing_keys
SET retired_at = %(retired_at)s, certificate = %(certificate)s
WHERE kid = %(kid)s AND retired_at IS NULL;

-- name: insert_salt_key
-- Store the salt key, unless another process was first.
INSERT INTO receipts.salt_keys (salt_key_id, key_encrypted, created_at)
VALUES (1, %(key_encrypted)s, %(created_at)s)
ON CONFLICT DO NOTHING;

-- name: salt_key
-- The one salt key.
SELECT key_encrypted
FROM receipts.salt_keys
WHERE salt_key_id = 1;
