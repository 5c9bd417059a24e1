"""
The yardstick of posting: the same rows, inserted and nothing else.

Writes the rows that checked posting wrote a moment before, byte for byte, batch for batch: every
column of ``ledger.entries`` and ``ledger.batches``, into tables with the same columns, indexes,
constraints and partitions, by one statement and one commit a batch, the columns packed and sent
as the same binary arrays, on the same server. Posting besides locks, checks and builds those
rows, and updates its accounts and its lane. A second bare side, ``with_updates``, updates them
too, by sums that are known before: what then is left of the difference is deciding.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString, cast

from psycopg import sql

from tokenworks.postgres import arrays
from tokenworks.postgres.pool import Connection, connect

Pack = Callable[[Sequence[Any]], arrays.BinaryArray]

_PACKS: Final[Mapping[str, Pack]] = {
    "uuid": arrays.uuid_array,
    "text": arrays.text_array,
    "integer": arrays.int4_array,
    "smallint": arrays.int2_array,
    "bigint": arrays.int8_array,
    "boolean": arrays.bool_array,
    "bytea": arrays.bytea_array,
    "timestamp with time zone": arrays.timestamp_array,
    "date": arrays.date_array,
}
_COPIED: Final = ("entries", "batches", "balances", "lanes")

_UPDATES: Final = """
, balance AS (
    UPDATE {schema}.balances AS b
    SET debits_posted = b.debits_posted + d.debits, credits_posted = b.credits_posted + d.credits, last_time = %(time)b
    FROM unnest(%(accounts)b::bigint[], %(debits)b::bigint[], %(credits)b::bigint[]) AS d (account_id, debits, credits)
    WHERE b.account_id = d.account_id),
lane AS (
    UPDATE {schema}.lanes SET batch = %(batch)b, head_hash = %(hash)b, last_time = %(time)b WHERE lane = %(lane)b)
"""  # noqa: E501 - one clause a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    One batch as posting left it: rows by column, and what its accounts changed by.
    """

    entries: list[list[Any]]
    batch: tuple[Any, ...]
    accounts: list[int]
    debits: list[int]
    credits: list[int]


