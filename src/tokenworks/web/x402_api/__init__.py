"""
x402 version 2: the hub's doors for wallets, without API keys.

Owns: the wire of x402, the facilitator (``/x402/supported``, ``/verify``, ``/settle``,
``/authorize``) and the door that sells calls (``/x402/v1``). Does not own: what a signature means
and what is held for it (``agents.payments``), calls (``gateway``).

Invariants: a wallet's signature is the only authority, and what a payer echoes is never believed;
only a payee that takes less than is held says with its key who it is; an answer says that
something was charged only when it is in the books, and what is not known is no failure.
"""
