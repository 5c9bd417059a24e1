"""
The schema that people read is the one that the migrations make.
"""

from __future__ import annotations

import difflib

import psycopg

from tools.write_schema import FOLDER, schema_files


def test_schema_equals_the_migrations(dsn: str) -> None:
    """
    A migration comes with its lines in the schema: run `make schema`.
    """
    made = schema_files(dsn)
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sql")}
    differences = [
        line
        for name in sorted(made.keys() | kept.keys())
        for line in difflib.unified_diff(
            kept.get(name, "").splitlines(),
            made.get(name, "").splitlines(),
            f"schema/{name}",
            f"migrations: {name}",
            lineterm="",
        )
    ]
    assert not differences, "run `make schema`:\n" + "\n".join(differences)


def test_schema_shows_what_was_changed_in_the_database(dsn: str) -> None:
    """
    A column, a constraint, an index, a trigger, a grant and a function each leave a trace.
    """
    before = schema_files(dsn)["ledger.sql"].splitlines()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (
            "ALTER TABLE ledger.assets ADD COLUMN note text",
            "ALTER TABLE ledger.limits ADD CONSTRAINT zone_known CHECK (time_zone <> '')",
            "CREATE INDEX by_party ON ledger.accounts (party_id)",
            "DROP TRIGGER batches_append_only ON ledger.batches",
            "GRANT UPDATE (state) ON ledger.holds TO tokenworks_posting",
            "GRANT EXECUTE ON FUNCTION ledger.drop_month_v1 TO tokenworks_posting",
        ):
            connection.execute(statement)
    after = schema_files(dsn)["ledger.sql"].splitlines()
    changes = [line for line in difflib.ndiff(before, after) if line.startswith(("+ ", "- "))]
    for trace in ("note text", "zone_known", "by_party", "batches_append_only", "UPDATE (state)"):
        assert any(trace in line for line in changes), trace
    assert any("may be called by: tokenworks_posting, tokenworks_retention" in c for c in changes)
