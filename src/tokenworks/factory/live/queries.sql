-- name: add_meter
-- A supplier has one meter at a time.
INSERT INTO factory.meters (
    meter_id, supplier_id, name, source, settings, interval_us, gap_max_us, power_max_uw, devices, boundary,
    price_nano_per_kwh, co2e_mg_per_kwh, co2e_source, co2e_method, actor, created_at)
VALUES (
    %(meter_id)s, %(supplier_id)s, %(name)s, %(source)s, %(settings)s, %(interval_us)s, %(gap_max_us)s, %(power_max_uw)s, %(devices)s,
    %(boundary)s, %(price_nano_per_kwh)s, %(co2e_mg_per_kwh)s, %(co2e_source)s, %(co2e_method)s, %(actor)s, %(created_at)s)
ON CONFLICT DO NOTHING
RETURNING meter_id

-- name: meters
-- Meters, those in use first; retired ones too where they are asked for.
SELECT
    meter_id, supplier_id, name, source, settings, interval_us, gap_max_us, power_max_uw, devices, boundary,
    price_nano_per_kwh, co2e_mg_per_kwh, co2e_source, co2e_method, actor, created_at, retired_at,
    reader.holder, reader.host, reader.leased_until
FROM factory.meters
LEFT JOIN factory.readers AS reader USING (meter_id)
WHERE (%(with_retired)s OR retired_at IS NULL)
    AND (%(meter_id)s::uuid IS NULL OR meter_id = %(meter_id)s)
    AND (%(supplier_id)s::uuid IS NULL OR supplier_id = %(supplier_id)s)
ORDER BY retired_at IS NOT NULL, created_at DESC, meter_id

-- name: retire_meter
-- It is not read any more; what was read is still divided and posted.
UPDATE factory.meters SET retired_at = %(now)s WHERE meter_id = %(meter_id)s AND retired_at IS NULL

-- name: lease_meter
-- Become or stay the one who reads a meter; nothing while another one does. Of a meter that is in
-- a machine, only that machine is next. Who is gone for certain is not waited for.
INSERT INTO factory.readers AS reader (meter_id, holder, host, leased_until)
VALUES (%(meter_id)s, %(holder)s, %(host)s, %(until)s)
ON CONFLICT (meter_id) DO UPDATE SET holder = excluded.holder, host = excluded.host, leased_until = excluded.leased_until
WHERE reader.holder = excluded.holder
    OR ((reader.leased_until <= %(now)s OR reader.holder = %(gone)s)
        AND (NOT %(is_in_a_machine)s OR reader.host IN ('', excluded.host)))
RETURNING meter_id

-- name: reader
-- Who reads a meter.
SELECT holder, host, leased_until FROM factory.readers WHERE meter_id = %(meter_id)s

-- name: release_meter
-- Let anybody read it next, on any machine; of one reader, or of whoever it is.
UPDATE factory.readers
SET leased_until = %(now)s, host = CASE WHEN %(any_host)s THEN '' ELSE host END
WHERE meter_id = %(meter_id)s AND (%(holder)s::text IS NULL OR holder = %(holder)s)
RETURNING holder

-- name: add_readings
-- Readings in the order in which they came.
INSERT INTO factory.readings (received_at, meter_id, at_us, device, quantity, value, counter_range)
SELECT %(received_at)s, %(meter_id)s, row.at_us, row.device, row.quantity, row.value, row.counter_range
FROM unnest(%(at_us)s::bigint[], %(devices)s::text[], %(quantities)s::text[], %(values)s::numeric[], %(ranges)s::bigint[])
    WITH ORDINALITY AS row (at_us, device, quantity, value, counter_range, place)
ORDER BY row.place

