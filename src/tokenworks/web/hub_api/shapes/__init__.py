"""
The shapes that leave through the hub API, one file a noun; ``docs/internals/hub-api.md`` has them.

Owns: names, types and descriptions of fields; of newer nouns also the bodies that come in.
Does not own: how a service's answer becomes a shape (``rendering``, same nouns), who sees what.
Invariants: amounts are decimal text in whole units, times are UTC; a field that a role may not see
is ``None``.
"""
