"""
Let a server be reached over a network: by a standby, and by hubs on other machines.

Without this a server has a Unix socket only. With it, every network connection needs a
password (SCRAM), the machine itself included; the socket stays for its own user. The
wheel's server has no TLS: the network between the machines must be a private one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, LiteralString

from psycopg import sql

from tokenworks.adapters.embedded_postgres.session import Session, open_session
from tokenworks.adapters.embedded_postgres.system_user import ServerUser
from tokenworks.adapters.operating_system.private_file import write_private

PASSWORD_FILE: Final = Path("keys", "database.pgpass")
PASSWORD_BYTES: Final = 32

_ACCESS_FILE: Final = "tokenworks_access.conf"
_ACCESS: Final = """\
# Written at each start of the server.
local all         all     trust
local replication all     trust
host  all         all all scram-sha-256
host  replication all all scram-sha-256
"""


def network_settings(
    cluster: Path, user: ServerUser, *, listen: str, port: int
) -> Mapping[str, str]:
    """
    Return the settings of a server that listens on a network address.

    Args:
        cluster: Gets the file that says who may come in.
        user: Who runs the server.
        listen: The address to bind.
        port: Also the number of its socket.
    """
    access = cluster / _ACCESS_FILE
    give_file(access, _ACCESS.encode(), user)
    return {"listen_addresses": listen, "port": str(port), "hba_file": str(access)}


def ensure_passwords(dsn: str, data_dir: Path, roles: tuple[str, ...]) -> Path | None:
    """
    Give the hub's roles passwords, once; return the new password file, for a notice.

    The file is in libpq's format (``passfile=`` in a connection string) and is copied to the
    hubs. A standby has the passwords from its primary.

    Returns:
        ``None`` when they were given before, or the server is a standby.
    """
    path = data_dir / PASSWORD_FILE
    if path.exists():
        return None
    with open_session(dsn) as session:
        row = session.execute("SELECT pg_is_in_recovery()").fetchone()
        if row is None or row[0]:
            return None
        passwords = {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in roles}
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # First kept, then set: a password that is set and not kept locks everybody out.
        write_private(path, password_lines(passwords))
        for role, password in passwords.items():
            set_password(session, role, password)
    return path


def password_lines(passwords: Mapping[str, str]) -> bytes:
    """
    Return a libpq password file that holds for any host, port and database.
    """
    lines = [f"*:*:*:{role}:{password}\n" for role, password in passwords.items()]
    return "".join(lines).encode()


def set_password(
    session: Session, role: str, password: str, *, options: LiteralString = "LOGIN"
) -> None:
    """
    Make the role when it is missing, and set its password.

    The password is hashed here: what the server sees, and might log, is the hash.
    """
    exists = session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    hashed = session.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    session.execute(
        sql.SQL("{} ROLE {} {} PASSWORD {}").format(
            sql.SQL("ALTER" if exists else "CREATE"),
            sql.Identifier(role),
            sql.SQL(options),
            sql.Literal(hashed),
        )
    )


def give_file(path: Path, content: bytes, user: ServerUser) -> None:
    """
    Write a private file that belongs to the server's user.
    """
    write_private(path, content)
    user.own(path)
