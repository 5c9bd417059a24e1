-- Holds that ended by their time are few; a list of payments shows those among them that were payments.
CREATE INDEX holds_expired ON ledger.holds (hold_id) WHERE state = 'expired';
