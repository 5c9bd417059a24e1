"""
Which server a hub may use: the latest one, and none that tells an old story.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import conninfo

from tests.patience import until
from tests.postgres.gateway_rig import open_rig
from tests.simulation.books import USD_ID, open_books
from tokenworks.adapters.operating_system.private_file import SharedPrivateFile
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Reservation
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.fence import Fence, ServerDemotedError, ServerReplacedError
from tokenworks.postgres.migrate import migrate
from tokenworks.postgres.pool import connect, open_pool, servers_of
from tokenworks.postgres.promotion import read_standing, record_promotion


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """
    Keep the alarms that these tests cause out of their output.
    """
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """
    Where the hub keeps what it has seen.
    """
    return tmp_path / "hub" / "promotion.json"


def _fence(mark: Path) -> Fence:
    return Fence(SharedPrivateFile(mark), place=str(mark))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _rewrite(mark: Path, old: str, new: str) -> None:
    text = mark.read_text(encoding="utf-8")
    assert old in text
    mark.write_text(text.replace(old, new), encoding="utf-8")


async def test_mark_is_kept_private_and_survives_a_restart(dsn: str, mark: Path) -> None:
    """
    The first server seen is remembered; another process of the hub goes on from there.
    """
    await (await connect(dsn, name="one", fence=_fence(mark))).close()
    assert _mode(mark) == 0o600
    _rewrite(mark, '"promotion":0', '"promotion":1')
    with pytest.raises(ServerDemotedError) as refused:
        await connect(dsn, name="two", fence=_fence(mark))
    assert refused.value.code == "ledger_demoted"


@pytest.mark.parametrize("role", ["tokenworks_posting", "postgres"])
async def test_promotion_is_seen_by_every_role(
    dsn: str, mark: Path, clock: FakeClock, role: str
) -> None:
    """
    A promotion counts up; a hub that reads it through its own role refuses what is older.
    """
    dsn = conninfo.make_conninfo(dsn, user=role)
    await (await connect(dsn, name="before", fence=_fence(mark))).close()
    owner = conninfo.make_conninfo(dsn, user="postgres")
    standing = await record_promotion(owner, cause="failover", clock=clock)
    assert standing.promotion == 1
    assert (await record_promotion(owner, cause="restore", clock=clock)).promotion == 2
    await (await connect(dsn, name="after", fence=_fence(mark))).close()
    _rewrite(mark, '"promotion":2', '"promotion":2')
    async with await connect(dsn, name="look") as connection:
        assert (await read_standing(connection)).timeline == standing.timeline
        with pytest.raises(psycopg.Error, match=r"append-only|permission denied"):
            await connection.execute("DELETE FROM ledger.promotions")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('"timeline":1', '"timeline":2', "ledger_demoted"),
        ('"promotion":0', '"promotion":9', "ledger_demoted"),
        ('"system_identifier":"', '"system_identifier":"1', "ledger_replaced"),
    ],
)
async def test_older_history_is_refused_at_every_way_in(
    dsn: str, mark: Path, clock: FakeClock, old: str, new: str, code: str
) -> None:
    """
    Timeline, promotion number and cluster each suffice; migrations, pools, writers and single
    connections all ask.
    """
    await (await connect(dsn, name="before", fence=_fence(mark))).close()
    _rewrite(mark, old, new)
    expected = ServerReplacedError if code == "ledger_replaced" else ServerDemotedError
    with pytest.raises(expected) as refused:
        await connect(dsn, name="one", fence=_fence(mark))
    assert refused.value.code == code
    with pytest.raises(expected):
        await migrate(dsn, clock=clock, fence=_fence(mark))
    with pytest.raises(expected):
        await Writer(dsn, clock=clock, holder="w", fence=_fence(mark)).start()
    with pytest.raises(expected):
        await open_pool(dsn, name="pool", fence=_fence(mark))


async def test_writer_refuses_at_once_while_its_server_is_demoted_and_goes_on_after(
    dsn: str, mark: Path, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    New holds get ``ledger_demoted`` without waiting; what was being booked is booked as soon as
    the right server is there.
    """
    async with open_books(dsn, clock, ids) as books:
        cash = await books.cash(await books.buyer(100))
        held = books.placement(Reservation(asset_id=USD_ID, quanta=1, account_id=cash))
        writer = Writer(dsn, clock=clock, holder="fenced", fence=_fence(mark))
        await writer.start()
        _rewrite(mark, '"timeline":1', '"timeline":5')
        await writer._connection.close()
        placing = asyncio.ensure_future(writer.place(held))

        async def is_refused() -> bool:
            return writer._connection.refusal is not None

        await until(is_refused, otherwise="the writer uses a demoted server")
        with pytest.raises(LedgerUnavailableError) as refused:
            await writer.place(
                books.placement(Reservation(asset_id=USD_ID, quanta=2, account_id=cash))
            )
        assert refused.value.code == "ledger_demoted"
        assert not placing.done()
        _rewrite(mark, '"timeline":5', '"timeline":1')
        assert (await placing).code == "ok"
        await writer.close()
        assert await books.counters(cash) == (1, 0, 100)
        await books.assert_clean()


