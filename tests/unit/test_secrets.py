"""
The master key and what is encrypted under it.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import stat
from pathlib import Path
from uuid import UUID

import pytest

from tests.patience import PATIENCE_S
from tokenworks.supply.errors import MasterKeyError, SecretUnreadableError
from tokenworks.supply.secrets import MASTER_KEY_FILE, SecretBox, load_master_key

KEY = bytes(range(32))
OWNER, OTHER = UUID(int=1), UUID(int=2)


def test_text_comes_back_for_its_owner_only() -> None:
    """
    What is stored for one supplier cannot be opened as another's, nor under another key.
    """
    box = SecretBox(KEY)
    sealed = box.encrypt("sk-secret", owner_id=OWNER)
    assert b"sk-secret" not in sealed
    assert box.decrypt(sealed, owner_id=OWNER) == "sk-secret"
    with pytest.raises(SecretUnreadableError):
        box.decrypt(sealed, owner_id=OTHER)
    with pytest.raises(SecretUnreadableError) as refused:
        SecretBox(KEY[::-1]).decrypt(sealed, owner_id=OWNER)
    assert refused.value.code == "secret_unreadable"
    assert "sk-secret" not in str(refused.value)


def test_every_changed_byte_is_noticed() -> None:
    """
    A flipped bit anywhere, a cut or an addition make the text unreadable, never wrong.
    """
    box = SecretBox(KEY)
    sealed = box.encrypt("sk", owner_id=OWNER)
    broken = [
        sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        for index in range(len(sealed))
    ]
    for text in (*broken, b"", sealed[:-1], sealed + b"\0"):
        with pytest.raises(SecretUnreadableError):
            box.decrypt(text, owner_id=OWNER)


def test_same_text_looks_different_each_time() -> None:
    """
    Each encryption has a nonce of its own, so equal keys cannot be told from the rows.
    """
    box = SecretBox(KEY)
    assert len({box.encrypt("sk", owner_id=OWNER) for _ in range(100)}) == 100


def test_box_does_not_show_its_key() -> None:
    """
    Neither ``repr`` nor ``str`` gives the master key away.
    """
    assert repr(SecretBox(KEY)) == str(SecretBox(KEY)) == "SecretBox()"
    with pytest.raises(MasterKeyError):
        SecretBox(b"short")


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(bytes([255]) * 32).decode().rstrip("="),
    ],
)
def test_environment_wins_over_the_file(text: str, tmp_path: Path) -> None:
    """
    The variable is hexadecimal or base64, and no file is made when it is set.
    """
    key = load_master_key(tmp_path, environment={"TOKENWORKS_MASTER_KEY": text})
    assert key in (KEY, bytes([255]) * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["x", "00" * 31, "00" * 33, "ä" * 43, "!" * 44])
def test_malformed_master_key_is_refused_without_repeating_it(text: str) -> None:
    """
    A key of another length is never stretched or cut.
    """
    with pytest.raises(MasterKeyError) as refused:
        load_master_key(None, environment={"TOKENWORKS_MASTER_KEY": text})
    assert text not in refused.value.message or text == "x"


def test_without_variable_and_directory_there_is_no_key() -> None:
    """
    Nothing is invented that a restart would lose.
    """
    with pytest.raises(MasterKeyError, match="TOKENWORKS_MASTER_KEY"):
        load_master_key(None, environment={})


def test_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """
    The first start makes the key with mode 0600 in a folder with 0700; later ones read it.
    """
    first = load_master_key(tmp_path, environment={})
    path = tmp_path / MASTER_KEY_FILE
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_master_key(tmp_path, environment={}) == first
    assert [file.name for file in path.parent.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    """
    A key that others may have read is reported with the command that mends it.
    """
    load_master_key(tmp_path, environment={})
    path = tmp_path / MASTER_KEY_FILE
    path.chmod(mode)
    with pytest.raises(MasterKeyError, match="chmod 600"):
        load_master_key(tmp_path, environment={})


def test_link_folder_and_cut_file_are_refused(tmp_path: Path) -> None:
    """
    Only a plain, whole file is a key.
    """
    path = tmp_path / MASTER_KEY_FILE
    path.parent.mkdir()
    target = tmp_path / "elsewhere"
    target.write_text(KEY.hex())
    target.chmod(0o600)
    path.symlink_to(target)
    with pytest.raises(MasterKeyError):
        load_master_key(tmp_path, environment={})
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(MasterKeyError):
        load_master_key(tmp_path, environment={})
    path.rmdir()
    path.touch(mode=0o600)
    with pytest.raises(MasterKeyError, match="32 bytes"):
        load_master_key(tmp_path, environment={})


def _load(directory: str, barrier_path: str, answers: multiprocessing.Queue[bytes]) -> None:
    while not os.path.exists(barrier_path):  # noqa: PTH110 # A busy start line.
        pass
    answers.put(load_master_key(Path(directory), environment={}))


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """
    Whoever comes second uses the first one's key, and nobody reads half a file.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    barrier = tmp_path / "go"
    data = tmp_path / "data"
    processes = [
        context.Process(target=_load, args=(str(data), str(barrier), answers)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    barrier.touch()
    keys = {answers.get(timeout=PATIENCE_S) for _ in processes}
    for process in processes:
        process.join(timeout=PATIENCE_S)
    answers.close()
    assert len(keys) == 1
    assert [file.name for file in (data / "keys").iterdir()] == ["master.key"]
