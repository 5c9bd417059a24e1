"""
Read the files that a command names.

Owns: that what cannot be read, is too large or is not what it should be ends the command as one
that could not run. Does not own: what a document means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from tokenworks.cli.client import EXIT_COULD_NOT_RUN, CommandError

FILE_BYTES_MAX: Final = 1024 * 1024


def read_bytes(file: Path, *, bytes_max: int = FILE_BYTES_MAX, hint: str | None = None) -> bytes:
    """
    Return a file's content.

    Args:
        file: What the command was given.
        bytes_max: More than this is refused.
        hint: What to do about a larger one.

    Raises:
        CommandError: It is not there, not ours to read, or too large.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    if len(content) > bytes_max:
        message = f"{file} has more than {bytes_max} bytes."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)
    return content


def read_text(file: Path, *, bytes_max: int = FILE_BYTES_MAX, hint: str | None = None) -> str:
    """
    Return a file's text, which is UTF-8.

    Raises:
        CommandError: As `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(file, bytes_max=bytes_max, hint=hint).decode()
    except UnicodeDecodeError as error:
        message = f"{file} is not UTF-8: byte {error.start} is not."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


def read_object(file: Path) -> dict[str, Any]:
    """
    Return the JSON object in a file.

    Raises:
        CommandError: As `read_text`, or it holds none.
    """
    return parse_object(read_text(file), str(file))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """
    Return a JSON object.

    Args:
        text: As it was written.
        where: The file or option that it came from, for the message.

    Raises:
        CommandError: It is none.
    """
    try:
        document: object = json.loads(text)
    except ValueError as error:
        message = f"{where} is no JSON: {error}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    if not isinstance(document, dict):
        message = f"{where} is no JSON object."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return cast("dict[str, Any]", document)
