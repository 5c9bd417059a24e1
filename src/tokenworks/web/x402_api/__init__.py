"""
The facilitator's door, in the shapes of x402 v2: ``/x402/supported``, ``/verify``, ``/settle``,
``/authorize``.

Owns: the wire's shapes and its reasons. Does not own: what a payment is (``agents.payments``).

Invariants: a wallet's signature is the authority, no API key is asked for; only a payee that takes
less than is held says with its key who it is; a judged payment is an answer, never an error; an
outcome that is not known is never called a failure.
"""
