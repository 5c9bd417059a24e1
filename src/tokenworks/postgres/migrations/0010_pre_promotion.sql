-- Which server of the books is the latest one. A promoted standby (and a restored backup) adds a
-- row with the next number; a hub that has seen it refuses every server that has not (LEDGER 11).
CREATE TABLE ledger.promotions (
    number bigint PRIMARY KEY,
    cause text NOT NULL,
    timeline bigint NOT NULL,  -- PostgreSQL's own count of histories, from this promotion on
    promoted_at timestamptz NOT NULL,
    CONSTRAINT promotion_counted_from_one CHECK (number > 0),
    CONSTRAINT promotion_cause_known CHECK (cause IN ('failover', 'restore')),
    CONSTRAINT promotion_timeline_positive CHECK (timeline > 0)
);
COMMENT ON TABLE ledger.promotions IS 'One row for each time that another server took the books over.';

CREATE TRIGGER promotions_append_only BEFORE UPDATE OR DELETE ON ledger.promotions FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER promotions_not_truncated BEFORE TRUNCATE ON ledger.promotions FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

GRANT SELECT ON ledger.promotions TO tokenworks_posting, tokenworks_retention;
