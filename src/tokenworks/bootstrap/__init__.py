"""
Put the hub together: settings -> pools -> services -> doors. The only folder that knows everything.

Owns: which service is built on which (``hub``), which door stands on which service (``doors``),
the two kinds of processes that serve (``gateway_process``, ``worker_process``), the demo's
business (``demo``), and what the command line does to the books without a hub (``books``,
``admin_key``). Does not own: what any of them does; settings (``settings``), command lines and
the supervision of processes (``cli``).

Invariants: whatever is opened here is closed here, in reverse; nothing below imports this folder,
so each service takes what it needs as arguments, and one hub's parts can be replaced for a test
(clock, ids, the way to suppliers).

Read ``hub`` first: it is the wiring on one page.
"""
