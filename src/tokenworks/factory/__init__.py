"""
The token factory: electricity in, tokens out, what each call took of it and what each costs.

Owns: power readings and their validation, energy by interval, the step log and the span log of
engines, the division of metered energy among calls; what measured operating points say of tiers
and costs (``economics``).
Does not own: the price of a call (``pricing``), tokens as billed (``metering``), the books
(``ledger``): an attribution is a statement until somebody posts it.
Invariants: energy is whole microjoules and time whole microseconds; an interval that is not
validly metered is flagged and never averaged over; what the calls get plus what nobody gets is
what the meter says, to the microjoule. A power figure names its boundary; money is exact.
"""
