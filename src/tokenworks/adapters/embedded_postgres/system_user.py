"""
The operating-system user PostgreSQL runs as.

PostgreSQL refuses to run as root. When the hub is root, its server runs as the system
user ``tokenworks-postgres``, made on first use. That user must be able to pass
through the parent folders of the data directory and of the programs: folders that
forbid it get the traverse bit (``o+x``) and nothing else, so their content still
cannot be listed, and files and folders inside them keep their own modes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenworks.adapters.embedded_postgres.binaries import install_directory, program
from tokenworks.adapters.embedded_postgres.errors import PostgresSystemUserError

SYSTEM_USER: Final = "tokenworks-postgres"

_USERADD_TIMEOUT_S: Final = 30
_ADVICE: Final = (
    "Run the hub as a normal user, or set TOKENWORKS_DATABASE_URL to a server of your own."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUser:
    """
    Who runs the server; ``None`` everywhere means whoever runs the hub.
    """

    user_id: int | None
    group_id: int | None

    def own(self, path: Path) -> None:
        """
        Give a folder to this user.
        """
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)

    @property
    def name(self) -> str:
        """
        Return the user's name, for messages.
        """
        number = os.geteuid() if self.user_id is None else self.user_id
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            return str(number)

    @property
    def extra_groups(self) -> list[int] | None:
        """
        Return the argument of ``subprocess`` that drops root's further groups.
        """
        return None if self.user_id is None else []


HUB_USER: Final = ServerUser(user_id=None, group_id=None)


def server_user(cluster: Path) -> ServerUser:
    """
    Return the user for the server of ``cluster``; as root, let it reach the programs.

    As root a cluster that exists is served as its owner, a new one as ``SYSTEM_USER``,
    which is made when missing.

    Raises:
        PostgresSystemUserError: Root, and the user cannot be made.
    """
    if os.geteuid() != 0:
        return HUB_USER
    owner = _owner(cluster)
    if owner is None:
        entry = _system_user_entry()
        owner = ServerUser(user_id=entry.pw_uid, group_id=entry.pw_gid)
    _open_programs(owner)
    return owner


def _owner(cluster: Path) -> ServerUser | None:
    try:
        status = cluster.stat()
    except FileNotFoundError:
        return None
    if status.st_uid == 0:
        return None
    return ServerUser(user_id=status.st_uid, group_id=status.st_gid)


def let_through(user: ServerUser, path: Path) -> tuple[Path, ...]:
    """
    Let the server's user pass through the parents of ``path``.

    Returns:
        The folders whose mode was changed, for a notice.
    """
    if user.user_id is None:
        return ()
    return tuple(parent for parent in path.resolve().parents if _add_traverse(parent))


def _add_traverse(directory: Path) -> bool:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & stat.S_IXOTH:
        return False
    directory.chmod(mode | stat.S_IXOTH)
    return True


def _system_user_entry() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _add_system_user()
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        message = f"The system user {SYSTEM_USER} cannot be found. {_ADVICE}"
        raise PostgresSystemUserError(message) from None


def _add_system_user() -> None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        message = f"PostgreSQL does not run as root and 'useradd' is not here. {_ADVICE}"
        raise PostgresSystemUserError(message)
    command = [useradd, "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--user-group", SYSTEM_USER]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_USERADD_TIMEOUT_S
    )
    if result.returncode == 0 or _user_exists():
        # Two hubs that start together may both try; one of them finds it made.
        return
    message = f"Cannot make the user {SYSTEM_USER}: {result.stderr.strip()}. {_ADVICE}"
    raise PostgresSystemUserError(message)


def _user_exists() -> bool:
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return False
    return True


def _open_programs(user: ServerUser) -> None:
    if _can_run(user):
        return
    directory = install_directory()
    let_through(user, directory)
    # A wheel installed under a strict umask is readable by root only; it holds
    # nothing but published programs.
    for path in (directory, *directory.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        readable = mode | stat.S_IRGRP | stat.S_IROTH
        if path.is_dir() or mode & stat.S_IXUSR:
            readable |= stat.S_IXGRP | stat.S_IXOTH
        if readable != mode:
            path.chmod(readable)
    if not _can_run(user):
        message = f"The user {user.name} cannot run {program('postgres')}. {_ADVICE}"
        raise PostgresSystemUserError(message)


def _can_run(user: ServerUser) -> bool:
    try:
        result = subprocess.run(
            [program("postgres"), "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            env={},
            timeout=_USERADD_TIMEOUT_S,
            user=user.user_id,
            group=user.group_id,
            extra_groups=user.extra_groups,
        )
    except PermissionError:
        return False
    return result.returncode == 0
