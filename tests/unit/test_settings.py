"""
Settings: every source, every mistake, no secret.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenworks.cli.main import app
from tokenworks.settings import (
    RULES,
    HubNotRunningError,
    Settings,
    SettingsError,
    environment_name,
    load_settings,
    read_runtime,
)

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def _load(
    directory: Path, *, flags: dict[str, object] | None = None, **environment: str
) -> Settings:
    variables = {environment_name(name): value for name, value in environment.items()}
    return load_settings(flags, environment=variables, working_directory=directory)


def test_defaults_are_the_published_ones(tmp_path: Path) -> None:
    """
    Without any source the defaults hold, and say so.
    """
    settings = _load(tmp_path)
    assert settings == Settings()
    assert settings.hub_url == "http://127.0.0.1:8700"
    assert settings.console_url == "http://127.0.0.1:8701"
    assert {settings.source(name) for name in RULES} == {"default"}


def test_nearest_source_wins(tmp_path: Path) -> None:
    """
    Flag, environment, file in the data directory, file in the working directory.
    """
    (tmp_path / "tokenworks.toml").write_text(
        'data_dir = "books"\nport = 1\nworkers = 2\nconsole_port = 3\ncurrency = "CNY"\n'
    )
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "tokenworks.toml").write_text(
        "port = 11\nworkers = 12\nconsole_port = 13\n"
    )
    settings = _load(tmp_path, flags={"port": 31, "host": None}, port="21", workers="22")
    assert (settings.port, settings.workers, settings.console_port) == (31, 22, 13)
    assert settings.currency == "CNY"
    assert settings.source("port") == "flag --port"
    assert settings.source("workers") == "environment TOKENWORKS_WORKERS"
    assert settings.source("console_port") == f"file {tmp_path / 'books' / 'tokenworks.toml'}"
    assert settings.source("currency") == f"file {tmp_path / 'tokenworks.toml'}"
    assert settings.source("host") == "default"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TOKENWORKS_PROT": "1"}, ["TOKENWORKS_PROT", "TOKENWORKS_PORT"]),
        ({"TOKENWORKS_XYZZY": "1"}, ["TOKENWORKS_XYZZY", "Known:"]),
        ({"TOKENWORKS_PORT": "http"}, ["port", "not a whole number"]),
        ({"TOKENWORKS_PORT": "70000"}, ["between 0 and 65535"]),
        ({"TOKENWORKS_PORT": "tcp://10.0.0.1:8700"}, ["enableServiceLinks"]),
        ({"TOKENWORKS_WORKERS": "0"}, ["between 1 and 64"]),
        ({"TOKENWORKS_CURRENCY": "EUR"}, ["USD, CNY"]),
        ({"TOKENWORKS_LOG_LEVEL": "loud"}, ["debug"]),
        ({"TOKENWORKS_TRUSTED_PROXIES": "10.0.0.0/8, proxy"}, ["proxy"]),
        ({"TOKENWORKS_URL": "localhost:8700"}, ["http://"]),
    ],
)
def test_wrong_setting_is_refused(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    """
    Never a silent default: the message names the setting and what would do.
    """
    with pytest.raises(SettingsError) as caught:
        load_settings(environment=environment, working_directory=tmp_path)
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prot = 1\n", "port"),
        ("port = true\n", "not a whole number"),
        ("port = \n", "Cannot read"),
        ("trusted_proxies = 7\n", "list of addresses"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    """
    A file is checked like the environment, and named in the message.
    """
    (tmp_path / "tokenworks.toml").write_text(content)
    with pytest.raises(SettingsError, match=words) as caught:
        _load(tmp_path)
    assert "tokenworks.toml" in caught.value.message


def test_data_directory_cannot_move_itself(tmp_path: Path) -> None:
    """
    The file inside the data directory may not name another one.
    """
    (tmp_path / ".tokenworks").mkdir()
    (tmp_path / ".tokenworks" / "tokenworks.toml").write_text('data_dir = "elsewhere"\n')
    with pytest.raises(SettingsError, match="inside the data directory"):
        _load(tmp_path)


def test_names_that_kubernetes_sets_are_ignored(tmp_path: Path) -> None:
    """
    A service called "tokenworks" adds variables nobody asked for.
    """
    variables = {
        "TOKENWORKS_SERVICE_HOST": "10.0.0.1",
        "TOKENWORKS_SERVICE_PORT_HTTP": "8700",
        "TOKENWORKS_PORT_8700_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings(environment=variables, working_directory=tmp_path) == Settings()


def test_secrets_are_masked(tmp_path: Path) -> None:
    """
    Keys and passwords are never shown, wherever they stand.
    """
    settings = _load(
        tmp_path,
        master_key="hush-1",
        key="hush-2",
        database_url="postgresql://u:hush-3@h/db",
        posting_database_url="host=h password='hush-4' dbname=db",
    )
    shown = json.dumps([settings.shown(name) for name in RULES])
    assert "hush" not in shown
    assert "@h/db" in shown
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, master_key="   ", key=" ", port="x")
    assert "hush" not in caught.value.message


def test_single_role_database_is_a_warning(tmp_path: Path) -> None:
    """
    One role for everything works, and is worth a second thought.
    """
    single = _load(tmp_path, database_url="postgresql://owner@h/db")
    assert "single role" in single.warnings()[0]
    both = _load(
        tmp_path,
        database_url="postgresql://owner@h/db",
        posting_database_url="postgresql://tokenworks_posting@h/db",
    )
    assert both.warnings() == ()
    dropping = _load(
        tmp_path,
        database_url="postgresql://owner@h/db",
        posting_database_url="postgresql://tokenworks_posting@h/db",
        archive_dir="archive",
    )
    assert "RETENTION_DATABASE_URL" in dropping.warnings()[0]
    assert _load(tmp_path).warnings() == ()
    assert "TLS" in _load(tmp_path, host="0.0.0.0").warnings()[0]


def test_every_setting_has_a_rule_and_is_documented() -> None:
    """
    A field without a rule could not be set; one without a line could not be found.
    """
    names = [item.name for item in dataclasses.fields(Settings) if item.name != "sources"]
    assert names == list(RULES)
    text = OPERATIONS.read_text(encoding="utf-8")
    assert [name for name in names if f"`{environment_name(name)}`" not in text] == []


def test_config_show_prints_value_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The command shows what the hub would run with, for people and for programs.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENWORKS_PORT", "9000")
    result = CliRunner().invoke(app, ["config", "show", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)["settings"]}
    assert rows["port"]["value"] == 9000
    assert rows["port"]["source"] == "environment TOKENWORKS_PORT"
    plain = CliRunner().invoke(app, ["config", "show"])
    assert "9000" in plain.stdout


def test_command_reports_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A sentence on standard error and exit code 2; no traceback.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENWORKS_PROT", "9000")
    result = CliRunner().invoke(app, ["config", "show"])
    assert result.exit_code == 2
    assert "Did you mean TOKENWORKS_PORT" in result.stderr


def test_runtime_of_a_hub_that_does_not_run(tmp_path: Path) -> None:
    """
    The message says how to start one.
    """
    with pytest.raises(HubNotRunningError, match="tokenworks up"):
        read_runtime(tmp_path)
