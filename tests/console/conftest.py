"""
A fake hub, a real console process in front of it, a real Chromium before both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import expect

from tests.acceptance.hub_process import HubProcess, data_directory
from tests.console.fake_hub import FakeHub
from tests.console.fake_hub_door import Server, free_port, wait_for_port
from tests.console.slow_wire import PROCESSOR_SLOWDOWN, SEED, SLOW_MS, SlowWire

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

T = TypeVar("T")

INK_OF_CANVAS = """
(canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let index = 3; index < pixels.length; index += 4) if (pixels[index] > 20) inked += 1;
  return inked / (pixels.length / 4);
}
"""
IS_STILL = """
async (canvas) => {
  const before = canvas.toDataURL();
  await new Promise((done) => setTimeout(done, 150));
  return canvas.toDataURL() === before;
}
"""

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
TEST_S_MAX_SLOWED = 600
CONSOLE_STOPS_S_MAX = 60
PATIENCE_MS = 15_000 + 100 * SLOW_MS
expect.set_options(timeout=PATIENCE_MS)


def pytest_report_header() -> str | None:
    """
    Say that the tests are slowed down, and by which chance.
    """
    return f"console: late by up to {SLOW_MS} ms, seed {SEED}" if SLOW_MS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Give slowed tests the time they need.
    """
    for item in items if SLOW_MS else ():
        item.add_marker(pytest.mark.timeout(TEST_S_MAX_SLOWED), append=False)


@dataclass
class Console:
    """
    A console process of the tests' own.
    """

    hub_url: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    wire: SlowWire | None = None

    @property
    def url(self) -> str:
        """
        Return where it is reached.
        """
        return f"http://127.0.0.1:{self.wire.port if self.wire else self.port}"

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
        process = self.process
        try:
            wait_for_port(self.port, is_hopeless=lambda: process.poll() is not None)
        except BaseException:
            self.stop()
            raise
        if SLOW_MS and self.wire is None:
            self.wire = SlowWire(self.port)

    def stop(self) -> None:
        """
        Ask it to end, as a supervisor does.
        """
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=CONSOLE_STOPS_S_MAX)
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


def read(look: Callable[[], T], *, until: Callable[[T], object]) -> T:
    """
    Look until what is seen is what a page comes to by itself; returns it.

    The only way a test reads a page (``find_hasty_reads`` of tools/tidy.py): what stands there at
    once after a click, a reload or a word of the hub depends on how fast the machine is.

    Args:
        look: Reads the page; what it reads of a page that is just leaving does not count.
        until: Tells whether that is it.
    """
    deadline_s = time.monotonic() + PATIENCE_MS / 1000
    seen: object = "nothing yet"
    while True:
        try:
            found = look()
        except BrowserError as error:
            seen = error
        else:
            if until(found):
                return found
            seen = found
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited in vain; at last there was {seen!r}")
        time.sleep(0.05)


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
        self.follow("button.primary")

    def see_live_page(self, key: str) -> None:
        """
        Log in and wait until the live page shows figures.
        """
        self.log_in(key)
        self.page.wait_for_selector(".figure-value")

    def follow(self, what: str | Locator) -> None:
        """
        Press what leads to another page, a form's button or a link; wait until that is whole.
        """
        with self.page.expect_navigation():
            self._find(what).click()

    def says(self, what: str | Locator, *parts: str) -> str:
        """
        Wait until all parts stand in the text of something; returns the text.
        """
        place = self._find(what)
        try:
            return read(place.inner_text, until=lambda text: all(part in text for part in parts))
        except pytest.fail.Exception:
            text = "\n".join(place.all_inner_texts())
            pytest.fail(f"{[part for part in parts if part not in text]} not in {text!r}")

    def numbers(
        self, selector: str, *, until: Callable[[list[Decimal]], object] = bool
    ) -> list[Decimal]:
        """
        Return the numbers of all cells a selector finds, when there are any.
        """
        cells = self.page.locator(selector)
        return read(
            lambda: [number_of(text) for text in cells.all_inner_texts()],
            until=lambda found: found and until(found),
        )

    def mark(self) -> None:
        """
        Mark this page; whoever loads another one loses the mark.
        """
        self.page.evaluate("window.isTheSame = true")

    @property
    def is_marked(self) -> bool:
        """
        Whether this is still the page that was marked.
        """
        return self.page.evaluate("window.isTheSame") is True

    def do(self, script: str) -> None:
        """
        Do something in the page that no hand can; it returns nothing.
        """
        self.page.evaluate(f"() => {{ {script} }}")

    def stored(self) -> str:
        """
        Return what the page keeps in the browser, cookies left out.
        """
        return str(self.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])"))

    def needs_width(self, width: int) -> None:
        """
        Wait until the page, its fonts loaded, is no wider than the window.
        """
        self.page.evaluate("async () => { await document.fonts.ready; }")
        wide = "document.documentElement.scrollWidth"
        read(lambda: self.page.evaluate(wide), until=lambda found: found == width)

    def ground(self, *, until: Callable[[float], bool]) -> None:
        """
        Wait until the page's background is as light as it should be, from 0 to 255.
        """
        read(lambda: lightness(self.page), until=until)

    def rest(self, selector: str, *, ink: float) -> None:
        """
        Wait until a chart is drawn and its picture has come to rest.

        Args:
            selector: Of its canvas.
            ink: How much of the canvas is not empty, as a share.
        """
        canvas = self.page.locator(selector)
        read(lambda: float(canvas.evaluate(INK_OF_CANVAS)), until=lambda share: share > ink)
        read(lambda: canvas.evaluate(IS_STILL), until=bool)

    def keep(self, name: str, *, full_page: bool = True) -> Path:
        """
        Keep a screenshot.
        """
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page)
        return path

    def _find(self, what: str | Locator) -> Locator:
        return self.page.locator(what) if isinstance(what, str) else what

    def _note_message(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in {"error", "warning"}:
            self.mistakes.append(text)


def number_of(text: str) -> Decimal:
    """
    Return the number in a cell's text; an empty cell is zero.
    """
    return Decimal(re.sub(r"[^0-9.\-]", "", text) or "0")


def lightness(page: Page) -> float:
    """
    Return how light a page's background is now, from 0 to 255.
    """
    colour = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    parts = [float(part) for part in re.findall(r"[\d.]+", colour)][:3]
    return sum(parts) / 3 * (255 if colour.startswith("color(") else 1)


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
        if SLOW_MS:
            rate = {"rate": PROCESSOR_SLOWDOWN}
            context.new_cdp_session(visitor.page).send("Emulation.setCPUThrottlingRate", rate)
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