async def test_refused_server_does_not_stand_in_the_way_of_the_next(dsn: str, mark: Path) -> None:
    """
    Of several servers in one connection string the first that is admitted is used.
    """
    host = str(conninfo.conninfo_to_dict(dsn)["host"])
    several = conninfo.make_conninfo(dsn, host=f"/nowhere,{host}", port="5432,5432")
    assert len(servers_of(several)) == 2
    async with await connect(several, name="one", fence=_fence(mark)) as connection:
        assert connection.info.host == host
    _rewrite(mark, '"timeline":1', '"timeline":2')
    with pytest.raises(ServerDemotedError):
        await connect(several, name="two", fence=_fence(mark))
    with pytest.raises(ServerDemotedError):
        await open_pool(several, name="pool", size_max=1, fence=_fence(mark))


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("host=a dbname=x", [("a", None)]),
        ("dbname=x", [(None, None)]),
        ("host=a,b port=1,2", [("a", "1"), ("b", "2")]),
        ("host=a,b port=7", [("a", "7"), ("b", "7")]),
        ("postgresql://u:p@a:1,b:2/x?target_session_attrs=read-write", [("a", "1"), ("b", "2")]),
        ("host=/s/a,/s/b user=u", [("/s/a", None), ("/s/b", None)]),
    ],
)
def test_servers_of_a_connection_string(
    dsn: str, hosts: list[tuple[str | None, str | None]]
) -> None:
    """
    Each server with its own port and everything else that was given.
    """
    parts = [conninfo.conninfo_to_dict(server) for server in servers_of(dsn)]
    assert [(part.get("host"), part.get("port")) for part in parts] == hosts
    if "target" in dsn:
        assert {part["target_session_attrs"] for part in parts} == {"read-write"}
        assert {part["password"] for part in parts} == {"p"}
    given = conninfo.conninfo_to_dict(dsn)
    for part in parts:
        assert part.get("dbname") == given.get("dbname")


async def test_warning_with_a_commit_is_no_success_for_a_pool(dsn: str) -> None:
    """
    A commit that the standby did not confirm comes with a warning: outcome unknown.
    """
    pool = await open_pool(dsn, name="pool", size_max=1)
    async with pool.connection() as connection:
        await connection.execute("CREATE TABLE public.facts (fact int)")
        await connection.execute(
            "CREATE FUNCTION public.warn() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE WARNING 'not confirmed'; RETURN NULL; END$$"
        )
        await connection.execute(
            "CREATE CONSTRAINT TRIGGER warn_late AFTER INSERT ON public.facts "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.warn()"
        )
    with pytest.raises(psycopg.OperationalError, match="did not confirm"):
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("INSERT INTO public.facts VALUES (1)")
    async with pool.connection() as connection:
        rows = await (await connection.execute("SELECT fact FROM public.facts")).fetchall()
    assert rows == [(1,)], "unknown means unknown: this one was booked"
    await pool.close()


async def test_door_says_that_the_server_was_demoted(dsn: str, tmp_path: Path) -> None:
    """
    A hub whose connections break and find only an old primary answers 503 ``ledger_demoted``,
    and sells again when the right server is there.
    """
    async with open_rig(dsn, tmp_path) as rig:
        assert (await rig.ask()).status_code == 200
        mark = rig.hub.settings.data_dir / "promotion.json"
        _rewrite(mark, '"timeline":1', '"timeline":2')
        await rig.hub.writer._connection.close()
        early = asyncio.ensure_future(rig.ask())

        async def is_refused() -> bool:
            return rig.hub.writer._connection.refusal is not None

        await until(is_refused, otherwise="the hub uses a demoted server")
        answer = await rig.ask()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "ledger_demoted"
        assert int(answer.headers["retry-after"]) >= 1
        _rewrite(mark, '"timeline":2', '"timeline":1')
        assert (await early).status_code == 200, "its hold waited for the right server"
        assert (await rig.ask()).status_code == 200
