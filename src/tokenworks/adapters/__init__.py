"""
One folder per outside system, each behind a port of the concept that needs it.

Owns: protocols, processes and files of other people's software.
Does not own: any rule of the business.
Invariants: a foreign exception stops here.
"""
