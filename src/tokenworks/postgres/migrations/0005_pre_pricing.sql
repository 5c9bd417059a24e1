-- The price book: every price that ever was, and from when on. A card is one version of all
-- prices of a model at a tier; a call stores the card it was rated by.
CREATE SCHEMA pricing;

CREATE TABLE pricing.rate_cards (
    card_id uuid PRIMARY KEY,
    model text NOT NULL,
    tier text NOT NULL,
    currency text NOT NULL,
    rounding text NOT NULL,
    -- How many prices the card has: a card cannot grow after it was made.
    axis_count smallint NOT NULL,
    effective_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    -- At any moment exactly one card is the newest; also the index by which it is found.
    CONSTRAINT rate_cards_one_at_a_time UNIQUE (model, tier, effective_at),
    CONSTRAINT rate_cards_model_length CHECK (length(model) BETWEEN 1 AND 200),
    CONSTRAINT rate_cards_tier_shape CHECK (tier ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT rate_cards_currency_shape CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT rate_cards_rounding_known CHECK (rounding IN ('half_even')),
    CONSTRAINT rate_cards_axis_count_positive CHECK (axis_count > 0)
);
COMMENT ON TABLE pricing.rate_cards IS 'Versions of the prices of a model at a tier; append only.';

CREATE TABLE pricing.prices (
    price_id uuid PRIMARY KEY,
    card_id uuid NOT NULL REFERENCES pricing.rate_cards,
    axis text NOT NULL,
    -- Nano-units of the card's currency for a million units of the axis; 0 is free.
    nano_per_million bigint NOT NULL,
    CONSTRAINT prices_one_per_axis UNIQUE (card_id, axis),
    CONSTRAINT prices_axis_shape CHECK (axis ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT prices_within_bounds CHECK (nano_per_million BETWEEN 0 AND 1000000000000000)
);
COMMENT ON TABLE pricing.prices IS 'One price per card and axis; append only.';

CREATE FUNCTION pricing.refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the price book is append only: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Set new prices with a later effective time.';
END
$$;
COMMENT ON FUNCTION pricing.refuse_change IS 'Keeps even the owner from rewriting a price.';

CREATE TRIGGER rate_cards_append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON pricing.rate_cards
FOR EACH STATEMENT EXECUTE FUNCTION pricing.refuse_change();

CREATE TRIGGER prices_append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON pricing.prices
FOR EACH STATEMENT EXECUTE FUNCTION pricing.refuse_change();

CREATE FUNCTION pricing.check_card_complete() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    stated integer;
    found integer;
BEGIN
    SELECT rate_cards.axis_count INTO stated
    FROM pricing.rate_cards
    WHERE rate_cards.card_id = NEW.card_id;
    SELECT count(*) INTO found
    FROM pricing.prices
    WHERE prices.card_id = NEW.card_id;
    IF stated <> found THEN
        RAISE EXCEPTION 'card % states % prices and would have %', NEW.card_id, stated, found
            USING ERRCODE = 'check_violation', CONSTRAINT = 'rate_cards_complete';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pricing.check_card_complete IS 'A card is committed whole, and nothing is added to it later.';

CREATE CONSTRAINT TRIGGER rate_cards_complete
AFTER INSERT ON pricing.rate_cards
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION pricing.check_card_complete();

CREATE CONSTRAINT TRIGGER prices_complete
AFTER INSERT ON pricing.prices
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION pricing.check_card_complete();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tokenworks_posting') THEN
        GRANT USAGE ON SCHEMA pricing TO tokenworks_posting;
        GRANT SELECT, INSERT ON pricing.rate_cards, pricing.prices TO tokenworks_posting;
    END IF;
END
$$;
