"""
Periodic jobs: expire holds, collect what lowered limits owe, checkpoints, partitions.

Owns: when these run and how much each does at once.
Does not own: what they do to the books; each job is one call of a service.
Invariants: a job that fails is logged and tried again; nothing expires in the first
moments after a start or a jump of the clock, so that late settles can still win.
"""
