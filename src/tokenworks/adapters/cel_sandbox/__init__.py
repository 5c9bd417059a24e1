"""
CEL in a process of its own, because an expression cannot be capped inside ours.

Owns: the resident child (``child.py``), its confinement (processor time, memory, no files, no
network), the queue in front of it, and the package ``common-expression-language``. Does not own:
what a condition may say (``agents.escrow.condition``) or what follows from it.

Invariants: the hub's loop never waits on an expression, only on a pipe; what overruns is killed
and is *not met*, with the reason; a failure that is not the expression's is no verdict.
"""
