"""
Escrow: a payment that is due when a declared condition is met.

Owns: conditions (CEL over a declared result schema), milestones, submissions, which calls they
name and what was metered in them, attestations of verifiers, deadlines, disputes and the
arbiter's word. Does not own: the hold (``payments``, ``ledger``), the records of calls
(``gateway``), the sandbox that evaluates (``adapters.cel_sandbox``).

Invariants: an escrow is a hold in the payer's account; it ends once, in parts that sum to the
hold; the same condition and the same result always have the same verdict, and both sides can
run it again from the receipt; silence after a submission is never a free refund; a condition
that cannot be evaluated is not met; a call is metered for one milestone.
"""
