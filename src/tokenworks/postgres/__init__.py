"""
The one database: connection pools, named queries, migrations.

Owns: how a connection is opened, how SQL files are read, the order of migrations.
Does not own: any table; each concept's tables live in its own schema.
Invariants: SQL text comes from files in the package, never from input; connections are
in autocommit mode, so a transaction is always visible in the code that opens it.
"""
