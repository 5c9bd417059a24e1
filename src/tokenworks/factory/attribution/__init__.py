"""
The energy that was metered, divided among the calls that used it.

Owns: the formats of the step log and the span log, the costs of phases fitted to the meter, the
division by step and phase, and by overlap where an engine tells spans only.
Does not own: the meter (``factory/energy``), what a call is charged (``pricing``).
Invariants: what calls get plus what nobody gets is the meter's total, to the microjoule; every
result names its method; a call with a step that was not wholly metered says so.
"""
