"""
Power readings become energy by interval.

Owns: readings (watts or a counter of joules) as data, their validation, the exact integral.
Does not own: where readings come from (``adapters/power_meters``), who used the energy
(``factory/attribution``).
Invariants: energies of adjoining intervals add up to that of the whole, to the microjoule; an
invalid interval has no energy and no cover; each fault names device, interval, row and column.
"""
