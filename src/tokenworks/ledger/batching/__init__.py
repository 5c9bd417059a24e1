"""
Group commit, part by part: who waits, in which lane, with what, and what came of it.

Owns: the queue of operations (``operation_queue``), the connection that holds a lane
(``lane_connection``), this lane's shares of laned accounts (``lane_shares``), a batch as the
columns that the functions take (``packing``), and one batch run by them (``batches``).
Does not own: when a batch is sent, and what follows when that fails (``ledger/writer.py``);
what an operation does (``ledger.place_v2``, ``ledger.post_v2``).
Invariants: one batch is one transaction, and its answer comes after the commit; what cannot be
known is never guessed; two operations on one fact never share a batch.
"""
