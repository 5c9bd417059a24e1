"""
Talk to a running hub: where it is, which key, what its errors mean.

Exit codes of every command: 0 done, 1 refused by the hub or a check that failed, 2 wrong
usage or could not run (hub unreachable, not ready, no key).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, cast

import httpx
import msgspec
import typer

from tokenworks.cli.rendering import Output
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.settings import (
    RUNTIME_FILE_NAME,
    HubNotRunningError,
    load_settings,
    read_runtime,
)

EXIT_REFUSED: Final = 1
EXIT_COULD_NOT_RUN: Final = 2

URL_VARIABLE: Final = "TOKENWORKS_URL"
KEY_VARIABLE: Final = "TOKENWORKS_KEY"

TIMEOUT_S: Final = 70.0
PAGE_ROWS: Final = 500
ROWS_DEFAULT: Final = 1_000
KEY_PREFIX_CHARACTERS: Final = 10

Document: TypeAlias = "dict[str, Any]"

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help=f"Where the hub is; else {URL_VARIABLE}, the data directory's hub."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help=f"The API key; else {KEY_VARIABLE}, the demo's admin key."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The hub's data directory, for its address and the demo's key."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CommandError(Exception):
    """
    A command cannot do what it was asked; carries what people and scripts are told.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        hint: str | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """
    A hub and the key to use there, each with where it was found.
    """

    url: str
    url_source: str
    key: str | None = field(repr=False)
    key_source: str

    @property
    def key_text(self) -> str:
        """
        Return how to name the key to people: never more than its prefix.
        """
        if self.key is None:
            return "no key"
        return f"key {self.key[:KEY_PREFIX_CHARACTERS]}… from {self.key_source}"


def find_connection(
    *, url: str | None, key: str | None, data: Path | None, environment: Mapping[str, str]
) -> Connection:
    """
    Decide which hub and key to use: option, environment, settings file, ``demo.json``, default.

    The demo's key is used only for the demo's own address, so that a key never travels to a
    hub it does not belong to.

    Raises:
        SettingsError: A setting is unknown or cannot be read.
    """
    flags = {"url": url, "key": key, "data_dir": data}
    settings = load_settings(flags, environment=environment)
    demo_file = settings.data_dir / "demo.json"
    demo = read_demo(demo_file)
    demo_url = _root_of(str(demo["base_url"])) if demo.get("base_url") else None
    found_url, url_source = _first(
        (settings.url, settings.source("url")),
        (demo_url, str(demo_file)),
        (_running_url(settings.data_dir), str(settings.data_dir / RUNTIME_FILE_NAME)),
        (settings.hub_url, settings.source("port")),
    )
    assert found_url is not None, "the default is always there"
    is_demo = demo_url is not None and _root_of(found_url) == demo_url
    found_key, key_source = _first(
        (settings.key, settings.source("key")),
        (demo.get("admin_key") if is_demo else None, str(demo_file)),
    )
    return Connection(
        url=_root_of(found_url), url_source=url_source, key=found_key, key_source=key_source
    )


def _running_url(data_dir: Path) -> str | None:
    try:
        return read_runtime(data_dir).hub_url
    except HubNotRunningError:
        return None


def read_demo(file: Path) -> Document:
    """
    Return the demo's hand-over file, or nothing when it is absent or unreadable.
    """
    try:
        document: object = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return cast("Document", document) if isinstance(document, dict) else {}


