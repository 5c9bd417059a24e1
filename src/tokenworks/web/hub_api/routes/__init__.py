"""
The endpoints, one file per noun; ``ROUTERS`` lists them in the order of the description.

Owns: which path calls which service, and in whose view the answer is rendered.
Does not own: authentication and idempotency, which the gate did before.
Invariants: a route that changes something asks for the role ``Admin``; a route that reads
passes the caller through ``access``.
"""
