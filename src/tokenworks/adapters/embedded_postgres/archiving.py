"""
A backup folder: ``base/`` holds copies of the cluster, ``wal/`` what was written since.

The server's settings that fill ``wal/`` and read it again, and what can be told from the
names in it: where the archive ends, and whether a segment is missing.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenworks.adapters.embedded_postgres import wal_archive
from tokenworks.adapters.embedded_postgres.errors import BackupUnusableError
from tokenworks.adapters.embedded_postgres.system_user import ServerUser, let_through

WAL_FOLDER: Final = "wal"
BASE_FOLDER: Final = "base"
ARCHIVE_TIMEOUT_S: Final = 60
"""A segment that is not full is archived after so long: at most this is lost with a disk."""

_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_SEGMENTS_PER_FILE: Final = 256  # with segments of 16 MiB, as initdb makes them


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """
    A stretch of 16 MiB of the log: its place, and the history (timeline) it belongs to.
    """

    index: int  # counted from the beginning of the log, over all timelines
    timeline: int

    @property
    def name(self) -> str:
        """
        Return PostgreSQL's name of it.
        """
        log, part = divmod(self.index, _SEGMENTS_PER_FILE)
        return f"{self.timeline:08X}{log:08X}{part:08X}"


def segment_of(name: str) -> Segment | None:
    """
    Return what a file's name says; ``None`` when it is no whole segment.
    """
    match = _SEGMENT.fullmatch(name.removesuffix(wal_archive.SUFFIX))
    if match is None:
        return None
    timeline, log, part = (int(text, 16) for text in match.groups())
    return Segment(index=log * _SEGMENTS_PER_FILE + part, timeline=timeline)


def archived_segments(folder: Path) -> list[Segment]:
    """
    Return the whole segments of a ``wal/`` folder, in order; none when there is no folder.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(segment for name in names if (segment := segment_of(name)) is not None)


def missing_segments(present: Sequence[Segment], *, first: Segment) -> list[Segment]:
    """
    Return the holes between ``first`` and the last segment there is.

    A hole means that nothing behind it can be restored.
    """
    indexes = {segment.index for segment in present if segment.index >= first.index}
    if not indexes:
        return []
    return [
        Segment(index=index, timeline=first.timeline)
        for index in range(first.index, max(indexes))
        if index not in indexes
    ]


def archive_settings(folder: Path, user: ServerUser) -> Mapping[str, str]:
    """
    Return the settings of a server that archives to ``folder``; make the folder.

    Without a folder of its own a server must archive nothing: with ``archive_mode`` on and
    no command that works, the log grows until the disk is full.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    let_through(user, folder)
    user.own(folder)
    return {
        "archive_mode": "on",
        "archive_command": _command("store", "%p", folder, user=user),
        "archive_timeout": str(ARCHIVE_TIMEOUT_S),
    }


def restore_command(folder: Path, user: ServerUser) -> str:
    """
    Return the command by which a recovering server reads ``folder``.

    Raises:
        BackupUnusableError: The server's user may not read it.
    """
    let_through(user, folder)
    if user.user_id is not None and folder.stat().st_uid not in {user.user_id, 0}:
        message = (
            f"{folder} belongs to another user than PostgreSQL's, {user.name}: "
            f"run chown -R {user.name} {shlex.quote(str(folder))}"
        )
        raise BackupUnusableError(message)
    user.own(folder)
    return _command("fetch", "%f", folder, "%p", user=user)


def _command(action: str, name: str, folder: Path, *more: str, user: ServerUser) -> str:
    interpreter, script = Path(sys.executable), Path(wal_archive.__file__)
    for path in (interpreter, interpreter.resolve(), script):
        let_through(user, path)
    # To the server a per cent sign begins a placeholder.
    quoted = [
        shlex.quote(str(word)).replace("%", "%%")
        for word in (interpreter, script, folder.absolute())
    ]
    # -I -S: nothing of the environment or the working directory is imported.
    return " ".join([quoted[0], "-I", "-S", quoted[1], action, name, quoted[2], *more])
