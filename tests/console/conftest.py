"""
A fake hub, a real console process in front of it, a real Chromium before both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.hub_process import HubProcess, data_directory
from tests.console.fake_hub import FakeHub
from tests.console.fake_hub_door import Server, free_port, wait_for_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE_MS = 15_000


@dataclass
class Console:
    """
    A console process of the tests' own.
    """

    hub_url: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """
        Return where it listens.
        """
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """
        Return what it has logged.
        """
        return (self.folder / "console.log").read_text()

    def start(self) -> None:
        """
        Run ``tokenworks console`` until it listens.
        """
        command = [str(Path(sys.executable).with_name("tokenworks")), "console"]
        command += ["--url", self.hub_url, "--port", str(self.port), "--data", str(self.folder)]
        clean = {name: text for name, text in os.environ.items() if "TOKENWORKS_" not in name}
        clean.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI would take it for its own tests
        with (self.folder / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=clean, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for_port(self.port)

    def stop(self) -> None:
        """
        Ask it to end, as a supervisor does.
        """
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=15)
            self.process = None


@pytest.fixture(scope="session")
def hub_server() -> Iterator[tuple[FakeHub, Server]]:
    """
    The fake hub, listening.
    """
    hub = FakeHub()
    server = Server(hub)
    server.start()
    yield hub, server
    server.stop()


@pytest.fixture
def server(hub_server: tuple[FakeHub, Server]) -> Server:
    """
    The fake hub's door.
    """
    return hub_server[1]


@pytest.fixture
def hub(hub_server: tuple[FakeHub, Server]) -> FakeHub:
    """
    The fake hub, as good as new.
    """
    hub_server[0].reset()
    return hub_server[0]


@pytest.fixture(scope="session")
def shared_console(
    hub_server: tuple[FakeHub, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """
    One console process for all tests that do not hurt it.
    """
    console = Console(hub_url=hub_server[1].url, folder=tmp_path_factory.mktemp("console"))
    console.start()
    yield console
    console.stop()


@pytest.fixture
def console(shared_console: Console, hub: FakeHub) -> Console:
    """
    The shared console, before a hub as good as new.
    """
    return shared_console


@pytest.fixture
def own_console(server: Server, hub: FakeHub, tmp_path: Path) -> Iterator[Console]:
    """
    A console that a test may stop, start and guess keys at.
    """
    console = Console(hub_url=server.url, folder=tmp_path)
    console.start()
    yield console
    console.stop()


def find_chromium() -> str | None:
    """
    Return a Chromium of this machine.
    """
    for name in (os.environ.get("TEST_CHROMIUM", ""), *BROWSERS):
        if name and (path := shutil.which(name)):
            return path
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    A headless Chromium with a fresh profile.

    No longer than a module: Playwright keeps an event loop running in this thread, in which
    no asynchronous test could start.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        pytest.skip("NO BROWSER: install chromium (tools/find_chromium.sh --install)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS.split())
        yield browser
        browser.close()


@dataclass
class Visitor:
    """
    A person with a browser window; whatever goes wrong in it is kept.
    """

    context: BrowserContext
    page: Page
    url: str
    mistakes: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self) -> None:
        """
        Keep what pages ask for and complain about.
        """
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))

    def log_in(self, key: str, path: str = "/") -> None:
        """
        Open a page and log in on the way.
        """
        self.page.goto(self.url + path)
        self.page.fill("#key", key)
        self.page.click("button.primary")

    def see_live_page(self, key: str) -> None:
        """
        Log in and wait until the live page shows figures.
        """
        self.log_in(key)
        self.page.wait_for_selector(".figure-value")

    def keep(self, name: str, *, full_page: bool = True) -> Path:
        """
        Keep a screenshot.
        """
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page)
        return path

    def _note_message(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in {"error", "warning"}:
            self.mistakes.append(text)


class Visitors:
    """
    Open windows; at the end none may have complained or asked another host.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.opened: list[Visitor] = []

    def open(
        self,
        console: Console,
        *,
        scheme: str = "light",
        width: int = 1280,
        height: int = 900,
        has_script: bool = True,
    ) -> Visitor:
        """
        Open a window of a size, on a system that is light or dark.
        """
        context = self._browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": height},
            java_script_enabled=has_script,
        )
        visitor = Visitor(context=context, page=context.new_page(), url=console.url)
        visitor.watch()
        self.opened.append(visitor)
        return visitor


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    """
    Browser windows that keep an eye on themselves.
    """
    visitors = Visitors(browser)
    yield visitors
    mistakes = [text for visitor in visitors.opened for text in visitor.mistakes]
    strangers = [
        host
        for visitor in visitors.opened
        for host in visitor.hosts
        if host and host != urlsplit(visitor.url).netloc
    ]
    for visitor in visitors.opened:
        visitor.context.close()
    assert mistakes == []
    assert strangers == []


@pytest.fixture(scope="module")
def running_hub() -> Iterator[HubProcess]:
    """
    A real hub as ``make run`` starts it, without its console.
    """
    with data_directory() as directory, HubProcess(directory, "--demo", "--no-console") as hub:
        hub.admin_key = str(read_demo(hub)["admin_key"])
        yield hub


@pytest.fixture(scope="module")
def demo(running_hub: HubProcess) -> Mapping[str, Any]:
    """
    What its ``demo.json`` says.
    """
    return read_demo(running_hub)


def read_demo(hub: HubProcess) -> Mapping[str, Any]:
    """
    Return what a demo hub tells whoever started it.
    """
    return json.loads((hub.data_dir / "demo.json").read_text(encoding="utf-8"))
