"""
The figures of the token factory against their targets.

Owns: what is computed from the shipped points, the SIMULATION of attribution, and their table.
Does not own: the mechanisms (``tokenworks.factory``).
Invariants: every figure comes from shipped rows or a labelled simulation and says which; nothing
is a constant but targets.
"""
