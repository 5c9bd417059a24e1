"""
Suppliers that speak the OpenAI protocol over HTTP.

Owns: the connections to suppliers, their limits and their timeouts.
Does not own: what is sent, what an answer means, when to try again elsewhere.
Invariants: no redirect is followed, no cookie kept, no proxy taken from the
environment, nothing unpacked; private addresses only where the request allows them.

``relay_client`` is the one on which calls run; ``http_client``, on aiohttp, passes the same tests.
"""
