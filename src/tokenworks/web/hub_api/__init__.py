"""
The hub API: operators, buyers and suppliers look at and change the hub over HTTP.

Owns: paths and shapes below ``/hub/v1`` (``docs/internals/hub-api.md`` is the contract),
who may see what, idempotency keys of writes.
Does not own: any business rule; each route calls one service and renders its answer.
Invariants: value leaves as decimal text; a secret leaves once and is never stored; a role
sees only its own view, and what it may not see is null or 404.

A request passes ``gate`` (key, idempotency), then its file in ``routes``, which reads ``bodies``,
asks a service and answers with ``rendering`` into ``shapes``.
"""
