-- A shorter way for what most large batches of entries are: nothing in them can be refused.

-- Post a batch of plain entries, all of them, or say no: NULL or TW030 means that nothing was
-- written and that post_v2 has to decide. Plain is: no fact is recorded, no id and no deadline is
-- outside its time, accounts are active, every account could pay all that the batch asks of it were
-- nothing credited to it, and client money moves among client accounts only. Then
-- the entries are good in whatever order, so accounts are locked, checked and changed by one
-- statement, each by the sum of its transfers. An entry's operation is 'post', its ordinal p_ordinals
-- or 0. The caller gives p_facts rising, p_lowest and p_highest are its first and last.
-- p_transfer_ops names each transfer's entry, rising; NULL: one transfer each.
CREATE FUNCTION ledger.post_plain_v1(
    p_lane integer, p_epoch bigint, p_now timestamptz, p_lowest uuid, p_highest uuid,
    p_facts uuid[], p_ordinals integer[], p_contents bytea[], p_deadlines timestamptz[], p_metas text[],
    p_transfer_ops integer[], p_debits bigint[], p_credits bigint[], p_amounts bigint[]
) RETURNS timestamptz
-- Plans are made once per connection, so they must also suit tables that are a million times
-- larger than now: index look-ups only, and cheap ones, so that accounts are looked up by the
-- sums, in their order, also while a table has no statistics.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET random_page_cost = 0.01 AS $$
DECLARE
    lane ledger.locked_lane := ledger.lock_lane(p_lane, p_epoch, p_now);
    moment timestamptz := greatest(p_now, lane.last_time);
    began timestamptz := moment;
    n integer := cardinality(p_facts);
    batch_number bigint := lane.batch + 1;
    batch_hash bytea;
    account_ids bigint[];
    assets smallint[];
    are_clients boolean[];
    asked integer;
    legs text[];
    body text;
    formed_count integer;
