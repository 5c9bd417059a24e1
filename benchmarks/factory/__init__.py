"""
The figures of the token factory against their targets.

Owns: what is computed from the shipped points, and the table of it.
Does not own: the mechanisms (``tokenworks.factory``).
Invariants: every figure comes from shipped rows and says which; nothing is a constant but targets.
"""
