-- Which process wrote in which epoch of a lane, so that what a process held can be given back
-- as soon as it is gone. See docs/internals/ledger.md, "When a process is gone".

CREATE TABLE ledger.leases (
    lane integer NOT NULL,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    leased_at timestamptz NOT NULL,
    ended_at timestamptz,  -- set once the holder is gone: nothing is committed in this epoch any more
    PRIMARY KEY (lane, epoch)
);
COMMENT ON TABLE ledger.leases IS 'Leases of processes that live, or whose holds are not yet all given back.';
-- Who reconnected often has many.
CREATE INDEX leases_of_holder ON ledger.leases (holder) WHERE ended_at IS NULL;

-- As before, and the lease is written down.
CREATE OR REPLACE FUNCTION ledger.lease_lane_v1(p_holder text, p_now timestamptz, p_until timestamptz, p_lanes_max integer) RETURNS TABLE (lane integer, epoch bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    free_lane integer;
    new_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7811);
    SELECT l.lane INTO free_lane FROM ledger.lanes AS l WHERE l.leased_until < p_now OR l.holder = p_holder ORDER BY l.lane LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF free_lane IS NULL THEN
        SELECT coalesce(max(l.lane), 0) + 1 INTO free_lane FROM ledger.lanes AS l;
        IF free_lane > p_lanes_max THEN
            RAISE EXCEPTION 'all % lanes are leased', p_lanes_max USING ERRCODE = 'TW004';
        END IF;
        INSERT INTO ledger.lanes (lane, epoch, holder, leased_until, last_time) VALUES (free_lane, 0, p_holder, p_until, p_now);
    END IF;
    UPDATE ledger.lanes AS l SET epoch = l.epoch + 1, holder = p_holder, leased_until = p_until WHERE l.lane = free_lane RETURNING l.epoch INTO new_epoch;
    INSERT INTO ledger.leases (lane, epoch, holder, leased_at) VALUES (free_lane, new_epoch, p_holder, p_now);
    RETURN QUERY SELECT free_lane, new_epoch;
END
$$;

-- End every lease of a process, and with them what it could still commit: the epochs of its lanes
-- go up. False when it may live after all: one of its batches is under way (its lane is locked, and
-- waiting for it could take as long as a standby is away), or, unless the machine says that
-- the process is gone, one of its leases was renewed meanwhile. It can lease a lane again.
CREATE FUNCTION ledger.end_leases_v1(p_holder text, p_now timestamptz, p_is_gone boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    locked integer[];
    own integer[];
BEGIN
    PERFORM pg_advisory_xact_lock(7811);
    SELECT array_agg(l.lane) INTO own FROM ledger.lanes AS l WHERE l.holder = p_holder;
    SELECT array_agg(free.lane) INTO locked
    FROM (SELECT l.lane FROM ledger.lanes AS l WHERE l.holder = p_holder ORDER BY l.lane FOR NO KEY UPDATE SKIP LOCKED) AS free;
    IF cardinality(own) IS DISTINCT FROM cardinality(locked) THEN
        RETURN false;
    END IF;
    IF NOT p_is_gone AND EXISTS (SELECT FROM ledger.lanes AS l WHERE l.lane = ANY (locked) AND l.leased_until >= p_now) THEN
        RETURN false;
    END IF;
    UPDATE ledger.lanes AS l SET epoch = l.epoch + 1, leased_until = least(l.leased_until, p_now) WHERE l.lane = ANY (locked);
    UPDATE ledger.leases SET ended_at = p_now WHERE holder = p_holder AND ended_at IS NULL;
    RETURN true;
END
$$;

-- Leases that ended, and under which nothing is held any more that should be given back.
CREATE FUNCTION ledger.forget_leases_v1(p_lanes integer[], p_epochs bigint[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM ledger.leases AS lease
    USING unnest(p_lanes, p_epochs) AS done (lane, epoch)
    WHERE lease.lane = done.lane AND lease.epoch = done.epoch AND lease.ended_at IS NOT NULL;
$$;

REVOKE EXECUTE ON FUNCTION ledger.end_leases_v1, ledger.forget_leases_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.end_leases_v1, ledger.forget_leases_v1 TO tokenworks_posting;
GRANT SELECT ON ledger.leases TO tokenworks_posting;

-- Suppliers that keep the caller's id of a request can name it on their statements.
ALTER TABLE supply.suppliers ADD COLUMN sends_call_id boolean NOT NULL DEFAULT false;
GRANT UPDATE (sends_call_id) ON supply.suppliers TO tokenworks_posting;
