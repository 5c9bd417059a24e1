-- name: payment
-- What is recorded of one payment, in its order.
SELECT * FROM agents.payments
WHERE payment_id = %(payment_id)s
ORDER BY recorded_at, ordinal

-- name: list_ended
-- Payments with a capture or a release, newest first, by their last row; every filter is optional.
WITH RECURSIVE below AS (
    SELECT party_id FROM identity.parties WHERE party_id = %(within_party_id)s
    UNION ALL
    SELECT child.party_id FROM identity.parties AS child JOIN below ON child.parent_id = below.party_id
)
SELECT payment.*, (SELECT sum(part.captured_quanta) FROM agents.payments AS part WHERE part.payment_id = payment.payment_id) AS captured_in_all
FROM agents.payments AS payment
WHERE (%(within_party_id)s::uuid IS NULL OR payment.organisation_id = %(within_party_id)s
        OR payment.agent_id IN (SELECT party_id FROM below) OR payment.payee_id IN (SELECT party_id FROM below))
    AND (%(organisation_id)s::uuid IS NULL OR payment.organisation_id = %(organisation_id)s)
    AND (%(agent_id)s::uuid IS NULL OR payment.agent_id = %(agent_id)s)
    AND (%(mandate_id)s::uuid IS NULL OR payment.mandate_id = %(mandate_id)s)
    AND (%(payee_id)s::uuid IS NULL OR payment.payee_id = %(payee_id)s)
    AND (%(since)s::timestamptz IS NULL OR payment.payment_id >= ledger.identifier_floor(%(since)s))
    AND (%(before)s::uuid IS NULL OR payment.payment_id < %(before)s)
    AND payment.ordinal = (
        SELECT max(last.ordinal) FROM agents.payments AS last
        WHERE last.payment_id = payment.payment_id AND last.operation = payment.operation)
    AND (payment.operation = 'capture' OR NOT EXISTS (
        SELECT FROM agents.payments AS paid WHERE paid.payment_id = payment.payment_id AND paid.operation = 'capture'))
ORDER BY payment.payment_id DESC
LIMIT %(limit)s

-- name: list_captures
-- Captures with a receipt of their own, newest payment first; calls have the call's.
SELECT payment_id, ordinal
FROM agents.payments
WHERE operation = 'capture' AND kind <> 'call'
    AND (%(since)s::timestamptz IS NULL OR payment_id >= ledger.identifier_floor(%(since)s))
    AND (%(until)s::timestamptz IS NULL OR payment_id < ledger.identifier_floor(%(until)s))
    AND (%(before)s::uuid IS NULL OR (payment_id, ordinal) < (%(before)s, %(before_ordinal)s))
ORDER BY payment_id DESC, ordinal DESC
LIMIT %(limit)s

-- name: list_held
-- Open holds of payments, newest first.
WITH RECURSIVE below AS (
    SELECT party_id FROM identity.parties WHERE party_id = %(within_party_id)s
    UNION ALL
    SELECT child.party_id FROM identity.parties AS child JOIN below ON child.parent_id = below.party_id
)
SELECT hold.hold_id, hold.state, hold.placed_at, hold.expires_at, hold.part_accounts, hold.part_assets, hold.part_held, hold.part_captured, hold.meta
FROM ledger.holds AS hold
CROSS JOIN LATERAL (SELECT hold.meta::json AS said OFFSET 0) AS note
WHERE hold.state = 'open' AND note.said ->> 'kind' = 'payment'
    AND (%(within_party_id)s::uuid IS NULL OR (note.said -> 'parties' ->> -1)::uuid IN (SELECT party_id FROM below)
        OR (note.said ->> 'payee')::uuid IN (SELECT party_id FROM below))
    AND (%(organisation_id)s::uuid IS NULL OR (note.said -> 'parties' ->> 0)::uuid = %(organisation_id)s)
    AND (%(agent_id)s::uuid IS NULL OR (note.said -> 'parties' ->> -1)::uuid = %(agent_id)s)
    AND (%(mandate_id)s::uuid IS NULL OR (note.said ->> 'mandate')::uuid = %(mandate_id)s)
    AND (%(payee_id)s::uuid IS NULL OR (note.said ->> 'payee')::uuid = %(payee_id)s)
    AND (%(since)s::timestamptz IS NULL OR hold.hold_id >= ledger.identifier_floor(%(since)s))
    AND (%(before)s::uuid IS NULL OR hold.hold_id < %(before)s)
ORDER BY hold.hold_id DESC
LIMIT %(limit)s

-- name: list_expired
-- Payments whose hold ended by its time, before anything was taken; newest first.
WITH RECURSIVE below AS (
    SELECT party_id FROM identity.parties WHERE party_id = %(within_party_id)s
    UNION ALL
    SELECT child.party_id FROM identity.parties AS child JOIN below ON child.parent_id = below.party_id
)
SELECT hold.hold_id, hold.state, hold.placed_at, hold.expires_at, hold.part_accounts, hold.part_assets, hold.part_held, hold.part_captured, hold.meta
FROM ledger.holds AS hold
CROSS JOIN LATERAL (SELECT hold.meta::json AS said OFFSET 0) AS note
WHERE hold.state = 'expired' AND note.said ->> 'kind' = 'payment'
    AND (%(within_party_id)s::uuid IS NULL OR (note.said -> 'parties' ->> -1)::uuid IN (SELECT party_id FROM below)
        OR (note.said ->> 'payee')::uuid IN (SELECT party_id FROM below))
    AND (%(organisation_id)s::uuid IS NULL OR (note.said -> 'parties' ->> 0)::uuid = %(organisation_id)s)
    AND (%(agent_id)s::uuid IS NULL OR (note.said -> 'parties' ->> -1)::uuid = %(agent_id)s)
    AND (%(mandate_id)s::uuid IS NULL OR (note.said ->> 'mandate')::uuid = %(mandate_id)s)
    AND (%(payee_id)s::uuid IS NULL OR (note.said ->> 'payee')::uuid = %(payee_id)s)
    AND (%(since)s::timestamptz IS NULL OR hold.hold_id >= ledger.identifier_floor(%(since)s))
    AND (%(before)s::uuid IS NULL OR hold.hold_id < %(before)s)
    AND NOT EXISTS (SELECT FROM agents.payments AS paid WHERE paid.payment_id = hold.hold_id)
ORDER BY hold.hold_id DESC
LIMIT %(limit)s

-- name: ensure_partitions
-- Make the partitions of the ledger's months.
SELECT agents.ensure_partitions_v1()
