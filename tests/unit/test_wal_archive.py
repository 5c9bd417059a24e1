"""
The archive of the log: durable, whole, never overwritten, and its holes are seen.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenworks.adapters.embedded_postgres import wal_archive
from tokenworks.adapters.embedded_postgres.archiving import (
    Segment,
    archive_settings,
    archived_segments,
    missing_segments,
    segment_of,
)
from tokenworks.adapters.embedded_postgres.system_user import HUB_USER

NAME = "000000010000000000000007"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """
    An empty archive.
    """
    folder = tmp_path / "wal"
    folder.mkdir()
    return folder


def _segment(directory: Path, content: bytes, name: str = NAME) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def test_segment_comes_back_as_it_was(tmp_path: Path, archive: Path) -> None:
    """
    What is fetched is what was stored; nothing else is left in the folder.
    """
    wal_archive.store(_segment(tmp_path, b"log" * 1000), archive)
    wal_archive.fetch(NAME, archive, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"log" * 1000
    assert [path.name for path in archive.iterdir()] == [NAME + ".gz"]


def test_same_segment_may_come_twice_and_another_may_not(tmp_path: Path, archive: Path) -> None:
    """
    PostgreSQL repeats after a crash; other bytes under one name are another server's.
    """
    segment = _segment(tmp_path, b"one")
    wal_archive.store(segment, archive)
    wal_archive.store(segment, archive)
    segment.write_bytes(b"two")
    with pytest.raises(FileExistsError, match="two servers"):
        wal_archive.store(segment, archive)
    assert gzip.decompress((archive / (NAME + ".gz")).read_bytes()) == b"one"


def test_segment_and_its_name_are_synced_before_it_counts(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The bytes are on the disk before the name appears, and the folder is synced after it.
    """
    seen: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(file_number: int) -> None:
        path = Path(f"/proc/self/fd/{file_number}").resolve()
        seen.append((path.name.split(".")[-1], (archive / (NAME + ".gz")).exists()))
        real(file_number)

    monkeypatch.setattr(os, "fsync", fsync)
    wal_archive.store(_segment(tmp_path, b"log"), archive)
    assert seen == [("unfinished", False), ("wal", True)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fetch", NAME, "ARCHIVE", "TARGET"], 1),
        (["fetch", "broken", "ARCHIVE", "TARGET"], 200),
        (["store", "absent", "ARCHIVE"], 1),
        (["store", "SEGMENT", "absent"], 1),
        (["store", "SEGMENT", "ARCHIVE"], 0),
        (["forget"], 2),
    ],
)
def test_program_tells_postgresql_what_happened(
    tmp_path: Path, archive: Path, arguments: list[str], code: int
) -> None:
    """
    1: not there, the end of the archive. Above 125: damaged, so that recovery stops.
    """
    (archive / "broken.gz").write_bytes(gzip.compress(b"log" * 1000)[:20])
    places = {
        "ARCHIVE": str(archive),
        "TARGET": str(tmp_path / "target"),
        "SEGMENT": str(_segment(tmp_path, b"log")),
    }
    command = [sys.executable, "-I", "-S", wal_archive.__file__]
    command += [places.get(word, word) for word in arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, timeout=30)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "target").exists()


def test_command_line_survives_any_folder_name(tmp_path: Path) -> None:
    """
    PostgreSQL replaces ``%`` and a shell reads the rest.
    """
    folder = tmp_path / "100% 'mine'; $(touch gone)"
    command = archive_settings(folder, HUB_USER)["archive_command"]
    segment = _segment(tmp_path, b"log")
    text = command.replace("%p", str(segment)).replace("%%", "%")
    subprocess.run(["/bin/sh", "-c", text], check=True, cwd=tmp_path, timeout=30)
    assert (folder / (NAME + ".gz")).exists()


@pytest.mark.parametrize(
    ("names", "first", "missing"),
    [
        ([], 1, []),
        ([1, 2, 3], 1, []),
        ([1, 3, 5], 1, [2, 4]),
        ([1, 5, 6], 5, []),
        ([255, 256, 257], 255, []),
        ([255, 257], 255, [256]),
    ],
)
def test_holes_are_seen(archive: Path, names: list[int], first: int, missing: list[int]) -> None:
    """
    Every index between the first that is needed and the last there is, over file borders.
    """
    for index in names:
        (archive / (Segment(index=index, timeline=1).name + ".gz")).touch()
    (archive / "00000002.history.gz").touch()
    present = archived_segments(archive)
    assert [segment.index for segment in present] == names
    found = missing_segments(present, first=Segment(index=first, timeline=1))
    assert [segment.index for segment in found] == missing


def test_segments_of_two_histories_fill_one_log(archive: Path) -> None:
    """
    After a promotion the numbers go on, under another timeline.
    """
    for timeline, index in ((1, 4), (1, 5), (2, 5), (2, 6)):
        (archive / (Segment(index=index, timeline=timeline).name + ".gz")).touch()
    present = archived_segments(archive)
    assert missing_segments(present, first=Segment(index=4, timeline=1)) == []
    assert segment_of("00000002000000010000000A.gz") == Segment(index=266, timeline=2)
    assert segment_of("00000002.history.gz") is None
