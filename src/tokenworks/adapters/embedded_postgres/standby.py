"""
Make a standby: a copy of a cluster that follows its primary and can take over.

On the primary each standby has a role, a replication slot and a name of its own, so that
one can be taken away without touching another. The role's password is in a file of the
standby's cluster (0600); PostgreSQL reads it from there, so that it is in no setting, no
argument and no log.

Invariants:
    * A standby is waited for (``synchronous_standby_names``) only once it has caught up.
    * The list of those waited for is never emptied by itself, and by ``remove_standby``
      only when told so.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, LiteralString

import msgspec
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tokenworks.adapters.embedded_postgres.binaries import installed_version
from tokenworks.adapters.embedded_postgres.errors import StandbyError
from tokenworks.adapters.embedded_postgres.network import (
    PASSWORD_BYTES,
    give_file,
    password_lines,
    set_password,
)
from tokenworks.adapters.embedded_postgres.session import Session, open_session
from tokenworks.adapters.embedded_postgres.system_user import ServerUser, let_through, server_user
from tokenworks.adapters.embedded_postgres.tool import Progressed, run_tool
from tokenworks.adapters.operating_system.private_file import sync_directory, write_private

FACTS_FILE: Final = "standby.json"
JOIN_TIMEOUT_S: Final = 60.0

_CLUSTER: Final = "postgres"
_UNFINISHED: Final = "postgres.unfinished"
_PASSWORDS: Final = "tokenworks_standby.pgpass"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_WAITED_FOR: Final = re.compile(r'ANY 1 \(("[a-z0-9_]+"(?:, ?"[a-z0-9_]+")*)\)')
_POLL_S: Final = 0.05
_CONNECT_TIMEOUT_S: Final = 5
_KEPT: Final = ("host", "hostaddr", "port", "sslmode", "sslrootcert", "target_session_attrs")


class StandbyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a standby's directory knows of itself; ``DATA/standby.json``, without secrets.
    """

    name: str
    primary: str  # connection string of the primary's owner, without its password
    is_waited_for: bool = False  # commits on the primary wait for it: it may take over


def create_standby(
    primary: str,
    data_dir: Path,
    *,
    name: str,
    on_step: Callable[[str], None],
    on_progress: Progressed | None = None,
) -> StandbyFacts:
    """
    Copy the primary's cluster into ``data_dir`` so that it follows when it is started.

    The caller holds the lock of ``data_dir``.

    Args:
        primary: The primary's owner; a password in it goes no further.
        data_dir: Gets ``postgres/``; must have none yet.
        name: Lower-case letters, digits, underscores.
        on_step: Told ``prepare`` and ``copy``.
        on_progress: Told how much is copied, in percent.

    Raises:
        StandbyError: The name, the directory or the primary does not allow it.
        DatabaseUnreachableError: The primary cannot be reached.
        PostgresToolError: The copy failed.
    """
    data_dir = data_dir.absolute()
    cluster, draft = data_dir / _CLUSTER, data_dir / _UNFINISHED
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot name a standby: use up to 31 of a-z, 0-9 and _."
        raise StandbyError(message, param="name")
    require_vacant(data_dir)
    on_step("prepare")
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    with open_session(primary) as session:
        _refuse_unsuitable(session)
        set_password(session, _role(name), password, options="LOGIN REPLICATION")
        _make_slot(session, name)
    user = server_user(cluster)
    let_through(user, cluster)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    user.own(draft)
    on_step("copy")
    try:
        run_tool(
            "pg_basebackup",
            f"--pgdata={draft}",
            "--wal-method=stream",
            f"--slot={_slot(name)}",
            "--checkpoint=fast",
            "--progress",
            # As the standby's own role: PostgreSQL's user has no other password at hand.
            dsn=make_conninfo(_upstream(primary, name, cluster), passfile="", password=password),
            user=user,
            on_progress=on_progress,
        )
        give_file(draft / _PASSWORDS, password_lines({_role(name): password}), user)
        _write_settings(draft, _upstream(primary, name, cluster), name, user)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    facts = StandbyFacts(name=name, primary=_without_password(primary))
    write_facts(data_dir, facts)
    draft.rename(cluster)
    sync_directory(data_dir)
    return facts