class HubClient:
    """
    The hub API for commands: plain dictionaries in and out, errors as `CommandError`.

    Args:
        connection: Which hub and key.
        output: Where the command's result goes.
        transport: Replaces the network in tests.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        output: Output,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.connection = connection
        self.output = output
        self._ids = IdentifierSource(SystemClock())
        self._http = httpx.Client(
            base_url=f"{connection.url}/hub/v1/",
            headers={"authorization": f"Bearer {connection.key}"} if connection.key else {},
            timeout=TIMEOUT_S,
            transport=transport,
            follow_redirects=False,
        )

    def close(self) -> None:
        """
        Close the connections.
        """
        self._http.close()

    def get(self, path: str, **query: object) -> Document:
        """
        Read one thing; query values that are ``None`` are left out.
        """
        return _decode(self._send("GET", path, params=_without_none(query)))

    def pages(self, path: str, *, rows_max: int = ROWS_DEFAULT, **query: object) -> list[Document]:
        """
        Read a list across its pages, at most ``rows_max`` rows.
        """
        rows: list[Document] = []
        cursor: str | None = None
        while len(rows) < rows_max:
            limit = min(PAGE_ROWS, rows_max - len(rows))
            page = self.get(path, cursor=cursor, limit=limit, **query)
            rows.extend(page["items"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return rows
        self.output.note(f"Only the first {rows_max} are shown.")
        return rows

    def published_keys(self) -> Document:
        """
        Read the public keys of receipts; anyone may.
        """
        try:
            response = self._http.get(f"{self.connection.url}/.well-known/jwks.json")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return _decode(response)

    def lines(self, path: str, **query: object) -> Iterator[str]:
        """
        Read a long answer line by line.
        """
        self._require_key()
        try:
            with self._http.stream("GET", path, params=_without_none(query)) as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                yield from response.iter_lines()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Document:
        """
        Make or do something; fields that are ``None`` are left out.
        """
        return self._write("POST", path, body)

    def put(self, path: str, body: Mapping[str, object]) -> Document:
        """
        Set something whole, exactly as it is given.
        """
        return self._write("PUT", path, body)

    def patch(self, path: str, body: Mapping[str, object]) -> Document:
        """
        Change something; fields that are ``None`` are left out.
        """
        return self._write("PATCH", path, body)

    def delete(self, path: str) -> Document:
        """
        Take something away.
        """
        return self._write("DELETE", path, None)

    def _write(self, method: str, path: str, body: Mapping[str, object] | None) -> Document:
        # One key for all tries of this command: a repeat after a lost answer is no new write.
        headers = {"idempotency-key": f"cli-{self._ids.mint()}"}
        content = None if body is None else _without_none(body)
        try:
            response = self._send(method, path, json=content, headers=headers)
        except CommandError as error:
            if not isinstance(error.__cause__, httpx.ReadError | httpx.RemoteProtocolError):
                raise
            response = self._send(method, path, json=content, headers=headers)
        return _decode(response)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        self._require_key()
        try:
            response = self._http.request(method, path, params=params, json=json, headers=headers)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _require_key(self) -> None:
        if self.connection.key is None:
            message = f"No API key for {self.connection.url}."
            hint = (
                f"Set {KEY_VARIABLE}, pass --key, or make the first admin key with:"
                " tokenworks key add --admin --data DIR"
            )
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)

    def _unreachable(self, error: httpx.HTTPError) -> CommandError:
        where = f"{self.connection.url} (from {self.connection.url_source})"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            message = f"No hub answers at {where}."
            hint = "Start one with: tokenworks up    or say where it is: --url or " + URL_VARIABLE
        else:
            message = f"The hub at {where} did not answer: {type(error).__name__}."
            hint = "Try again; writes are safe to repeat."
        return CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)

    def _refusal(self, response: httpx.Response) -> CommandError:
        problem = _problem_of(response)
        status = response.status_code
        message = str(problem.get("detail") or f"The hub answered with status {status}.")
        hint = None
        if status == 401:
            hint = f"Used: {self.connection.key_text}, at {self.connection.url}."
        elif status == 403:
            hint = f"Used: {self.connection.key_text}. This may need an admin key."
        elif status == 404 and "code" not in problem:
            hint = f"Is {self.connection.url} a Tokenworks hub?"
        elif retry_after := response.headers.get("retry-after"):
            hint = f"Try again in {retry_after} s."
        is_hub_at_fault = response.is_server_error and status != 502
        return CommandError(
            message,
            exit_code=EXIT_COULD_NOT_RUN if is_hub_at_fault else EXIT_REFUSED,
            hint=hint,
            problem=problem,
        )


@contextmanager
def hub_session(
    *, url: str | None, key: str | None, data: Path | None, as_json: bool
) -> Generator[HubClient]:
    """
    Give a command its hub, and turn what goes wrong into a message and an exit code.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        connection = find_connection(url=url, key=key, data=data, environment=os.environ)
        hub = HubClient(connection, output=output)
        try:
            yield hub
        finally:
            hub.close()


@contextmanager
def reporting(output: Output) -> Generator[None]:
    """
    Turn a command's errors into a message on standard error and an exit code.
    """
    try:
        yield
    except CommandError as error:
        output.error(error.message, hint=error.hint, document=error.problem)
        raise typer.Exit(error.exit_code) from error
    except TokenworksError as error:
        document = {"detail": error.message, "code": error.code, "kind": str(error.kind)}
        output.error(error.message, document=document)
        raise typer.Exit(EXIT_COULD_NOT_RUN) from error


def _first(*candidates: tuple[object, str]) -> tuple[str | None, str]:
    for value, source in candidates:
        if value:
            return str(value), source
    return None, "nowhere"


def _root_of(url: str) -> str:
    """
    Return a hub's address without the door that was named with it.
    """
    root = url.rstrip("/")
    for door in ("/hub/v1", "/v1"):
        root = root.removesuffix(door)
    return root


def _without_none(fields: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _decode(response: httpx.Response) -> Document:
    try:
        document = response.json()
    except ValueError as error:
        message = f"{response.url.host} did not answer with JSON; is it a Tokenworks hub?"
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    return cast("Document", document)


def _problem_of(response: httpx.Response) -> Document:
    try:
        document = response.json()
    except ValueError:
        return {}
    return cast("Document", document) if isinstance(document, dict) else {}