-- name: readings
-- What a meter said of a time, in the order in which it came: with what came in between and is of
-- another time, because a clock stepped, and with each device's last word before, because a counter
-- that was silent for long still says how much it counted meanwhile.
WITH inside AS (
    SELECT received_at
    FROM factory.readings
    WHERE meter_id = %(meter_id)s AND at_us >= %(since_us)s AND at_us <= %(until_us)s
), came AS (
    SELECT reading.*, min(at_us) OVER (PARTITION BY received_at) AS batch_us
    FROM factory.readings AS reading
    WHERE meter_id = %(meter_id)s
        AND received_at BETWEEN (SELECT min(received_at) FROM inside) AND (SELECT max(received_at) FROM inside)
        AND (NOT %(by_batch)s OR received_at IN (SELECT received_at FROM inside))
), before AS (
    SELECT DISTINCT ON (device) *
    FROM factory.readings
    WHERE meter_id = %(meter_id)s
        AND at_us < %(since_us)s
        AND at_us >= %(oldest_us)s
        AND value IS NOT NULL
        AND received_at < (SELECT min(received_at) FROM inside)
    ORDER BY device, at_us DESC, received_at DESC, reading_no DESC
)
SELECT at_us, device, quantity, value, counter_range, received_at
FROM (
    SELECT false AS is_inside, NULL::bigint AS batch_us, * FROM before
    UNION ALL
    SELECT
        true, CASE WHEN %(by_batch)s THEN batch_us END,  -- what was sent late stands in its place
        received_at, reading_no, meter_id, at_us, device, quantity, value, counter_range
    FROM came
) AS said
ORDER BY is_inside, batch_us, received_at, reading_no
LIMIT %(limit)s

-- name: reading_span
-- From when to when there are readings of a meter, by its own clock.
SELECT
    (SELECT at_us FROM factory.readings WHERE meter_id = %(meter_id)s AND at_us >= %(since_us)s ORDER BY at_us LIMIT 1),
    (SELECT at_us FROM factory.readings WHERE meter_id = %(meter_id)s AND at_us <= %(until_us)s ORDER BY at_us DESC LIMIT 1)

-- name: late_readings
-- Starts of intervals for which readings came after they were divided.
SELECT reading.at_us / %(interval_us)s * %(interval_us)s
FROM factory.readings AS reading
JOIN LATERAL (
    SELECT coalesce(max(computed_at), '-infinity') AS computed_at
    FROM factory.intervals
    WHERE meter_id = %(meter_id)s AND start_us = reading.at_us / %(interval_us)s * %(interval_us)s
) AS divided ON reading.received_at > divided.computed_at
WHERE reading.meter_id = %(meter_id)s AND reading.received_at >= %(since)s AND reading.at_us < %(before_us)s
GROUP BY 1
HAVING max(reading.received_at) < %(quiet_since)s

-- name: lock_steps
-- One sender of a meter's steps at a time: what overlaps is found.
SELECT pg_advisory_xact_lock(7814, hashtext(%(meter_id)s::text))

-- name: add_steps
-- Steps in the order in which they came.
INSERT INTO factory.steps (received_at, meter_id, name, start_us, end_us, phase, work)
SELECT %(received_at)s, %(meter_id)s, row.name, row.start_us, row.end_us, row.phase, row.work::json
FROM unnest(%(names)s::text[], %(starts)s::bigint[], %(ends)s::bigint[], %(phases)s::text[], %(works)s::text[])
    WITH ORDINALITY AS row (name, start_us, end_us, phase, work, place)
ORDER BY row.place

-- name: steps
-- Steps of a meter that touch a time, in their order.
SELECT name, start_us, end_us, phase, work
FROM factory.steps
WHERE meter_id = %(meter_id)s AND start_us > %(since_us)s - %(step_max_us)s AND start_us < %(until_us)s AND end_us > %(since_us)s
ORDER BY start_us
LIMIT %(limit)s

-- name: steps_until
-- The end of the last step that began in a time.
SELECT max(end_us) FROM factory.steps WHERE meter_id = %(meter_id)s AND start_us >= %(since_us)s AND start_us < %(until_us)s

-- name: late_steps
-- Starts of intervals for which steps came after they were divided.
SELECT touched.start_us
FROM factory.steps AS step
CROSS JOIN LATERAL generate_series(
    step.start_us / %(interval_us)s * %(interval_us)s, step.end_us - 1, %(interval_us)s) AS touched (start_us)
JOIN LATERAL (
    SELECT max(computed_at) AS computed_at
    FROM factory.intervals
    WHERE meter_id = %(meter_id)s AND start_us = touched.start_us
) AS divided ON step.received_at > divided.computed_at
WHERE step.meter_id = %(meter_id)s AND step.received_at >= %(since)s AND step.start_us < %(before_us)s
GROUP BY 1
HAVING max(step.received_at) < %(quiet_since)s

