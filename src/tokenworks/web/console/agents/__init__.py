"""
The console's pages about agents that pay: their tree, the inbox, escrows, single payments.

Owns: how mandates, reviews and escrows are shown, and the buttons that ask the hub to freeze,
revoke, approve, deny and decide.

Does not own: who may do that (the hub decides), sessions and the look (``web/console``).

Invariants:
    A person decides on what the page shows: an approval carries the digest that stood there.
    Nothing is done without a question that names it, and what the hub refuses is shown in its
    own words.
"""
