-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE pricing.prices
    -- One price per card and axis; append only.
    price_id uuid NOT NULL
    card_id uuid NOT NULL
    axis text NOT NULL
    nano_per_million bigint NOT NULL
    CONSTRAINT prices_axis_shape CHECK (axis ~ '^[a-z][a-z0-9_]{0,31}$'::text)
    CONSTRAINT prices_card_id_fkey FOREIGN KEY (card_id) REFERENCES pricing.rate_cards(card_id)
    CONSTRAINT prices_one_per_axis UNIQUE (card_id, axis)
    CONSTRAINT prices_pkey PRIMARY KEY (price_id)
    CONSTRAINT prices_within_bounds CHECK (nano_per_million >= 0 AND nano_per_million <= '1000000000000000'::bigint)
    CREATE TRIGGER prices_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON pricing.prices FOR EACH STATEMENT EXECUTE FUNCTION pricing.refuse_change()
    CREATE CONSTRAINT TRIGGER prices_complete AFTER INSERT ON pricing.prices DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pricing.check_card_complete()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE pricing.rate_cards
    -- Versions of the prices of a model at a tier; append only.
    card_id uuid NOT NULL
    model text NOT NULL
    tier text NOT NULL
    currency text NOT NULL
    rounding text NOT NULL
    axis_count smallint NOT NULL
    effective_at timestamp with time zone NOT NULL
    created_at timestamp with time zone NOT NULL
    CONSTRAINT rate_cards_axis_count_positive CHECK (axis_count > 0)
    CONSTRAINT rate_cards_currency_shape CHECK (currency ~ '^[A-Z]{3}$'::text)
    CONSTRAINT rate_cards_model_length CHECK (length(model) >= 1 AND length(model) <= 200)
    CONSTRAINT rate_cards_one_at_a_time UNIQUE (model, tier, effective_at)
    CONSTRAINT rate_cards_pkey PRIMARY KEY (card_id)
    CONSTRAINT rate_cards_rounding_known CHECK (rounding = 'half_even'::text)
    CONSTRAINT rate_cards_tier_shape CHECK (tier ~ '^[a-z][a-z0-9_]{0,31}$'::text)
    CREATE TRIGGER rate_cards_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON pricing.rate_cards FOR EACH STATEMENT EXECUTE FUNCTION pricing.refuse_change()
    CREATE CONSTRAINT TRIGGER rate_cards_complete AFTER INSERT ON pricing.rate_cards DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pricing.check_card_complete()
    GRANT INSERT, SELECT TO tokenworks_posting

CREATE OR REPLACE FUNCTION pricing.check_card_complete()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
$function$
-- may be called by: PUBLIC

CREATE OR REPLACE FUNCTION pricing.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'the price book is append only: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Set new prices with a later effective time.';
END
$function$
-- may be called by: PUBLIC
