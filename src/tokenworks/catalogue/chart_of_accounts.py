"""
The purposes an account may have, from ``chart_of_accounts.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import cast

from tokenworks.catalogue.reader import read_catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPurpose:
    """
    What an account is for, and the rules that follow from it.
    """

    purpose: str
    meaning: str
    account_class: str
    """One of asset, liability, equity, income, expense, memo."""
    normal_side: str
    """``debit`` or ``credit``: the side on which the account grows."""
    title: str
    """``party`` where the value belongs to the account's party, else ``platform``."""
    is_client_money: bool
    """Whether the safeguarded balance must cover it."""
    is_laned: bool
    """Whether it has one sub-account per writer, because every call touches it."""
    no_overdraft: bool
    """Whether its available balance may never go below zero."""


@cache
def load_chart_of_accounts() -> Mapping[str, AccountPurpose]:
    """
    Return the purposes by name, in the order of the file.

    Raises:
        CatalogueError: The file does not fit its schema.
    """
    rows = read_catalogue("chart_of_accounts")["purposes"]
    purposes = cast("Mapping[str, Mapping[str, object]]", rows)
    return MappingProxyType({name: _purpose(name, row) for name, row in purposes.items()})


def _purpose(name: str, row: Mapping[str, object]) -> AccountPurpose:
    return AccountPurpose(
        purpose=name,
        meaning=str(row["meaning"]),
        account_class=str(row["class"]),
        normal_side=str(row["normal_side"]),
        title=str(row["title"]),
        is_client_money=row.get("client_money") is True,
        is_laned=row.get("laned") is True,
        no_overdraft=row.get("no_overdraft") is True,
    )
