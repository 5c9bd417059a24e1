"""
The command line: one file per noun, and ``up``, which runs a whole hub.

Owns: arguments, printed output, exit codes, the processes of one machine.
Does not own: any rule of the business; most commands are clients of the hub API.
Invariants: every command takes ``--json``; an error is one sentence that says what to
do, and exit code 1 (refused) or 2 (could not run); no secret is printed unless it was asked for.
"""