-- name: posted_until
-- The end of a meter's last interval.
SELECT max(end_us) FROM factory.intervals WHERE meter_id = %(meter_id)s

-- name: add_interval
-- Claim a revision; nothing when it is there already.
INSERT INTO factory.intervals (
    interval_id, revision, meter_id, supplier_id, start_us, end_us, metered_uj, unattributed_uj, unplaced_uj, covered_us, methods,
    is_measured, calls, input_tokens, output_tokens, faults, computed_at)
VALUES (
    %(interval_id)s, %(revision)s, %(meter_id)s, %(supplier_id)s, %(start_us)s, %(end_us)s, %(metered_uj)s, %(unattributed_uj)s,
    %(unplaced_uj)s, %(covered_us)s, %(methods)s, %(is_measured)s, %(calls)s, %(input_tokens)s, %(output_tokens)s, %(faults)s, %(computed_at)s)
ON CONFLICT DO NOTHING
RETURNING interval_id

-- name: add_shares
-- What calls were given.
INSERT INTO factory.shares (
    interval_id, revision, call_id, organisation_id, energy_uj, prefill_uj, decode_uj, context_uj, residency_uj, method, is_whole)
SELECT %(interval_id)s, %(revision)s, row.*
FROM unnest(
    %(call_ids)s::uuid[], %(organisation_ids)s::uuid[], %(energies)s::bigint[], %(prefills)s::bigint[], %(decodes)s::bigint[],
    %(contexts)s::bigint[], %(residencies)s::bigint[], %(methods)s::text[], %(wholes)s::boolean[]) AS row

-- name: intervals_to_post
-- Claimed and not in the books yet, the oldest first.
SELECT
    interval_id, revision, meter_id, supplier_id, start_us, end_us, metered_uj, unattributed_uj, unplaced_uj, covered_us, methods,
    is_measured, calls, input_tokens, output_tokens, faults, computed_at, posted_at
FROM factory.intervals
WHERE posted_at IS NULL
ORDER BY computed_at, revision
LIMIT %(limit)s

-- name: mark_posted
-- It is in the books.
UPDATE factory.intervals SET posted_at = %(now)s WHERE interval_id = %(interval_id)s AND revision = %(revision)s AND posted_at IS NULL

-- name: latest_intervals
-- The last revision of each interval of some meters.
SELECT DISTINCT ON (start_us, meter_id)
    interval_id, revision, meter_id, supplier_id, start_us, end_us, metered_uj, unattributed_uj, unplaced_uj, covered_us, methods,
    is_measured, calls, input_tokens, output_tokens, faults, computed_at, posted_at
FROM factory.intervals
WHERE meter_id = ANY (%(meter_ids)s) AND end_us > %(since_us)s AND start_us < %(until_us)s
ORDER BY start_us, meter_id, revision DESC

-- name: unattributed
-- What no call used of what was metered in a time, by supplier; of each interval its last revision.
SELECT supplier_id, sum(unattributed_uj)::bigint, bool_and(is_measured)
FROM (
    SELECT DISTINCT ON (meter_id, start_us) supplier_id, unattributed_uj, is_measured
    FROM factory.intervals
    WHERE end_us > %(since_us)s AND start_us < %(until_us)s
    ORDER BY meter_id, start_us, revision DESC
) AS last
GROUP BY supplier_id
ORDER BY supplier_id

-- name: revisions
-- Every revision of an interval.
SELECT
    interval_id, revision, meter_id, supplier_id, start_us, end_us, metered_uj, unattributed_uj, unplaced_uj, covered_us, methods,
    is_measured, calls, input_tokens, output_tokens, faults, computed_at, posted_at
FROM factory.intervals
WHERE interval_id = %(interval_id)s
ORDER BY revision

-- name: sums_by_organisation
-- What each buyer's calls got in one revision.
SELECT organisation_id, sum(energy_uj)::bigint
FROM factory.shares
WHERE interval_id = %(interval_id)s AND revision = %(revision)s
GROUP BY organisation_id
ORDER BY organisation_id

-- name: shares_of_interval
-- Every call's share of one revision.
SELECT call_id, organisation_id, energy_uj, prefill_uj, decode_uj, method, is_whole, context_uj, residency_uj
FROM factory.shares
WHERE interval_id = %(interval_id)s AND revision = %(revision)s
ORDER BY call_id

