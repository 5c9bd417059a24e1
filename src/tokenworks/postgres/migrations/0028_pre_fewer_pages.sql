-- A call touches fewer pages that are spread over all the books: what it costs grows less with them.

-- Calls by organisation, one span of time after the other. The index that it replaces
-- (organisation, then time) has every call at a random page of all of its month's history: the larger
-- the books, the more pages are read, and written whole to the log. Here only the pages of the span of
-- now change, and who lists an organisation's calls looks at one span after the other.

-- Which span of 2^26 ms (18.6 hours) a call began in: the first 22 bits of its id.
CREATE FUNCTION gateway.call_span(call_id uuid) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN get_byte(uuid_send(call_id), 0) * 16384 + get_byte(uuid_send(call_id), 1) * 64 + get_byte(uuid_send(call_id), 2) / 4;

-- The smallest id of a span.
CREATE FUNCTION gateway.span_floor(span integer) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rpad(lpad(to_hex(span::bigint * 4), 6, '0'), 32, '0')::uuid;

CREATE INDEX calls_by_span ON gateway.calls (gateway.call_span(call_id), organisation_id, call_id);

REVOKE EXECUTE ON FUNCTION gateway.call_span, gateway.span_floor FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gateway.call_span, gateway.span_floor TO tokenworks_posting;

-- post_v2 writes each account where it was locked, as place_v2 does, instead of looking it up a
-- second time: an eighth of locking and writing it where its page was not in use a moment ago. All
-- else in the function stays, so it is said what changes; each text has to be there just once.
DO $patch$
DECLARE
    body text := pg_get_functiondef('ledger.post_v2'::regproc);
    change record;
BEGIN
    FOR change IN
        SELECT * FROM (VALUES
('    account_ids bigint[];
    assets smallint[];',
'    account_ids bigint[];
    places tid[];                     -- where their rows are; they stay there while they are locked
    assets smallint[];'),
('    changed integer := 0;
',
'    moved record;                     -- all accounts, and where those are that change
'),
('        array_agg(b.account_id), array_agg(CASE WHEN b.no_overdraft',
'        array_agg(b.account_id), array_agg(b.place), array_agg(CASE WHEN b.no_overdraft'),
('    INTO account_ids, available, assets, states, roles, pending_deltas',
'    INTO account_ids, places, available, assets, states, roles, pending_deltas'),
('        SELECT *
        FROM ledger.balances
        WHERE account_id = ANY (debits || credits || fallbacks || part_accounts)',
'        SELECT *, ctid AS place
        FROM ledger.balances
        WHERE account_id = ANY (debits || credits || fallbacks || part_accounts)'),
('        FOR i IN 1..coalesce(cardinality(account_ids), 0) LOOP
            changed := changed + (pending_deltas[i] <> 0 OR debit_deltas[i] <> 0 OR credit_deltas[i] <> 0)::integer;
        END LOOP;
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + delta.pending,
            debits_posted = b.debits_posted + delta.debits,
            credits_posted = b.credits_posted + delta.credits,
            last_time = moment
        FROM unnest(account_ids, pending_deltas, debit_deltas, credit_deltas) AS delta (account_id, pending, debits, credits)
        WHERE b.account_id = delta.account_id AND (delta.pending <> 0 OR delta.debits <> 0 OR delta.credits <> 0);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> changed THEN
            RAISE EXCEPTION ''wrote % of % accounts'', written, changed USING ERRCODE = ''TW009'';
        END IF;',
'        -- (A record''s fields are flat; an array variable would be copied for each search.)
        SELECT account_ids AS accounts, (
            SELECT array_agg(delta.place)
            FROM unnest(places, pending_deltas, debit_deltas, credit_deltas) AS delta (place, pending, debits, credits)
            WHERE delta.pending <> 0 OR delta.debits <> 0 OR delta.credits <> 0) AS places
        INTO moved;
        UPDATE ledger.balances AS b
        SET debits_pending = b.debits_pending + pending_deltas[width_bucket(b.account_id, moved.accounts)],
            debits_posted = b.debits_posted + debit_deltas[width_bucket(b.account_id, moved.accounts)],
            credits_posted = b.credits_posted + credit_deltas[width_bucket(b.account_id, moved.accounts)],
            last_time = moment
        WHERE b.ctid = ANY (moved.places);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> coalesce(cardinality(moved.places), 0) THEN
            RAISE EXCEPTION ''wrote % of % accounts'', written, cardinality(moved.places) USING ERRCODE = ''TW009'';
        END IF;')
        ) AS listed (old_text, new_text)
    LOOP
        IF length(body) - length(replace(body, change.old_text, '')) IS DISTINCT FROM length(change.old_text) THEN
            RAISE EXCEPTION 'post_v2 is not what this changes: %', change.old_text;
        END IF;
        body := replace(body, change.old_text, change.new_text);
    END LOOP;
    EXECUTE body;
END
$patch$;
