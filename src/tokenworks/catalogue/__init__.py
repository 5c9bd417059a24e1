"""
Data with schemas: the tiers, the chart of accounts, and tables of facts measured elsewhere.

Owns: the YAML and CSV files, their JSON schemas, and reading them with errors that say what to fix.
Does not own: what the values mean to a call or to the books (``pricing``, ``ledger``).
Invariants: a file that does not fit its schema stops the start; a key never stands twice.
"""

from tokenworks.catalogue.chart_of_accounts import AccountPurpose, load_chart_of_accounts
from tokenworks.catalogue.reader import CatalogueError, read_catalogue, read_file

__all__ = [
    "AccountPurpose",
    "CatalogueError",
    "load_chart_of_accounts",
    "read_catalogue",
    "read_file",
]
