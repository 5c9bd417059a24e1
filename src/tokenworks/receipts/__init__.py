"""
Receipts: a signed record of each call of which every reader sees only its own part.

Owns: how the fields of a receipt are committed, signed, shown and verified, and the keys
that sign. Does not own: what a call cost (``gateway``, ``pricing``) nor the chain's
order (``ledger``), which stores a receipt's root and names its position.

Invariants:

- The same call id, fields and salt key always give the same root; nothing but the fields
  is stored, and a receipt can be signed again later, byte for byte the same.
- A reader's document holds the salts of that reader's own fields and no others.
- A signature is made only for a position that is already durable.
- A key is never deleted; a retired one stays published with the time it ended.

What verifies needs no database and no network: ``verify`` with ``signer_check``,
``disclosures`` and ``lane_chain``; ``addenda``, ``trust`` and ``files``.
"""
