-- name: insert_card
-- Add a version; a repeat for the same moment adds nothing and is compared by the caller.
INSERT INTO pricing.rate_cards (
    card_id, model, tier, currency, rounding, axis_count, effective_at, created_at
)
VALUES (
    %(card_id)s, %(model)s, %(tier)s, %(currency)s, %(rounding)s,
    %(axis_count)s, %(effective_at)s, %(created_at)s
)
ON CONFLICT ON CONSTRAINT rate_cards_one_at_a_time DO NOTHING;

-- name: insert_prices
-- Add all prices of a version at once.
INSERT INTO pricing.prices (price_id, card_id, axis, nano_per_million)
SELECT
    fresh.price_id,
    %(card_id)s,
    fresh.axis,
    fresh.nano_per_million
FROM unnest(%(price_ids)s::uuid[], %(axes)s::text[], %(nanos)s::bigint[])
    AS fresh (price_id, axis, nano_per_million);

-- name: select_card_at_moment
-- The version that takes effect at exactly this moment.
SELECT rate_cards.card_id
FROM pricing.rate_cards
WHERE
    rate_cards.model = %(model)s
    AND rate_cards.tier = %(tier)s
    AND rate_cards.effective_at = %(effective_at)s;

-- name: select_card_in_effect
-- The newest version of a model at a tier that was in effect at a moment.
SELECT rate_cards.card_id
FROM pricing.rate_cards
WHERE
    rate_cards.model = %(model)s
    AND rate_cards.tier = %(tier)s
    AND rate_cards.effective_at <= %(at)s
ORDER BY rate_cards.effective_at DESC
LIMIT 1;

-- name: select_current_cards
-- The versions in effect at a moment and all later ones.
SELECT newest.card_id
FROM (
    SELECT DISTINCT ON (rate_cards.model, rate_cards.tier) rate_cards.card_id
    FROM pricing.rate_cards
    WHERE rate_cards.effective_at <= %(at)s
    ORDER BY rate_cards.model, rate_cards.tier, rate_cards.effective_at DESC
) AS newest
UNION ALL
SELECT rate_cards.card_id
FROM pricing.rate_cards
WHERE rate_cards.effective_at > %(at)s;

-- name: select_card_page
-- Versions from the newest to the oldest, optionally of one model or tier.
SELECT rate_cards.card_id
FROM pricing.rate_cards
WHERE
    (%(model)s::text IS NULL OR rate_cards.model = %(model)s)
    AND (%(tier)s::text IS NULL OR rate_cards.tier = %(tier)s)
    AND (%(before)s::uuid IS NULL OR rate_cards.card_id < %(before)s)
ORDER BY rate_cards.card_id DESC
LIMIT %(rows)s;

-- name: select_cards
-- Whole versions by id, one row per price.
SELECT
    rate_cards.card_id,
    rate_cards.model,
    rate_cards.tier,
    rate_cards.currency,
    rate_cards.rounding,
    rate_cards.effective_at,
    rate_cards.created_at,
    prices.price_id,
    prices.axis,
    prices.nano_per_million
FROM pricing.rate_cards
INNER JOIN pricing.prices ON rate_cards.card_id = prices.card_id
WHERE rate_cards.card_id = ANY(%(card_ids)s)
ORDER BY rate_cards.card_id DESC, prices.axis;

-- name: notify
-- Tell the other processes that prices were set.
SELECT pg_notify('tokenworks_pricing', '')

-- name: listen
-- Hear of it.
LISTEN tokenworks_pricing
