"""
Agents that pay: what they may spend, who looks at it, and when it is due.

Owns: ``mandates`` (wallets and what they may spend), ``brake`` (rules, scores, approvals by
people), ``payments`` (one authorised transfer from a wallet to a payee), ``escrow`` (payments
that are due on a condition). Does not own: balances and limits (``ledger``), parties
(``identity``), HTTP, x402's wire and MCP (``web``).

Invariants: no payment without a mandate that is valid at that moment; a payment's id follows
from its wallet and its nonce, so it is made once however often it is sent; what is held for a
person is held in the ledger too.

Read from the bottom line up: ``mandates`` -> ``brake`` -> ``payments`` -> ``escrow``.
"""
