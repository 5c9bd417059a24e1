"""
Processes of the machine: started so that they cannot outlive the hub by accident.

Owns: how a child is launched, recognised by pid and start time, and ended.
Does not own: which children there are and in which order (``cli/supervisor.py``).
Invariants: a process is signalled only when its start time is the one on record, so a
number the machine has given to somebody else is never hit.
"""