BEGIN
    IF EXISTS (SELECT FROM ledger.entries AS e WHERE e.fact_id = ANY (p_facts) AND e.fact_id BETWEEN p_lowest AND p_highest AND e.operation = 'post') THEN
        RETURN NULL;
    END IF;

    -- A flawed transfer counts for an account that is not there. Rows of account sums come in the
    -- order of their ids, and so are the accounts locked.
    WITH moved AS MATERIALIZED (
        SELECT account_id, sum(debit) AS debits, sum(credit) AS credits
        FROM (
            SELECT CASE WHEN debit <> credit AND amount BETWEEN 1 AND 4611686018427387904 THEN debit END AS account_id, amount AS debit, 0::bigint AS credit
            FROM unnest(p_debits, p_credits, p_amounts) AS t (debit, credit, amount)
            UNION ALL
            SELECT credit, 0, amount FROM unnest(p_credits, p_amounts) AS t (credit, amount)) AS sides
        GROUP BY account_id
        ORDER BY account_id),
    changed AS (
        UPDATE ledger.balances AS b
        SET debits_posted = b.debits_posted + moved.debits,
            credits_posted = b.credits_posted + moved.credits,
            last_time = greatest(b.last_time, began)
        FROM moved
        WHERE b.account_id = moved.account_id AND b.state = 'active'
            AND (NOT b.no_overdraft OR b.credits_posted - b.debits_posted - b.debits_pending >= moved.debits)
        RETURNING b.account_id, b.asset_id, b.money_role <> 0 AS is_client, b.last_time)
    SELECT array_agg(account_id), array_agg(asset_id), array_agg(is_client), greatest(began, max(last_time)), (SELECT count(*) FROM moved)
    INTO account_ids, assets, are_clients, moment, asked
    FROM changed;
    IF asked > coalesce(cardinality(account_ids), 0) THEN
        RAISE EXCEPTION 'an account cannot pay all that is asked of it' USING ERRCODE = 'TW030';
    END IF;
    -- Of one kind are mostly all accounts; if not, the two of each transfer have to be.
    IF (assets[1] <> ANY (assets) OR are_clients[1] <> ANY (are_clients)) AND EXISTS (
        SELECT FROM (SELECT account_ids || '{}' AS ids OFFSET 0) AS flat
        CROSS JOIN LATERAL (
            SELECT width_bucket(debit, flat.ids) AS d_, width_bucket(credit, flat.ids) AS c_
            FROM unnest(p_debits, p_credits) AS t (debit, credit)
            OFFSET 0) AS searched
        WHERE assets[d_] <> assets[c_] OR are_clients[d_] <> are_clients[c_])
    THEN
        RAISE EXCEPTION 'a transfer is between two assets, or moves client money' USING ERRCODE = 'TW030';
    END IF;
    IF moment > ANY (p_deadlines) OR p_lowest < lane.first_id OR p_highest >= lane.last_id OR p_highest > ledger.identifier_floor(moment + interval '5 minutes') THEN
        RAISE EXCEPTION 'a deadline or an id is outside of its time' USING ERRCODE = 'TW030';
    END IF;
    -- Nearly never: another writer, with a later clock, had one of the accounts.
    IF moment > began THEN
        UPDATE ledger.balances AS b SET last_time = moment WHERE b.account_id = ANY (account_ids) AND b.last_time < moment;
    END IF;

    -- After this point the batch must succeed.
    IF p_transfer_ops IS NOT NULL THEN
        SELECT array_agg(leg ORDER BY op) INTO legs
        FROM (
            SELECT op, coalesce(string_agg(leg, ',' ORDER BY place), '') AS leg
            FROM (
                SELECT op, place, '[' || debit || ',' || credit || ',' || amount || ']' AS leg
                FROM unnest(p_transfer_ops, p_debits, p_credits, p_amounts) WITH ORDINALITY AS t (op, debit, credit, amount, place)
                UNION ALL
                SELECT op, NULL, NULL FROM generate_series(1, n) AS each_one (op)) AS one_each
            GROUP BY op) AS gathered;
    END IF;
    WITH formed AS MATERIALIZED (
        SELECT op,
            '{"v":1,"op":"post","fact":"' || p_facts[op] || '","ordinal":' || coalesce(p_ordinals[op], 0) || ',"time":' || ledger.microseconds(moment) || ',"transfers":['
            || CASE WHEN p_transfer_ops IS NULL THEN '[' || p_debits[op] || ',' || p_credits[op] || ',' || p_amounts[op] || ']' ELSE legs[op] END
            || '],"taken":[],"released":[],"meta":' || p_metas[op] || '}' AS record
        FROM generate_series(1, n) AS each_one (op)
        WHERE p_facts[op] BETWEEN p_lowest AND p_highest),
    stored AS (
        INSERT INTO ledger.entries (fact_id, operation, ordinal, lane, batch, position, recorded_at, content, record)
        SELECT p_facts[op], 'post', coalesce(p_ordinals[op], 0), lane.lane, batch_number, op, moment, p_contents[op], record FROM formed)
    SELECT string_agg(record, E'\n'), count(record) INTO body, formed_count FROM formed;
    IF formed_count <> n THEN
        RAISE EXCEPTION 'formed % of % records', formed_count, n USING ERRCODE = 'TW009';
    END IF;
    batch_hash := sha256(lane.head_hash || convert_to(
        'tokenworks-batch-v1 ' || lane.lane || ' ' || batch_number || ' ' || lane.epoch || ' ' || ledger.microseconds(moment) || E'\n' || body, 'UTF8'));
    INSERT INTO ledger.batches (lane, batch, epoch, recorded_at, operations, previous_hash, hash)
    VALUES (lane.lane, batch_number, lane.epoch, moment, n, lane.head_hash, batch_hash);
    UPDATE ledger.lanes AS l SET batch = batch_number, head_hash = batch_hash, last_time = moment WHERE l.lane = p_lane;
    RETURN moment;
END
$$;

REVOKE EXECUTE ON FUNCTION ledger.post_plain_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.post_plain_v1 TO tokenworks_posting;
