"""
What consumption costs: the price book, the tiers, and rating.

Owns: rate cards (versioned, effective-dated, immutable), their choice by date, the charge of a
usage, the ceiling of a quote.
Does not own: who pays or is paid (``gateway``), what was consumed (``metering``).
Invariants: prices are integers of nano-units per million of an axis; a charge is rounded once,
by the rule the card names; no price means refusal, never zero; free is an explicit zero; a row
of the price book is never changed or removed.
"""
