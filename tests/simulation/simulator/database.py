"""
Databases for simulations run by hand: a server of their own, a fresh copy a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from tests.databases import OpenDatabase, databases_of, make_template, throwaway_server
from tokenworks.foundation.errors import TokenworksError

NO_DATABASE = (OSError, TokenworksError)
"""What it is when no server can be started."""


@contextlib.contextmanager
def open_server() -> Generator[OpenDatabase]:
    """
    Start a throwaway server and yield what makes databases on it.
    """
    with throwaway_server() as server_dsn:
        make_template(server_dsn)
        yield databases_of(server_dsn)
