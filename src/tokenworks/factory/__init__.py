"""
The token factory: watts in, tokens out, and what each one costs.

Owns: measured operating points and what follows from them (``economics``).
Does not own: prices of tiers (``pricing``), value (``ledger``).
Invariants: a figure names its boundary (GPU, IT or utility); money is exact.
"""