def require_vacant(data_dir: Path) -> None:
    """
    Raise when a directory has a database already.

    Raises:
        StandbyError: It has.
    """
    if (data_dir / _CLUSTER).exists():
        message = f"There is a database in {data_dir} already: give the standby its own directory."
        raise StandbyError(message)


def read_facts(data_dir: Path) -> StandbyFacts | None:
    """
    Return what a standby's directory knows of itself; ``None`` when it is no standby.
    """
    try:
        return msgspec.json.decode((data_dir / FACTS_FILE).read_bytes(), type=StandbyFacts)
    except FileNotFoundError:
        return None


def write_facts(data_dir: Path, facts: StandbyFacts) -> None:
    """
    Replace what a standby's directory knows of itself.
    """
    write_private(data_dir / FACTS_FILE, msgspec.json.format(msgspec.json.encode(facts)))


def join(primary: str, name: str, *, timeout_s: float = JOIN_TIMEOUT_S) -> None:
    """
    Have commits on the primary wait for this standby from now on.

    Returns when it has everything that was committed before.

    Raises:
        StandbyError: It does not stream, or the primary's list was written by hand.
    """
    deadline = time.monotonic() + timeout_s
    with open_session(primary) as session:
        _wait_until(session, name, "state = 'streaming'", deadline)
        names = waited_for(session)
        if name not in names:
            _wait_for(session, [*names, name])
        _wait_until(
            session,
            name,
            "sync_state IN ('sync', 'quorum') AND flush_lsn >= pg_current_wal_flush_lsn()",
            deadline,
        )


def waited_for(session: Session) -> list[str]:
    """
    Return the standbys of which one must confirm each commit; none: nobody is waited for.

    Raises:
        StandbyError: The list has another form than these commands write.
    """
    row = session.execute("SHOW synchronous_standby_names").fetchone()
    text = str(row[0]) if row else ""
    if not text:
        return []
    match = _WAITED_FOR.fullmatch(text)
    if match is None:
        message = (
            f"synchronous_standby_names is {text!r}, which was written by hand: add the "
            f"standby to it yourself."
        )
        raise StandbyError(message)
    return re.findall(r'"([^"]+)"', match[1])


def remove_standby(primary: str, name: str, *, even_if_last: bool) -> None:
    """
    Stop waiting for a standby, and remove its slot and role from the primary.

    Raises:
        StandbyError: It is the last one and that was not said; or it is still connected.
    """
    with open_session(primary) as session:
        names = waited_for(session)
        left = [other for other in names if other != name]
        if name in names and not left and not even_if_last:
            message = (
                f"{name} is the last standby: without it one disk has the books, and its loss "
                f"loses acknowledged calls. Say --last if that is meant."
            )
            raise StandbyError(message)
        if left != names:
            _wait_for(session, left)
        active = session.execute(
            "SELECT active FROM pg_replication_slots WHERE slot_name = %s", (_slot(name),)
        ).fetchone()
        if active and active[0]:
            message = f"{name} is no longer waited for, but still runs: stop it, then repeat this."
            raise StandbyError(message)
        if active:
            session.execute("SELECT pg_drop_replication_slot(%s)", (_slot(name),))
        drop = sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(_role(name)))
        session.execute(drop)


def follow(primary: str, standby: str, facts: StandbyFacts, data_dir: Path) -> StandbyFacts:
    """
    Point a running standby at a new primary, after another standby was promoted.

    Its role and password came with the books; only its slot is made anew.

    Args:
        primary: The new primary's owner.
        standby: The running standby's owner.
        facts: What its directory knows.
        data_dir: That directory.
    """
    with open_session(primary) as session:
        _refuse_unsuitable(session)
        _make_slot(session, facts.name)
    upstream = _upstream(primary, facts.name, data_dir.absolute() / _CLUSTER)
    with open_session(standby) as session:
        _set(session, "primary_conninfo", upstream)
    facts = msgspec.structs.replace(facts, primary=_without_password(primary), is_waited_for=False)
    write_facts(data_dir, facts)
    return facts


