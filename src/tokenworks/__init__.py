"""
Tokenworks: the utility company for AI tokens.

It meters, prices, sells and settles every token on one double-entry ledger.
``ARCHITECTURE.md`` lists the folders, read from the bottom line up.
"""

__version__ = "0.1.0"
