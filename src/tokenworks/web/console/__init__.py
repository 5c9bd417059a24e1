"""
The console: one live page and one receipt page, for people with an API key.

Owns: the login and its sessions (in memory only), the pages, their look.

Does not own: any business rule, figure or permission. It is a client of the hub API like
any other: the hub decides what a key may see, and the pages show what came.

Invariants:
    A key is held in this process's memory only, never in a cookie, a page, a file or a log.
    Nothing but the login, its style sheet, its fonts and ``/healthz`` is served without a
    session.
    Everything a page loads comes from this process; no page asks another host.
    A hub that does not answer is a sentence on the page, never a stack trace.
"""
