"""
Owners' webhooks, over HTTP.

Owns: the connection to an address that an owner typed. Does not own: what is sent, its
signature, when it is tried again (``agents.brake``).

Invariants: no redirect is followed, no answer's body is read, each address is judged when the
socket to it is made, and an attempt ends in ``ATTEMPT_TIMEOUT_S``.
"""
