"""
The hub as tools of an agent: servers of the Model Context Protocol.

Two faces of the same words (``words.py``). Beside the agent (``tokenworks mcp``: ``server.py``,
``till.py``, ``undecided.py``) a process holds the wallet and pays for itself. At the hub (``/mcp``:
``door.py``, ``remote.py``, ``results.py``) each tool is one request to another door, with the key
or the payment that the caller brought.

Owns: the tools ``quote``, ``pay``, ``balance``, ``mandate``, ``receipt``, ``call_model`` and,
beside the agent, ``finish_payment``; their words and their errors. Does not own: signing and
paying (``sdk``), what may be spent (the mandate at the hub), who may do what (the other doors).

Invariants: a wallet's key stays with the agent and no tool returns it; ``/mcp`` has no authority of
its own; a payment whose outcome is not known is never made anew, only sent again with its first
signature; text that comes from models or sellers is returned as content, never obeyed.
"""
