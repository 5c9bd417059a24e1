"""
Accounts, entries, holds, limits and the chain: the only writer of value.

Owns: every balance, every movement, every promise; the schema ``ledger``.
Does not own: what a movement is for (``gateway/`` and the concepts above decide legs).
Invariants: debits = credits per asset; a bounded account never falls below zero; a hold
ends exactly once; the same fact with the same content has one effect and one answer;
nothing is acknowledged before it is durable; history is append-only and hash-chained.
"""
