"""
What suppliers say they are owed, against what the hub believes.

Owns: statements of suppliers, the matching of their lines with attempts, the correcting
entries proposed, and how much of a payable may be paid out.
Does not own: attempts (``gateway``), suppliers (``supply``), the posting of an entry
(``ledger``).
Invariants: a statement is stored whole or not at all, once a file, and never changed; an
attempt is billed by at most one line of all statements; nothing is posted before a person
accepts it, and then once; a settled charge and another party's leg are never touched.
"""
