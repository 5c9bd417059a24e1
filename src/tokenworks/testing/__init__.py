"""
Fakes and SIMULATED outside systems, shipped so that anyone can try the hub.

Owns: the stub supplier, a simulation of an OpenAI-compatible endpoint that can also
misbehave in every way a real one was seen to.
Does not own: any rule of the product; nothing in the product imports it.
Invariants: what it answers is a function of the request, the behaviour and a running
number; it says ``simulation`` in every answer's ``system_fingerprint``.
"""
