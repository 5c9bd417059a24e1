"""
The factory at work: meters of suppliers, the energy of real calls, its posting and its proof.

Owns: the schema ``factory``: meters, their readings (a spool), intervals, shares of calls, signed
addenda of receipts; when an interval is divided, posted and corrected; what the factory shows.
Does not own: how a meter is read (``adapters/power_meters``), how energy is divided
(``factory/attribution``), the calls (``gateway``), the books (``ledger``).
Invariants: an interval's calls plus its unattributed rest are its meter's figure, to the
microjoule, in every revision; each revision is posted once, whoever tries and however often; what
was signed stays: a correction is a new revision, a new entry for the difference and an addendum
with the next number.
"""
