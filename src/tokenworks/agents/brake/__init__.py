"""
The brake: look at a payment before it is held, and let a person decide when it looks wrong.

Owns: the rules of an owner (velocity, new payee, price jump, loop, night, burn rate), an
agent's profile and its score, reviews (payments that wait for people) and the webhooks that
announce them. Does not own: limits (``ledger``), mandates, the payment itself (``payments``).

Invariants: rules decide, the score may only raise scrutiny (allow -> hold, never back); an
approval is good for one exact payload digest; whatever cannot be judged is not allowed; a
review ends once: approved, denied or expired.

``service`` names the operations. A judgement: ``judging`` (who waits) -> ``batch`` (one
transaction) -> ``rules``, ``scoring`` -> ``deciding``. A review: ``reviews`` -> ``reviewing``
(pure) -> ``outbox``, ``notifying``. Rules: ``ruling`` -> ``rule_documents``, ``rule_sets``,
``rule_book``. Tables: ``profile_store``, ``review_store``, ``rule_store``, by ``records``.
"""
