"""
Turn what services answer into ``shapes``, in the reader's view, one file a noun; pure.

Owns: which field of an answer becomes which field of a shape, and what a role does not see of it.
Does not own: the look-up of names (``directory`` loads them before), any I/O.
Invariants: each ``to_`` function takes loaded things and returns one shape.
"""
