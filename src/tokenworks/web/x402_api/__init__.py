"""
The facilitator's door, in the shapes of x402 v2: ``/x402/supported``, ``/verify``, ``/settle``,
``/authorize``.

Owns: the wire's shapes and its reasons. Does not own: what a payment is (``agents.payments``).
No API key is asked for: a wallet's signature is the authority. Only a payee that takes less than
is held says with its key who it is.
"""