-- name: call_totals
-- What the calls of some intervals got, over the last revision of every interval they were in, and
-- what was last signed of them.
WITH touched AS (
    SELECT call_id
    FROM factory.shares
    WHERE interval_id = ANY (%(interval_ids)s::uuid[])
    UNION
    SELECT unnest(%(call_ids)s::uuid[])
), latest AS (
    SELECT DISTINCT ON (share.interval_id, share.call_id) share.*, division.revision = head.revision AS is_current, division.is_measured, division.start_us, division.end_us
    FROM touched
    JOIN factory.shares AS share USING (call_id)
    JOIN factory.intervals AS division ON division.interval_id = share.interval_id AND division.revision = share.revision
    JOIN LATERAL (SELECT max(revision) AS revision FROM factory.intervals WHERE interval_id = share.interval_id) AS head ON true
    ORDER BY share.interval_id, share.call_id, share.revision DESC
), totals AS (
    SELECT
        call_id,
        coalesce(sum(energy_uj) FILTER (WHERE is_current), 0)::bigint AS energy_uj,
        coalesce(sum(prefill_uj) FILTER (WHERE is_current), 0)::bigint AS prefill_uj,
        coalesce(sum(decode_uj) FILTER (WHERE is_current), 0)::bigint AS decode_uj,
        coalesce(sum(context_uj) FILTER (WHERE is_current), 0)::bigint AS context_uj,
        coalesce(sum(residency_uj) FILTER (WHERE is_current), 0)::bigint AS residency_uj,
        array_agg(DISTINCT method ORDER BY method) FILTER (WHERE is_current) AS methods,
        coalesce(bool_and(is_whole) FILTER (WHERE is_current), false) AS is_whole,
        coalesce(bool_and(is_measured) FILTER (WHERE is_current), true) AS is_measured,
        min(start_us) AS start_us,
        max(end_us) AS end_us,
        sum(end_us - start_us)::bigint AS metered_us
    FROM latest
    GROUP BY call_id
)
SELECT
    totals.call_id, totals.energy_uj, totals.prefill_uj, totals.decode_uj, totals.methods, totals.is_whole, totals.is_measured,
    totals.start_us, totals.end_us, totals.metered_us, coalesce(last.number, 0), last.energy_uj, last.is_whole, totals.context_uj, totals.residency_uj, last.method
FROM totals
LEFT JOIN LATERAL (
    SELECT number, energy_uj, is_whole, method
    FROM factory.addenda
    WHERE call_id = totals.call_id
    ORDER BY number DESC
    LIMIT 1
) AS last ON true
ORDER BY totals.call_id

-- name: intervals_since
-- Intervals of a meter that were divided since a moment.
SELECT DISTINCT interval_id
FROM factory.intervals
WHERE meter_id = %(meter_id)s AND start_us >= %(oldest_us)s AND computed_at > %(since)s

-- name: last_computed_at
-- When a meter's newest interval was divided.
SELECT max(computed_at)
FROM (
    SELECT computed_at
    FROM factory.intervals
    WHERE meter_id = %(meter_id)s
    ORDER BY start_us DESC, revision DESC
    LIMIT 1
) AS newest

-- name: revisions_at
-- The last revision of intervals that begin at some moments.
SELECT start_us, max(revision)
FROM factory.intervals
WHERE meter_id = %(meter_id)s AND start_us = ANY (%(starts)s::bigint[])
GROUP BY start_us

-- name: following
-- The next interval after each of some moments.
SELECT DISTINCT following.start_us
FROM unnest(%(starts)s::bigint[]) AS late (start_us)
CROSS JOIN LATERAL (
    SELECT start_us
    FROM factory.intervals
    WHERE meter_id = %(meter_id)s AND start_us > late.start_us
    ORDER BY start_us
    LIMIT 1
) AS following