def upstream_of(session: Session) -> str:
    """
    Return the connection string by which a standby's own role can log in at its primary.
    """
    row = session.execute("SHOW primary_conninfo").fetchone()
    return make_conninfo(str(row[0]) if row else "", dbname="postgres", application_name="look")


def stand_alone(session: Session, *, wait_for: list[str]) -> None:
    """
    Before a promotion: decide whom the new primary will wait for.
    """
    _wait_for(session, wait_for)


def forget_primary(session: Session, data_dir: Path) -> None:
    """
    After a promotion: nothing of the directory says any more that it follows another.
    """
    for name in ("primary_conninfo", "primary_slot_name"):
        session.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
    session.execute("SELECT pg_reload_conf()")
    (data_dir / FACTS_FILE).unlink(missing_ok=True)


def _refuse_unsuitable(session: Session) -> None:
    row = session.execute(
        "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int / 10000, "
        "current_setting('wal_level')"
    ).fetchone()
    assert row is not None, "a server answers"
    is_standby, version, wal_level = row
    if is_standby:
        message = "The server that was named is a standby itself: name its primary."
        raise StandbyError(message)
    if version != installed_version():
        message = (
            f"The primary is PostgreSQL {version}, and {installed_version()} is installed here: "
            f"a standby needs the same. Use that version's own tools."
        )
        raise StandbyError(message)
    if wal_level == "minimal":
        message = "The primary's wal_level is minimal: set it to replica and restart it."
        raise StandbyError(message)


def _make_slot(session: Session, name: str) -> None:
    known = session.execute(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (_slot(name),)
    ).fetchone()
    if known is None:
        session.execute("SELECT pg_create_physical_replication_slot(%s, true)", (_slot(name),))


def _wait_until(session: Session, name: str, condition: LiteralString, deadline: float) -> None:
    query = sql.SQL("SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND ")
    while session.execute(query + sql.SQL(condition), (name,)).fetchone() is None:
        if time.monotonic() > deadline:
            message = f"The standby {name} does not follow its primary: look into its log."
            raise StandbyError(message)
        time.sleep(_POLL_S)


def _wait_for(session: Session, names: list[str]) -> None:
    quoted = ", ".join(f'"{name}"' for name in names)
    _set(session, "synchronous_standby_names", f"ANY 1 ({quoted})" if names else "")


def _set(session: Session, name: str, value: str) -> None:
    statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
    session.execute(statement)
    session.execute("SELECT pg_reload_conf()")


def _write_settings(cluster: Path, upstream: str, name: str, user: ServerUser) -> None:
    settings = {
        "primary_conninfo": upstream,
        "primary_slot_name": _slot(name),
        # The primary's; who is waited for after a promotion is decided by the promotion.
        "synchronous_standby_names": "",
    }
    with (cluster / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        for setting, value in settings.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            file.write(f"{setting} = '{quoted}'\n")
    give_file(cluster / "standby.signal", b"", user)


def _upstream(primary: str, name: str, cluster: Path) -> str:
    given = conninfo_to_dict(primary)
    return make_conninfo(
        "",
        **{option: given[option] for option in _KEPT if given.get(option)},
        user=_role(name),
        passfile=str(cluster / _PASSWORDS),
        application_name=name,
        connect_timeout=_CONNECT_TIMEOUT_S,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )


def _without_password(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    given.pop("password", None)
    return make_conninfo("", **given)


def _role(name: str) -> str:
    return f"tokenworks_standby_{name}"


def _slot(name: str) -> str:
    return f"tokenworks_{name}"
