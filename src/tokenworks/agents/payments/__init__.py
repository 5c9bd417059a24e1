"""
Payments: one authorised movement of money from a wallet to a payee.

Owns: signed authorisations and what they bind, the payment's life (authorise, capture,
release), its record and its receipt. Does not own: what may be spent (``mandates``), whether
it looks right (``brake``), money (``ledger``), x402's wire (``web.x402_api``).

Invariants: a payment's id is computed from its wallet and nonce; the same authorisation always
has the same answer; a payment is held before anybody works for it and captured at most once
for each part; method, URL, body, payer, payee and amount are signed.
"""