-- name: without_share
-- Of calls and the intervals they ran in: those that were divided without the call, and those that
-- there are not.
WITH ran AS (
    SELECT *
    FROM unnest(%(call_ids)s::uuid[], %(starts)s::bigint[], %(booked)s::timestamptz[]) AS row (call_id, start_us, booked_at)
), head AS (
    SELECT DISTINCT ON (start_us) start_us, interval_id, revision, computed_at
    FROM factory.intervals
    WHERE meter_id = %(meter_id)s AND start_us IN (SELECT start_us FROM ran)
    ORDER BY start_us, revision DESC
)
SELECT ran.call_id, ran.start_us, head.interval_id IS NOT NULL
FROM ran
LEFT JOIN head USING (start_us)
WHERE head.interval_id IS NULL
    OR (ran.booked_at > head.computed_at - %(commit)s
        AND NOT EXISTS (
            SELECT
            FROM factory.shares
            WHERE interval_id = head.interval_id AND revision = head.revision AND call_id = ran.call_id))

-- name: note_unmetered
-- Calls that get no energy, each once.
INSERT INTO factory.unmetered_calls (call_id, meter_id, reason, booked_at, noted_at)
SELECT row.call_id, %(meter_id)s, row.reason, row.booked_at, %(now)s
FROM unnest(%(call_ids)s::uuid[], %(reasons)s::text[], %(booked)s::timestamptz[]) AS row (call_id, reason, booked_at)
ON CONFLICT DO NOTHING

-- name: unmetered
-- Calls without energy that came into the books in a time, by supplier and reason; those that got
-- theirs later do not count.
SELECT meter.supplier_id, call.reason, count(*)
FROM factory.unmetered_calls AS call
JOIN factory.meters AS meter USING (meter_id)
WHERE call.booked_at >= %(since)s
    AND call.booked_at < %(until)s
    AND NOT EXISTS (SELECT FROM factory.addenda WHERE call_id = call.call_id AND (call.reason = 'not_metered' OR is_whole))
GROUP BY 1, 2
ORDER BY 3 DESC, 1, 2

-- name: add_addendum
-- The next addendum of a call, unless another process wrote it first.
INSERT INTO factory.addenda (
    call_id, number, supplier_id, organisation_id, model, tier, energy_uj, prefill_uj, decode_uj, context_uj, residency_uj, method, is_measured, is_whole,
    co2e_ug, electricity_quanta, input_tokens, output_tokens, charge_quanta, payable_quanta, ended_at, issued_at, jws)
VALUES (
    %(call_id)s, %(number)s, %(supplier_id)s, %(organisation_id)s, %(model)s, %(tier)s, %(energy_uj)s, %(prefill_uj)s, %(decode_uj)s,
    %(context_uj)s, %(residency_uj)s, %(method)s, %(is_measured)s, %(is_whole)s, %(co2e_ug)s, %(electricity_quanta)s, %(input_tokens)s, %(output_tokens)s,
    %(charge_quanta)s, %(payable_quanta)s, %(ended_at)s, %(issued_at)s, %(jws)s)
ON CONFLICT DO NOTHING

-- name: addenda_of_call
-- What was signed about a call, in its order.
SELECT jws FROM factory.addenda WHERE call_id = %(call_id)s ORDER BY number

-- name: energy_by_call_group
-- Calls that ended in a time, by supplier, buyer, model and how they were measured; of each call
-- its last addendum.
SELECT
    supplier_id,
    organisation_id,
    model,
    method,
    count(*),
    count(*) FILTER (WHERE NOT is_whole),
    sum(input_tokens)::bigint,
    sum(output_tokens)::bigint,
    sum(energy_uj)::bigint,
    sum(prefill_uj)::bigint,
    sum(decode_uj)::bigint,
    CASE WHEN bool_and(co2e_ug IS NOT NULL) THEN sum(co2e_ug)::bigint END,
    CASE WHEN bool_and(electricity_quanta IS NOT NULL) THEN sum(electricity_quanta)::bigint END,
    sum(charge_quanta)::bigint,
    sum(payable_quanta)::bigint,
    bool_and(is_measured)
FROM (
    SELECT DISTINCT ON (call_id) *
    FROM factory.addenda
    WHERE ended_at >= %(since)s AND ended_at < %(until)s
    ORDER BY call_id, number DESC
) AS last
GROUP BY supplier_id, organisation_id, model, method
ORDER BY 9 DESC, 1, 2, 3, 4

-- name: ensure_partitions
-- Make the partitions of the ledger's months and of the coming day; drop old readings.
SELECT factory.ensure_partitions_v1(%(now)s, %(keep_days)s)
