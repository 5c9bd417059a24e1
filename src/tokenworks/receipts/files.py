"""
Read receipts and keys from files, in every form the hub hands them out.

A file of receipts is a JSON document, a JSON list of them, JSONL (an export), or a saved
stream with ``: tokenworks-receipt {json}`` comment lines. JSON with a repeated member is
refused: two programs could read two different receipts in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, cast

from tokenworks.receipts.addenda import check_addenda, is_addendum, verify_addendum
from tokenworks.receipts.errors import KeyFileInvalidError
from tokenworks.receipts.findings import Problem, ProblemCode, Verification
from tokenworks.receipts.lane_chain import check_links
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_receipt

COMMENT_PREFIX: Final = ": tokenworks-receipt "
RECEIPT_FILE_BYTES_MAX: Final = 256 * 1024 * 1024
KEY_FILE_BYTES_MAX: Final = 4 * 1024 * 1024

_STREAM_MARKS: Final = (":", "data:", "event:", "id:", "retry:")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """
    A document and where it stood, or why it could not be read.
    """

    source: str
    document: object = None
    failure: str | None = None


def verify_paths(paths: Iterable[Path], keys: TrustedKeys) -> list[Verification]:
    """
    Verify every receipt in the files, and the links between all of them.

    Addenda among them are verified too, and against the receipts they belong to. A file that
    holds neither, or a line that cannot be read, gives one finding ``unreadable``.
    """
    found = [_verify_loaded(loaded, keys) for path in paths for loaded in _read(path)]
    return check_addenda(check_links(found))


def read_keys(path: Path) -> TrustedKeys:
    """
    Read public keys: a root's JWK, a hub's key set, or ``demo.json``.

    Raises:
        KeyFileInvalidError: The file cannot be read, or holds no root key.
    """
    try:
        content = path.read_bytes() if _size(path) <= KEY_FILE_BYTES_MAX else b""
    except OSError as error:
        raise KeyFileInvalidError(f"{path} cannot be read: {error.strerror}.") from error
    return TrustedKeys.from_json(content)


def _verify_loaded(loaded: _Loaded, keys: TrustedKeys) -> Verification:
    if loaded.failure is None and is_addendum(loaded.document):
        return verify_addendum(loaded.document, keys, source=loaded.source)
    if loaded.failure is None:
        return verify_receipt(loaded.document, keys, source=loaded.source)
    problem = Problem(code=ProblemCode.UNREADABLE, message=loaded.failure)
    return Verification(source=loaded.source, problems=(problem,))


def _read(path: Path) -> Iterator[_Loaded]:
    try:
        if _size(path) > RECEIPT_FILE_BYTES_MAX:
            message = f"The file is larger than {RECEIPT_FILE_BYTES_MAX} bytes; split it."
            yield _Loaded(source=str(path), failure=message)
            return
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        yield _Loaded(source=str(path), failure=f"Cannot be read: {error.strerror}.")
        return
    except UnicodeDecodeError:
        yield _Loaded(source=str(path), failure="This is not UTF-8 text.")
        return
    yield from _split(str(path), text)


def _split(path: str, text: str) -> Iterator[_Loaded]:
    try:
        whole = _parse(text)
    except _JsonError:
        yield from _split_lines(path, text)
        return
    documents = cast("list[object]", whole) if isinstance(whole, list) else [whole]
    if not documents:
        yield _Loaded(source=path, failure="There is no receipt in it.")
    for index, document in enumerate(documents):
        source = path if whole is document else f"{path}[{index}]"
        yield _Loaded(source=source, document=document)


def _split_lines(path: str, text: str) -> Iterator[_Loaded]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    is_stream = any(line.startswith(COMMENT_PREFIX) for _, line in lines)
    is_empty = True
    for number, line in lines:
        if not line or (is_stream and _is_of_stream(line)):
            continue
        is_empty = False
        source = f"{path}:{number}"
        try:
            yield _Loaded(source=source, document=_parse(line.removeprefix(COMMENT_PREFIX)))
        except _JsonError as error:
            yield _Loaded(source=source, failure=f"This line is not JSON: {error}.")
    if is_empty:
        yield _Loaded(source=path, failure="There is no receipt in it.")


def _is_of_stream(line: str) -> bool:
    return line.startswith(_STREAM_MARKS) and not line.startswith(COMMENT_PREFIX)


class _JsonError(Exception):
    """
    Not JSON, or JSON that two programs could read differently.
    """


def _parse(text: str) -> object:
    try:
        return cast(
            "object",
            json.loads(text, object_pairs_hook=_single_members, parse_constant=_refuse_constant),
        )
    except (ValueError, RecursionError) as error:
        raise _JsonError(str(error)) from error


def _single_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _JsonError("a member is repeated")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _JsonError(f"{name} is not JSON")


def _size(path: Path) -> int:
    return path.stat().st_size
