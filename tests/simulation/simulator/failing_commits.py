"""
A database that fails at the commit of a batch and not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import LiteralString

from tokenworks.postgres.pool import Connection

FAILING_COMMITS: LiteralString = """
CREATE TABLE public.simulated_faults (is_failing boolean NOT NULL);
CREATE FUNCTION public.simulate_fault() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF EXISTS (SELECT FROM public.simulated_faults) THEN
        RAISE EXCEPTION 'SIMULATED: the disk does not write' USING ERRCODE = 'io_error';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER simulated_fault AFTER UPDATE ON ledger.lanes
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.simulate_fault();
"""
"""Lets a batch fail at its commit and not before, when ``simulated_faults`` has a row."""


@contextlib.asynccontextmanager
async def failing_commits(connection: Connection, *, is_wished: bool) -> AsyncGenerator[None]:
    """
    Let commits of batches fail for as long as the block runs.
    """
    if not is_wished:
        yield
        return
    await connection.execute("INSERT INTO public.simulated_faults VALUES (true)")
    try:
        yield
    finally:
        await connection.execute("DELETE FROM public.simulated_faults")
