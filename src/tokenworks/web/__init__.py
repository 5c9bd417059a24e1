"""
Doors over HTTP, each in a folder of its own; they share only how errors look.

Owns: how requests become calls of services and how answers and errors become HTTP.
Does not own: any business rule or any table but the doors' own idempotency keys.
Invariants: a door parses at the border, never answers before a write is durable, and maps
error kinds to statuses in ``errors.py`` alone.
"""
