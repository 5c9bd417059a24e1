-- name: insert_supplier
-- Add a supplier; no row comes back when the name is taken.
INSERT INTO supply.suppliers (
    supplier_id, party_id, name, kind, base_url, api_key_encrypted, allow_private, sends_call_id,
    connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, state, created_at, changed_at
) VALUES (
    %(supplier_id)s, %(party_id)s, %(name)s, %(kind)s, %(base_url)s, %(api_key_encrypted)s,
    %(allow_private)s, %(sends_call_id)s, %(connect_timeout_ms)s, %(first_byte_timeout_ms)s, %(idle_timeout_ms)s,
    'active', %(now)s, %(now)s
)
ON CONFLICT ON CONSTRAINT suppliers_name_unique DO NOTHING
RETURNING
    supplier_id, party_id, name, kind, base_url, api_key_encrypted, allow_private, sends_call_id,
    connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, state, created_at;

-- name: select_suppliers
-- Read suppliers by name, or one of them by id or name.
SELECT
    supplier_id, party_id, name, kind, base_url, api_key_encrypted, allow_private, sends_call_id,
    connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, state, created_at
FROM supply.suppliers
WHERE
    (%(supplier_id)s::uuid IS NULL OR supplier_id = %(supplier_id)s)
    AND (%(name)s::text IS NULL OR name = %(name)s)
ORDER BY name;

-- name: lock_supplier
-- Make other editors of a supplier wait until the transaction ends.
SELECT supplier_id
FROM supply.suppliers
WHERE supplier_id = %(supplier_id)s
FOR NO KEY UPDATE;

-- name: update_supplier
-- Change how a supplier is reached.
UPDATE supply.suppliers
SET
    base_url = %(base_url)s,
    api_key_encrypted = %(api_key_encrypted)s,
    allow_private = %(allow_private)s,
    sends_call_id = %(sends_call_id)s,
    connect_timeout_ms = %(connect_timeout_ms)s,
    first_byte_timeout_ms = %(first_byte_timeout_ms)s,
    idle_timeout_ms = %(idle_timeout_ms)s,
    changed_at = %(now)s
WHERE supplier_id = %(supplier_id)s;

-- name: update_supplier_state
-- Pause a supplier or let it work again.
UPDATE supply.suppliers
SET state = %(state)s, changed_at = %(now)s
WHERE supplier_id = %(supplier_id)s AND state <> %(state)s;

-- name: insert_offer
-- Add an offer; no row comes back when the supplier already has one for the model and tier.
INSERT INTO supply.offers (
    offer_id, supplier_id, model, tier, state, terms_version, created_at, changed_at
) VALUES (
    %(offer_id)s, %(supplier_id)s, %(model)s, %(tier)s, 'active', 1, %(now)s, %(now)s
)
ON CONFLICT ON CONSTRAINT offers_once_per_supplier DO NOTHING
RETURNING offer_id;

-- name: insert_terms
-- Add a version of an offer's terms.
INSERT INTO supply.offer_terms (
    offer_id, version, upstream_model, priority, context_tokens_max, supplier_share_ppm, costs,
    tax_ppm, reseller_ppm, reseller_id, rights_ppm, rights_id, power_ppm, power_id, created_at
) VALUES (
    %(offer_id)s, %(version)s, %(upstream_model)s, %(priority)s, %(context_tokens_max)s,
    %(supplier_share_ppm)s, %(costs)s, %(tax_ppm)s, %(reseller_ppm)s, %(reseller_id)s,
    %(rights_ppm)s, %(rights_id)s, %(power_ppm)s, %(power_id)s, %(now)s
);

-- name: next_terms_version
-- Count an edit of an offer and say which version it makes; other editors wait.
UPDATE supply.offers
SET terms_version = terms_version + 1, changed_at = %(now)s
WHERE offer_id = %(offer_id)s
RETURNING terms_version;

-- name: update_offer_state
-- Pause, block or resume an offer; the first reason of a block stays.
UPDATE supply.offers
SET state = %(state)s, blocked_reason = %(blocked_reason)s, changed_at = %(now)s
WHERE offer_id = %(offer_id)s AND state <> %(state)s;

-- name: select_offers
-- Read offers with their terms in force: all, of one model or supplier, or one by its id.
SELECT
    offers.offer_id, offers.supplier_id, suppliers.name, suppliers.party_id, offers.model,
    offer_terms.upstream_model, offers.tier, offer_terms.supplier_share_ppm, offer_terms.costs,
    offer_terms.tax_ppm, offer_terms.reseller_ppm, offer_terms.reseller_id,
    offer_terms.rights_ppm, offer_terms.rights_id, offer_terms.power_ppm, offer_terms.power_id,
    offer_terms.context_tokens_max, offer_terms.priority, offers.state, offers.blocked_reason,
    offers.terms_version, offers.created_at
FROM supply.offers
INNER JOIN supply.suppliers ON offers.supplier_id = suppliers.supplier_id
INNER JOIN supply.offer_terms
    ON offers.offer_id = offer_terms.offer_id AND offers.terms_version = offer_terms.version
WHERE
    (%(offer_id)s::uuid IS NULL OR offers.offer_id = %(offer_id)s)
    AND (%(supplier_id)s::uuid IS NULL OR offers.supplier_id = %(supplier_id)s)
    AND (%(model)s::text IS NULL OR offers.model = %(model)s)
ORDER BY offers.model, offers.tier, offer_terms.priority, offers.offer_id;

-- name: select_terms
-- Read one version of an offer's terms, in force or not.
SELECT
    upstream_model, supplier_share_ppm, costs, tax_ppm, reseller_ppm, reseller_id, rights_ppm,
    rights_id, power_ppm, power_id, context_tokens_max, priority
FROM supply.offer_terms
WHERE offer_id = %(offer_id)s AND version = %(version)s;

-- name: read_one_state
-- Let every statement of this transaction see the same state.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: notify
-- Tell every process, at commit, to load suppliers and offers again.
SELECT pg_notify('tokenworks_supply', '');

-- name: listen
-- Hear when to load again.
LISTEN tokenworks_supply;
