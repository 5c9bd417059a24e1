-- One reader of a meter at a time, calls that came late, and calls that no meter saw.

-- Who reads a meter: a worker, or who sends its readings. Only its readings are taken; another one
-- takes over when the lease has run out, and, of a meter that is in a machine, on that machine alone.
CREATE TABLE factory.readers (
    meter_id uuid NOT NULL,
    holder text NOT NULL,              -- the process, as it calls itself
    host text NOT NULL,                -- its machine; empty: any may be next
    leased_until timestamptz NOT NULL,
    CONSTRAINT readers_pkey PRIMARY KEY (meter_id)
);
COMMENT ON TABLE factory.readers IS 'Who reads a meter, and until when nobody else may.';
GRANT SELECT, INSERT ON factory.readers TO tokenworks_posting;
GRANT UPDATE (holder, host, leased_until) ON factory.readers TO tokenworks_posting;

-- Calls at a metered supplier that get no energy, or not all of it: never dropped silently.
CREATE TABLE factory.unmetered_calls (
    call_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    reason text NOT NULL,
    booked_at timestamptz NOT NULL,    -- when the call was in the books
    noted_at timestamptz NOT NULL,
    CONSTRAINT unmetered_calls_pkey PRIMARY KEY (call_id, meter_id),
    CONSTRAINT unmetered_calls_reason_known CHECK (reason IN ('not_metered', 'readings_gone'))
);
COMMENT ON TABLE factory.unmetered_calls IS 'Calls whose energy is not known, with the reason.';
CREATE INDEX unmetered_calls_by_end ON factory.unmetered_calls (booked_at);
GRANT SELECT, INSERT ON factory.unmetered_calls TO tokenworks_posting;

-- Calls that were booked long after they began: long streams, and what waited for a database. They
-- are few; all others are found by their ids, which say when they began.
CREATE INDEX calls_booked_late ON gateway.calls (ended_at) WHERE ended_at - started_at > '00:14:00'::interval;
