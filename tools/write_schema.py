"""
Write src/tokenworks/postgres/schema/ from what the migrations make; `make schema` runs it.

One file for each schema of the database, built from the catalogues and not by pg_dump, so that
every supported version of PostgreSQL gives the same text. For people to read, and for a test to
compare: the program never runs these files.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import psycopg

from tokenworks.adapters.embedded_postgres import start_throwaway
from tokenworks.foundation.clock import SystemClock
from tokenworks.postgres.migrate import migrate
from tokenworks.postgres.queries import load

FOLDER: Final = (
    Path(__file__).resolve().parent.parent / "src" / "tokenworks" / "postgres" / "schema"
)
NOTICE: Final = (
    "-- Written by `make schema` from the migrations; never run. Change a migration instead.\n"
)
QUERIES: Final = load("tools", "schema_queries.sql")
PARTS: Final = (
    "columns",
    "constraints",
    "partitions",
    "indexes",
    "triggers",
    "relation_grants",
)

# Function texts keep the migration's own blanks; a text file keeps none at the end of a line.
_SPACES: Final = re.compile(r"[ \t]+\n")


def main() -> int:
    """
    Migrate a throwaway server's database and write its schemas.
    """
    with tempfile.TemporaryDirectory(prefix="tw-schema-") as directory:
        running = start_throwaway(Path(directory))
        try:
            asyncio.run(migrate(running.dsn_owner, clock=SystemClock()))
            written = schema_files(running.dsn_owner)
        finally:
            running.stop()
    FOLDER.mkdir(exist_ok=True)
    for stale in set(FOLDER.glob("*.sql")) - {FOLDER / name for name in written}:
        stale.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"src/tokenworks/postgres/schema/{name}")
    return 0


def schema_files(dsn: str) -> dict[str, str]:
    """
    Return the text of each schema of a database, by file name.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        return {
            f"{schema}.sql": _schema(connection, schema)
            for (schema,) in connection.execute(QUERIES["schemas"]).fetchall()
        }


def _schema(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> str:
    names = {"schema": schema}
    blocks = [NOTICE + "\n".join(_lines(connection, "schema_grants", **names))]
    for relation in connection.execute(QUERIES["relations"], names).fetchall():
        oid, name, kind, partition_key, options, comment, view = relation
        lines = [f"{kind} {schema}.{name}"]
        if comment:
            lines.append(f"    -- {comment}")
        if partition_key:
            lines.append(f"    PARTITION BY {partition_key}")
        if options:
            lines.append(f"    WITH ({options})")
        for part in PARTS:
            lines += [f"    {line}" for line in _lines(connection, part, relation=oid)]
        if view:
            lines.append(view)
        blocks.append("\n".join(lines))
    for text, callers in connection.execute(QUERIES["functions"], names).fetchall():
        blocks.append(f"{text.rstrip()}\n-- may be called by: {callers or 'the owner only'}")
    return _SPACES.sub("\n", "\n\n".join(block.rstrip() for block in blocks)) + "\n"


def _lines(
    connection: psycopg.Connection[tuple[Any, ...]], query: str, **names: object
) -> list[str]:
    return [row[0] for row in connection.execute(QUERIES[query], names).fetchall()]


if __name__ == "__main__":
    sys.exit(main())
