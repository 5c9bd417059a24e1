"""
What an operator may set, and where each value came from.

Order, first wins: a command's flag, the environment (``TOKENWORKS_PORT``), the file
``tokenworks.toml`` in the data directory, the one in the working directory, the
default. An unknown name is an error, never ignored: a limit that was misspelt must not
silently be the default.

``runtime.json`` in the data directory is the other half: what ``tokenworks up`` decided
(ports, connection strings) and its children, and commands on the same machine, read.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from tokenworks.foundation.errors import InvalidError, NotFoundError
from tokenworks.foundation.limits import (
    DRAIN_AFTER_DISCONNECT_S,
    GRANTED_OUTPUT_TOKENS_DEFAULT,
    HOLD_LIFETIME_S,
    PAYABLE_HOLD_DAYS_DEFAULT,
    REVIEW_LIFETIME_S,
)

ENVIRONMENT_PREFIX: Final = "TOKENWORKS_"
FILE_NAME: Final = "tokenworks.toml"
RUNTIME_FILE_NAME: Final = "runtime.json"
CURRENCIES: Final = ("USD", "CNY")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

PORT_MAX: Final = 65_535
WORKERS_MAX: Final = 64
ARCHIVE_AFTER_MONTHS_MAX: Final = 1_200
GRANTED_OUTPUT_TOKENS_MAX: Final = 1_000_000
HOLD_LIFETIME_S_MIN: Final = 10
HOLD_LIFETIME_S_MAX: Final = 86_400
DRAIN_AFTER_DISCONNECT_S_MAX: Final = 600
PAYABLE_HOLD_DAYS_MAX: Final = 3_650
REVIEW_LIFETIME_S_MIN: Final = 10
REVIEW_LIFETIME_S_MAX: Final = 7 * 86_400

_FLAGS: Final = {"data_dir": "--data", "backup_dir": "--folder"}
_MASK: Final = "********"
_DEFAULT_SOURCE: Final = "default"

# Kubernetes adds such names to every pod beside a service that is called "tokenworks".
_SERVICE_LINK: Final = re.compile(r"TOKENWORKS_(.+_)?(PORT_\d+_.+|SERVICE_(HOST|PORT.*))")
_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:)\S*(?=@)|(password=)('[^']*'|[^\s&]+)")


class SettingsError(InvalidError):
    """
    A setting has an unknown name or a value it cannot have.
    """

    code = "invalid_setting"


class HubNotRunningError(NotFoundError):
    """
    No hub has left its connection strings in this data directory.
    """

    code = "hub_not_running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    Every setting with its value; ``sources`` says where each came from.

    ``RULES`` explains each field and how its text is read.
    """

    data_dir: Path = Path(".tokenworks")
    database_url: str | None = None  # None: the hub runs its own PostgreSQL
    posting_database_url: str | None = None  # None: the same role as database_url
    retention_database_url: str | None = None  # None: the same role as database_url
    archive_dir: Path | None = None  # None: nothing is archived by itself
    archive_after_months: int = 13
    backup_dir: Path | None = None  # None: the hub's own PostgreSQL archives nothing
    host: str = "127.0.0.1"
    port: int = 8700
    console_port: int = 8701
    workers: int = 1
    currency: str = "USD"
    granted_output_tokens: int = GRANTED_OUTPUT_TOKENS_DEFAULT
    hold_lifetime_s: int = HOLD_LIFETIME_S
    drain_after_disconnect_s: int = int(DRAIN_AFTER_DISCONNECT_S)
    payable_hold_days: int = PAYABLE_HOLD_DAYS_DEFAULT
    review_lifetime_s: int = REVIEW_LIFETIME_S
    default_tier: str = "standard"
    trusted_proxies: tuple[str, ...] = ()
    master_key: str | None = None  # None: DATA/keys/master.key
    log_level: str = "info"
    url: str | None = None  # None: the hub on this machine
    key: str | None = None
    sources: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    @property
    def hub_url(self) -> str:
        """
        Return the hub that commands talk to, without a trailing slash.
        """
        return self.url or f"http://{reachable_host(self.host)}:{self.port}"

    @property
    def console_url(self) -> str:
        """
        Return the console's address as a browser on this machine opens it.
        """
        return f"http://{reachable_host(self.host)}:{self.console_port}"

    def source(self, name: str) -> str:
        """
        Return where the value of one setting came from, for people.
        """
        return self.sources.get(name, _DEFAULT_SOURCE)

    def shown(self, name: str) -> object:
        """
        Return a setting's value as it may be printed: JSON-able, secrets masked.
        """
        value: object = getattr(self, name)
        rule = RULES[name]
        if value is None:
            return None
        if rule.is_secret:
            return _MASK
        if rule.may_hold_password:
            return _PASSWORD.sub(lambda match: (match[1] or match[2]) + _MASK, str(value))
        if isinstance(value, tuple):
            return ", ".join(cast("tuple[str, ...]", value))
        return str(value) if isinstance(value, Path) else value

    def warnings(self) -> tuple[str, ...]:
        """
        Return what is allowed but worth a second thought, as sentences.
        """
        found: list[str] = []
        if self.database_url is not None and self.posting_database_url is None:
            found.append(
                "The external database is used with a single role, so the running hub could "
                "rewrite history: set TOKENWORKS_POSTING_DATABASE_URL to the same database as "
                "the role tokenworks_posting."
            )
        if self.database_url and self.archive_dir and not self.retention_database_url:
            found.append(
                "Old months would be dropped by the owner of the external database: set "
                "TOKENWORKS_RETENTION_DATABASE_URL to it as the role tokenworks_retention."
            )
        if self.database_url is None and self.posting_database_url is not None:
            found.append("posting_database_url is ignored without database_url.")
        if self.host in _WILDCARDS:
            found.append(
                "The hub accepts plain HTTP from every network: put a proxy with TLS before it."
            )
        return tuple(found)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not a text")
    return value.strip()


