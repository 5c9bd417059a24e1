"""
x402 version 2: the hub's doors for wallets, without API keys.

Owns: the wire of x402 and the door that sells calls. Does not own: what a signature means and
what is held for it (``agents.payments``), calls (``gateway``).

Invariants: a signature is the only authority; what a payer echoes is never believed; an answer
says that something was charged only when it is in the books.
"""
