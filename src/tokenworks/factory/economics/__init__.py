"""
What a plant can serve at which speed, and what a million tokens cost it there.

Owns: operating points, the Pareto front, interpolation, the tiers' floors, unit economics.
Does not own: the facts themselves (``catalogue``), the tiers' prices (``pricing``), metering.
Invariants: every shipped or given row is used or named as dominated, none is left out silently;
physics (tokens, seconds, watts) is floats, money is ``Fraction`` and is rounded where it is shown;
a floor that no point serves is "unreachable", never extrapolated.
"""