def _path(value: object) -> Path:
    return Path(value if isinstance(value, Path) else _text(value)).expanduser()


def _whole_number(smallest: int, largest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        is_digits = isinstance(value, str) and re.fullmatch(r"\d{1,10}", value.strip())
        if not is_digits and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError("is not a whole number")
        number = int(cast("str | int", value))
        if not smallest <= number <= largest:
            raise ValueError(f"is not between {smallest} and {largest}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return cast("str", value)

    return parse


def _networks(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list of addresses")  # noqa: TRY004 - a rule's one error
    parts = tuple(_text(part) for part in cast("list[object]", value))
    for part in parts:
        ipaddress.ip_network(part)  # its ValueError names the part
    return parts


def _http_url(value: object) -> str:
    text = _text(value).rstrip("/")
    if not text.startswith(("http://", "https://")):
        raise ValueError("does not begin with http:// or https://")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    What one setting means, and how its text becomes its value.

    ``parse`` raises a ``ValueError`` that continues "TOKENWORKS_PORT='x' ...".
    """

    help: str
    parse: Callable[[object], object]
    is_secret: bool = False
    may_hold_password: bool = False


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "data_dir": Rule(help="Where the books, keys, logs and demo.json live.", parse=_path),
        "database_url": Rule(
            help="A PostgreSQL (15 or later) of your own, as the owner of the schema; "
            "without it the hub runs its own.",
            parse=_text,
            may_hold_password=True,
        ),
        "posting_database_url": Rule(
            help="The same database as the role tokenworks_posting, which cannot rewrite history.",
            parse=_text,
            may_hold_password=True,
        ),
        "retention_database_url": Rule(
            help="The same database as the role tokenworks_retention, which archives and drops "
            "old months.",
            parse=_text,
            may_hold_password=True,
        ),
        "archive_dir": Rule(
            help="Where the worker archives old months to before it drops them; without it they "
            "stay in the database.",
            parse=_path,
        ),
        "archive_after_months": Rule(
            help="How many whole months before this one stay in the database.",
            parse=_whole_number(1, ARCHIVE_AFTER_MONTHS_MAX),
        ),
        "backup_dir": Rule(
            help="The backup folder; with it the hub's own PostgreSQL archives its log there.",
            parse=_path,
        ),
        "host": Rule(help="Address the gateway and the console bind.", parse=_text),
        "port": Rule(
            help="Port of the gateway; 0 takes a free one.", parse=_whole_number(0, PORT_MAX)
        ),
        "console_port": Rule(
            help="Port of the console; 0 takes a free one.", parse=_whole_number(0, PORT_MAX)
        ),
        "workers": Rule(
            help="Gateway processes that share the port.", parse=_whole_number(1, WORKERS_MAX)
        ),
        "currency": Rule(help="Currency of the price book.", parse=_one_of(*CURRENCIES)),
        "granted_output_tokens": Rule(
            help="Output reserved for a call that names no max_tokens.",
            parse=_whole_number(1, GRANTED_OUTPUT_TOKENS_MAX),
        ),
        "hold_lifetime_s": Rule(
            help="How long a call's money stays reserved without being settled.",
            parse=_whole_number(HOLD_LIFETIME_S_MIN, HOLD_LIFETIME_S_MAX),
        ),
        "drain_after_disconnect_s": Rule(
            help="How long a supplier's answer is still read after the client hung up.",
            parse=_whole_number(0, DRAIN_AFTER_DISCONNECT_S_MAX),
        ),
        "payable_hold_days": Rule(
            help="Days that a supplier's payable waits to be matched with its statement; then it "
            "may be paid out all the same.",
            parse=_whole_number(0, PAYABLE_HOLD_DAYS_MAX),
        ),
        "review_lifetime_s": Rule(
            help="How long a payment waits for a person; then it is not made.",
            parse=_whole_number(REVIEW_LIFETIME_S_MIN, REVIEW_LIFETIME_S_MAX),
        ),
        "default_tier": Rule(help="Tier of new parties without one.", parse=_text),
        "trusted_proxies": Rule(
            help="Addresses or networks whose X-Forwarded-For is believed (a comma between).",
            parse=_networks,
        ),
        "master_key": Rule(
            help="Encrypts supplier keys; without it DATA/keys/master.key is made.",
            parse=_text,
            is_secret=True,
        ),
        "log_level": Rule(help="How much the logs say.", parse=_one_of(*LOG_LEVELS)),
        "url": Rule(help="The hub that commands talk to.", parse=_http_url),
        "key": Rule(help="The API key that commands send.", parse=_text, is_secret=True),
    }
)
"""Every setting by name, in the order they are shown."""

_WILDCARDS: Final = MappingProxyType(
    {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - nothing is bound here
)


def environment_name(name: str) -> str:
    """
    Return the environment variable of a setting.
    """
    return ENVIRONMENT_PREFIX + name.upper()


def reachable_host(host: str) -> str:
    """
    Return how a URL on this machine names a bound address; a wildcard is loopback.
    """
    if host in _WILDCARDS:
        return _WILDCARDS[host]
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    value: object
    source: str


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
) -> Settings:
    """
    Read the settings from every source.

    Args:
        flags: What the command line gave, by setting name; a value of ``None`` is absent.
        environment: The process's own when ``None``.
        working_directory: The process's own when ``None``.

    Raises:
        SettingsError: An unknown name, or a value a setting cannot have.
    """
    directory = working_directory or Path.cwd()
    environment = os.environ if environment is None else environment
    outside = _from_file(directory / FILE_NAME)
    nearer = _from_environment(environment) | _from_flags(flags or {})
    data_dir = (outside | nearer).get("data_dir")
    folder = Settings().data_dir if data_dir is None else _parse("data_dir", data_dir)
    inner = directory / cast("Path", folder)
    inside = _from_file(inner / FILE_NAME)
    if "data_dir" in inside and inner.resolve() != directory.resolve():
        source = inside["data_dir"].source
        message = f"{source}: data_dir cannot be set inside the data directory."
        raise SettingsError(message, param="data_dir")
    chosen = outside | inside | nearer
    values: dict[str, Any] = {name: _parse(name, given) for name, given in chosen.items()}
    sources = MappingProxyType({name: given.source for name, given in chosen.items()})
    return replace(Settings(), **values, sources=sources)


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for name, value in flags.items():
        assert name in RULES, f"{name} is no setting"
        if value is not None:
            flag = _FLAGS.get(name) or "--" + name.replace("_", "-")
            found[name] = _Given(value=value, source=f"flag {flag}")
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Given]:
    names = {environment_name(name): name for name in RULES}
    found: dict[str, _Given] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _SERVICE_LINK.fullmatch(variable):
            continue
        if variable not in names:
            raise _unknown(variable, list(names), where="The environment variable")
        if value.strip():
            found[names[variable]] = _Given(value=value, source=f"environment {variable}")
    return found


def _from_file(path: Path) -> dict[str, _Given]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"Cannot read {path}: {error}"
        raise SettingsError(message) from error
    for name in content:
        if name not in RULES:
            raise _unknown(name, list(RULES), where=f"{path}: the setting")
    return {name: _Given(value=value, source=f"file {path}") for name, value in content.items()}


def _unknown(name: str, names: list[str], *, where: str) -> SettingsError:
    # Compared without what all of them have in common.
    by_word = {known.removeprefix(ENVIRONMENT_PREFIX): known for known in names}
    near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), by_word, n=3)
    advice = (
        f"Did you mean {' or '.join(by_word[word] for word in near)}?"
        if near
        else f"Known: {', '.join(names)}."
    )
    return SettingsError(f"{where} {name} is unknown. {advice}", param=name)


def _parse(name: str, given: _Given) -> object:
    rule = RULES[name]
    try:
        return rule.parse(given.value)
    except ValueError as error:
        shown = "the value" if rule.is_secret or rule.may_hold_password else repr(given.value)
        hint = ""
        if isinstance(given.value, str) and given.value.startswith("tcp://"):
            hint = " (Kubernetes set it: give the pod enableServiceLinks: false)"
        message = f"{name} ({given.source}): {shown} {error}{hint}."
        raise SettingsError(message, param=name) from error


class ChildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    A process of the hub, recognisable after its supervisor's death.
    """

    name: str
    pid: int
    started_at_s: float  # Unix time


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """
    What ``tokenworks up`` decided; written to DATA/runtime.json (mode 0600).
    """

    pid: int  # of the supervisor
    dsn_owner: str  # migrations, checks
    dsn_posting: str  # gateways, worker
    host: str
    port: int
    console_port: int | None  # None: started without a console
    workers: int
    supplier_url: str | None  # of the demo model; None: started without it
    children: tuple[ChildRecord, ...] = ()

    @property
    def hub_url(self) -> str:
        """
        Return the gateway's address on this machine.
        """
        return f"http://{reachable_host(self.host)}:{self.port}"


def read_runtime(data_dir: Path) -> Runtime:
    """
    Return what the hub of ``data_dir`` wrote when it started.

    Raises:
        HubNotRunningError: There is no such file, or it cannot be read.
    """
    path = data_dir / RUNTIME_FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Runtime)
    except (OSError, msgspec.DecodeError) as error:
        message = f"No hub has been started on {data_dir}: run 'tokenworks up --data {data_dir}'."
        raise HubNotRunningError(message) from error
