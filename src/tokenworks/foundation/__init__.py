"""
Words every other folder shares: money, identifiers, clock, limits, errors.

Owns: value types and the error tree.
Does not own: any input or output; nothing here opens a file or a socket.
Invariants: value is integer quanta of a named asset; time, identifiers and
randomness come from objects that are passed in.
"""
