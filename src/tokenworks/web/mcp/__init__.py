"""
The hub as tools of an agent: a server of the Model Context Protocol.

Owns: the tools ``quote``, ``pay``, ``balance``, ``mandate``, ``receipt``, ``call_model`` and
``finish_payment``, their words and their errors. Does not own: signing and paying (``sdk``),
what may be spent (the mandate at the hub).

Invariants: the wallet's key stays in this process and no tool returns it; a payment whose
outcome is not known is never made anew, only sent again with its first signature; text that
comes from models or sellers is returned as content, never obeyed.
"""