class BareTables:
    """
    Copies of the ledger's tables in a schema of their own.

    Args:
        connection: As the owner, in autocommit mode.
        schema: Where the copies are.
        with_updates: Whether accounts and the lane are updated as well.
    """

    def __init__(self, connection: Connection, *, schema: str, with_updates: bool) -> None:
        self._connection = connection
        self._schema = schema
        self._with_updates = with_updates
        self._columns: dict[str, list[tuple[str, str]]] = {}
        self._insert: LiteralString = ""

    @classmethod
    async def make(cls, dsn_owner: str, *, schema: str, with_updates: bool) -> BareTables:
        """
        Make the copies; the accounts and lanes that there are now are copied with them.
        """
        connection = await connect(dsn_owner, name=schema)
        arrays.register_arrays(connection)
        # What suits it best: the plan never depends on the values.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        tables = cls(connection, schema=schema, with_updates=with_updates)
        await tables._run(f"CREATE SCHEMA {schema}")
        for name in _COPIED:
            await tables._copy(name)
        for name in ("balances", "lanes"):
            await tables._run(f"INSERT INTO {schema}.{name} SELECT * FROM ledger.{name}")
        await tables._run("ANALYZE")
        tables._insert = tables._statement()
        return tables

    async def close(self) -> None:
        """
        Disconnect; the tables stay.
        """
        await self._connection.close()

    async def written(self, *, lane: int, after_batch: int) -> list[Written]:
        """
        Read what posting wrote in a lane after one of its batches.
        """
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in self._columns["entries"])
        entries = await self._fetch(
            sql.SQL(
                "SELECT {} FROM ledger.entries WHERE lane = %s AND batch > %s "
                "ORDER BY batch, position"
            ).format(names),
            lane,
            after_batch,
        )
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in self._columns["batches"])
        batches = await self._fetch(
            sql.SQL(
                "SELECT {} FROM ledger.batches WHERE lane = %s AND batch > %s ORDER BY batch"
            ).format(names),
            lane,
            after_batch,
        )
        return [self._written(batch, entries) for batch in batches]

    async def last_batch(self, lane: int) -> int:
        """
        Return the number of a lane's last batch.
        """
        rows = await self._fetch(sql.SQL("SELECT batch FROM ledger.lanes WHERE lane = %s"), lane)
        return int(rows[0][0])

    async def insert(self, batches: Sequence[Written], *, is_ahead: bool) -> None:
        """
        Insert batches, each in one durable transaction.

        Args:
            batches: In their order.
            is_ahead: Whether the next one is packed while PostgreSQL works, as posting does it.
        """
        ahead: dict[str, Any] | None = None
        for number, written in enumerate(batches, start=1):
            parameters = ahead or self._packed(written)
            call = asyncio.create_task(self._execute(parameters))
            await asyncio.sleep(0)
            ahead = self._packed(batches[number]) if is_ahead and number < len(batches) else None
            await call

    async def _execute(self, parameters: dict[str, Any]) -> None:
        await self._connection.execute(self._insert, parameters, prepare=True)

    def _packed(self, written: Written) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            f"e{index}": _PACKS[kind](values)
            for index, ((_, kind), values) in enumerate(
                zip(self._columns["entries"], written.entries, strict=True)
            )
        }
        parameters |= {f"b{index}": value for index, value in enumerate(written.batch)}
        if self._with_updates:
            names = [name for name, _ in self._columns["batches"]]
            batch = dict(zip(names, written.batch, strict=True))
            parameters |= {
                "accounts": arrays.int8_array(written.accounts),
                "debits": arrays.int8_array(written.debits),
                "credits": arrays.int8_array(written.credits),
                "time": batch["recorded_at"],
                "batch": batch["batch"],
                "hash": batch["hash"],
                "lane": batch["lane"],
            }
        return parameters

    def _statement(self) -> LiteralString:
        columns = self._columns["entries"]
        entries = ", ".join(name for name, _ in columns)
        unnested = ", ".join(f"%(e{i})b::{kind}[]" for i, (_, kind) in enumerate(columns))
        batch_columns = self._columns["batches"]
        names = ", ".join(name for name, _ in batch_columns)
        values = ", ".join(f"%(b{i})b" for i in range(len(batch_columns)))
        statement = (
            f"WITH entry AS (INSERT INTO {self._schema}.entries ({entries}) "
            f"SELECT * FROM unnest({unnested}))"
            f"{_UPDATES.format(schema=self._schema) if self._with_updates else ''} "
            f"INSERT INTO {self._schema}.batches ({names}) VALUES ({values})"
        )
        return cast("LiteralString", statement)

    async def _copy(self, name: str) -> None:
        """
        Make a table like ``ledger.<name>``: columns, indexes, checks and partitions.
        """
        source = f"ledger.{name}"
        rows = await self._fetch(
            sql.SQL(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ),
            source,
        )
        self._columns[name] = [(row[0], row[1]) for row in rows]
        is_partitioned, key, options = (
            await self._fetch(
                sql.SQL(
                    "SELECT relkind = 'p', pg_get_partkeydef(oid), "
                    "array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s::regclass"
                ),
                source,
            )
        )[0]
        tail = f" PARTITION BY {key}" if is_partitioned else _with(options)
        target = f"{self._schema}.{name}"
        await self._run(f"CREATE TABLE {target} (LIKE {source} INCLUDING ALL){tail}")
        for child, bound, child_options in await self._fetch(
            sql.SQL(
                "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), "
                "array_to_string(c.reloptions, ', ') "
                "FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
                "WHERE i.inhparent = %s::regclass"
            ),
            source,
        ):
            await self._run(
                f"CREATE TABLE {self._schema}.{child} PARTITION OF {target} "
                f"{bound}{_with(child_options)}"
            )

    def _written(self, batch: tuple[Any, ...], entries: Sequence[tuple[Any, ...]]) -> Written:
        number = batch[_index(self._columns["batches"], "batch")]
        at = _index(self._columns["entries"], "batch")
        rows = [row for row in entries if row[at] == number]
        record = _index(self._columns["entries"], "record")
        debits: dict[int, int] = defaultdict(int)
        credits: dict[int, int] = defaultdict(int)
        for row in rows:
            for debit, credit, quanta in json.loads(row[record])["transfers"]:
                debits[debit] += quanta
                credits[credit] += quanta
        accounts = sorted(debits.keys() | credits.keys())
        return Written(
            entries=[list(column) for column in zip(*rows, strict=True)],
            batch=batch,
            accounts=accounts,
            debits=[debits[account] for account in accounts],
            credits=[credits[account] for account in accounts],
        )

    async def _fetch(self, statement: sql.Composable, *parameters: object) -> list[Any]:
        cursor = await self._connection.execute(statement, parameters)
        return await cursor.fetchall()

    async def _run(self, statement: str) -> None:
        await self._connection.execute(cast("LiteralString", statement))


def _with(options: str | None) -> str:
    return f" WITH ({options})" if options else ""


def _index(columns: Sequence[tuple[str, str]], name: str) -> int:
    return [column for column, _ in columns].index(name)
