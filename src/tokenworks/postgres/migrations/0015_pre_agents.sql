-- Ground for agents: limits over short and long windows, limits that count payments, and the
-- schema of wallets, mandates, payments, reviews and escrows.
CREATE SCHEMA agents;
GRANT USAGE ON SCHEMA agents TO tokenworks_posting;

INSERT INTO ledger.assets (asset_id, code, scale) VALUES (14, 'LIMIT.PAYMENTS', 0);

ALTER TABLE ledger.limits DROP CONSTRAINT limits_window_kind_check;
ALTER TABLE ledger.limits ADD CONSTRAINT limit_window_known
    CHECK (window_kind IN ('ever', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year'));

-- Minutes and hours go on through a change of the clocks; longer windows follow the calendar.
CREATE OR REPLACE FUNCTION ledger.window_end(p_kind text, p_zone text, p_start timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN CASE p_kind
    WHEN 'minute' THEN p_start + interval '1 minute'
    WHEN 'hour' THEN p_start + interval '1 hour'
    WHEN 'day' THEN ((p_start AT TIME ZONE p_zone) + interval '1 day') AT TIME ZONE p_zone
    WHEN 'week' THEN ((p_start AT TIME ZONE p_zone) + interval '7 days') AT TIME ZONE p_zone
    WHEN 'month' THEN ((p_start AT TIME ZONE p_zone) + interval '1 month') AT TIME ZONE p_zone
    WHEN 'quarter' THEN ((p_start AT TIME ZONE p_zone) + interval '3 months') AT TIME ZONE p_zone
    WHEN 'year' THEN ((p_start AT TIME ZONE p_zone) + interval '1 year') AT TIME ZONE p_zone
END;
