"""
The demo's supplier: a small real model, served by llama.cpp on this machine.

Owns: finding the weights, starting llama.cpp's own OpenAI-compatible server.
Does not own: how a supplier is spoken to (``openai_compatible/``).
Invariants: it listens on loopback only; the model is known to the outside by its alias,
never by its path; the package that carries the weights is never imported.
"""
