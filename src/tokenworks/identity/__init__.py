"""
Who is calling and what they may do: parties, API keys, roles, request rates.

Owns: the tree of parties (organisation > team > user or agent), API keys and their
hashes, the translation of a presented secret into a ``Principal``, request rates.
Does not own: money and limits of spending (``ledger``), prices and tiers (``pricing``),
HTTP headers (``web``).

Invariants:

* a party's parent stands on a higher level, is of the same kind and belongs to the same
  organisation; the database refuses anything else, so a chain always ends at its root;
* only parties of kind buyer have a parent; the platform and the tax authority exist from
  the first migration and are never frozen or closed;
* a secret is shown once; the database holds its SHA-256 and the first ten characters;
* an admin key belongs to the platform, and no other key is an admin key;
* the cache may refuse, never grant: expiry, revocation and state are judged on every
  call, and what the cache knows is at most ``CACHE_LIFETIME_S`` old.
"""
