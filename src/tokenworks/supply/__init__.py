"""
Who answers calls, where, and for what pay: suppliers, offers, cost cards, splits.

Owns: the suppliers' addresses and encrypted keys, the offers, their versioned terms, the
check of an address against private networks.
Does not own: buyers' prices (``pricing``), which offer a call takes and how healthy one is
(``gateway``), the payables themselves (``ledger``), parties (``identity``).

Invariants:

* a supplier's key is never in a model, an error or a ``repr``; it leaves the database only
  in ``SupplierAccess``, for the adapter that sends it;
* a key stored for one supplier cannot be opened as another's, and moving a supplier to
  another origin needs its key anew;
* terms of an offer are never changed: an edit is a new version;
* tax, reseller and rights shares come out of one charge and never exceed it; the power
  producer's share comes out of what the supplier is paid;
* the snapshot is whole: it never mixes two states of the database.
"""
