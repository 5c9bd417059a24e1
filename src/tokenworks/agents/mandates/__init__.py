"""
Wallets and mandates: which key speaks for an agent, and what that agent may spend.

Owns: wallets (an agent's public signing keys), mandates (signed terms, their tree, revocation),
the spend path that a mandate stands for, and the judgement of predicates (payee, amount,
date, model). Does not own: sums over time (limits of the mandate's scope in ``ledger``), risk
(``brake``).

Invariants: a mandate's terms never change; a child never allows what its parent forbids; a
chain is at most ``MANDATE_DEPTH_MAX`` long; a revoked or frozen mandate refuses the next hold
because its scope in the ledger is closed or frozen, whatever any cache believes.
"""
