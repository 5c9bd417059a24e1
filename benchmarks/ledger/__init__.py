"""
The ledger's own benchmark: postings against bare inserts, calls behind group commit, growth.

``python -m benchmarks.ledger.run`` starts an embedded PostgreSQL with the product's settings on
a real disk, and measures ``ledger.Writer``, ``gateway.Holding`` and ``gateway.Settling`` in
process: everything of a call but HTTP and the supplier.
"""
