"""
What a call consumed, in one shape whoever the supplier is.

Owns: the axes of usage, the translations from suppliers' usage objects, the check of usage
against the choices seen, token estimates and the token ceiling of a quote.
Does not own: prices, or what happens to a supplier that reports nonsense.
Invariants: the axes never overlap, so nothing is ever subtracted when pricing; a count is a
positive integer (an axis that was not used is absent); a supplier's zero is zero; what the hub
counted itself is marked as an estimate; a count that nobody can price by name is kept apart
in ``unknown_axes``.
"""
