"""
Keep segments of the write-ahead log in a folder, and give them back.

PostgreSQL runs this file as a program of its own (``archive_command`` and
``restore_command``), so it imports nothing of the hub:

    python wal_archive.py store SEGMENT FOLDER
    python wal_archive.py fetch NAME FOLDER TARGET

Invariants:
    * A segment is reported as stored only when its bytes and its name are on the disk.
    * What is in the folder is never overwritten: the same bytes again are fine (PostgreSQL
      repeats after a crash), other bytes under the same name are refused.
    * A segment is fetched whole or not at all.

Files are gzip-compressed; a segment that was cut short by time is mostly zeros. Known
limit: the folder's file system must know hard links.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import Final

SUFFIX: Final = ".gz"
COMPRESSION_LEVEL: Final = 1

_ABSENT: Final = 1
_BROKEN: Final = 200  # above 125: recovery stops, instead of ending early
_USAGE: Final = 2


def store(segment: Path, folder: Path) -> None:
    """
    Put a segment into the folder, durably.

    Raises:
        FileExistsError: Another segment of that name is there already.
    """
    target = folder / (segment.name + SUFFIX)
    if target.exists():
        if _content(target) != segment.read_bytes():
            message = f"{target} holds other bytes: two servers archive to one folder."
            raise FileExistsError(message)
    else:
        draft = folder / f".{segment.name}.{os.getpid()}.unfinished"
        try:
            with draft.open("wb") as file:
                with (
                    gzip.GzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as packed,
                    segment.open("rb") as plain,
                ):
                    shutil.copyfileobj(plain, packed)
                file.flush()
                os.fsync(file.fileno())
            # A link appears whole, and fails where a name exists.
            os.link(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    # Also for a repeat: the crash may have come before the name was durable.
    _sync_directory(folder)


def fetch(name: str, folder: Path, target: Path) -> None:
    """
    Copy a segment out of the folder.

    Raises:
        FileNotFoundError: It is not there; for recovery, the end of the archive.
    """
    draft = target.with_name(f"{target.name}.unfinished")
    with gzip.open(folder / (name + SUFFIX), "rb") as packed, draft.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    draft.replace(target)


def _content(path: Path) -> bytes:
    with gzip.open(path, "rb") as packed:
        return packed.read()


def _sync_directory(folder: Path) -> None:
    file_number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file_number)
    finally:
        os.close(file_number)


def _main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["store", segment, folder]:
                store(Path(segment), Path(folder))
            case ["fetch", name, folder, target]:
                fetch(name, Path(folder), Path(target))
            case _:
                sys.stderr.write(__doc__ or "")
                return _USAGE
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return _ABSENT
    except (OSError, EOFError, zlib.error) as error:
        sys.stderr.write(f"{error}\n")
        return _ABSENT if arguments[0] == "store" else _BROKEN
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
