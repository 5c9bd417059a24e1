"""
Payments that are neither made nor refused yet, kept in files until somebody knows.

A file holds the signed request, so that this process or a later one sends the very same
signature again. It is as secret as the wallet beside it: mode 0600 in a folder of mode 0700.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
import msgspec

UNDECIDED_MAX: Final = 1_000
"""Payments kept at once; with more the oldest is forgotten, and stays at the hub."""


class _Kept(msgspec.Struct, frozen=True):
    method: str
    url: str
    headers: dict[str, str]
    body: bytes  # base64 in the file


class UndecidedPayments:
    """
    A folder with one file for each payment.

    Args:
        folder: Made when it is not there.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def ids(self) -> list[str]:
        """
        Return the ids, oldest first: an id begins with its time.
        """
        return sorted(file.stem for file in self._folder.glob("*.json"))

    def keep(self, payment_id: str, request: httpx.Request) -> None:
        """
        Keep a signed request; what was kept of it before is replaced.
        """
        kept = _Kept(
            method=request.method,
            url=str(request.url),
            headers=dict(request.headers),
            body=request.content,
        )
        file = self._file(payment_id)
        new = file.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            handle.write(msgspec.json.encode(kept))
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(file)
        for forgotten in self.ids()[:-UNDECIDED_MAX]:
            self.forget(forgotten)

    def request(self, payment_id: str) -> httpx.Request | None:
        """
        Return what was kept; ``None``: nothing that can be read.

        Raises:
            ValueError: This is no id.
        """
        file = self._file(payment_id)
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None
        return httpx.Request(kept.method, kept.url, headers=kept.headers, content=kept.body)

    def forget(self, payment_id: str) -> None:
        """
        Forget a payment that is decided.
        """
        self._file(payment_id).unlink(missing_ok=True)

    def _file(self, payment_id: str) -> Path:
        # Only an id names a file: whatever else a model says leads nowhere.
        return self._folder / f"{UUID(payment_id)}.json"
