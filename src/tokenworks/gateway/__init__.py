"""
The life of a call: quote, route, hold, relay, meter, rate, settle, receipt.

Owns: what happens between a buyer's request and its last byte; the schema ``gateway``.
Does not own: prices, parties, offers, the books; HTTP in either direction (``web/``,
``adapters/``).
Invariants: no supplier is asked before the hold is durable; no last byte leaves before the
capture is durable; the buyer pays once per call, whatever was tried; every hold ends.
"""
