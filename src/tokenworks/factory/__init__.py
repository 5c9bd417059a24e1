"""
The token factory: electricity in, tokens out, and what each call took of it.

Owns: power readings and their validation, energy by interval, the step log and the span log of
engines, the division of metered energy among calls.
Does not own: the price of a call (``pricing``), tokens as billed (``metering``), the books
(``ledger``): an attribution is a statement until somebody posts it.
Invariants: energy is whole microjoules and time whole microseconds; an interval that is not
validly metered is flagged and never averaged over; what the calls get plus what nobody gets is
what the meter says, to the microjoule.
"""
