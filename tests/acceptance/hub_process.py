"""
A hub as its operator runs it: processes, a data directory, commands, signals.

Nothing here imports what it tests: the hub is reached by its doors only.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
import psutil

from tests.acceptance.command_forks import forks

# Patience for machines that do much else: nobody waits so long who need not.
READY_TIMEOUT_S: Final = 180.0
STOP_TIMEOUT_S: Final = 120.0
ENDS_TIMEOUT_S: Final = 30.0
COMMAND_TIMEOUT_S: Final = 120.0
ANSWER_TIMEOUT_S: Final = 90.0
WAIT_TIMEOUT_S: Final = 240.0
POLL_S: Final = 0.02

COMMAND: Final = (sys.executable, "-m", "tokenworks.cli.main")

Document = dict[str, Any]
T = TypeVar("T")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return this process's environment without any setting of a hub.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TOKENWORKS_")}
    return {**kept, **(extra or {})}


def run_command(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
    is_fork: bool = True,
) -> subprocess.CompletedProcess[str]:
    """
    Run ``tokenworks`` with these arguments to its end.

    Without ``is_fork`` Python starts anew and imports what the command needs, as for its users.
    """
    variables = clean_environment(environment)
    if is_fork and forks().can_run(variables):
        return forks().run(arguments, environment=variables, cwd=cwd, timeout_s=timeout_s)
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        check=False,
        cwd=cwd,
        env=variables,
        text=True,
        timeout=timeout_s,
    )


def wait_for(what: str, ask: Callable[[], T | None], *, timeout_s: float = WAIT_TIMEOUT_S) -> T:
    """
    Return the first answer of ``ask`` that is true; fail when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = ask()
        if found:
            return found
        if time.monotonic() > deadline:
            message = f"waited {timeout_s:g} s in vain: {what}"
            raise AssertionError(message)
        time.sleep(POLL_S)


def still_running(tree: Collection[psutil.Process]) -> list[psutil.Process]:
    """
    Return those that have not ended; one that nobody has asked for its exit code yet has.
    """
    found: list[psutil.Process] = []
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _wait_for_ends(tree: Collection[psutil.Process]) -> list[psutil.Process]:
    # Children of children end a moment after who started them: by a pipe that is closed.
    deadline = time.monotonic() + ENDS_TIMEOUT_S
    while (left := still_running(tree)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


class HubProcess:
    """
    A running ``tokenworks up`` with its data directory.

    Args:
        data_dir: Where it keeps its books.
        arguments: More of ``tokenworks up``.
        environment: Settings for it.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.arguments = arguments
        self.environment = dict(environment or {})
        self.admin_key = ""
        self.facts: Document = {}
        self.events: list[Document] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.left_behind: list[psutil.Process] = []  # what the last stop had to end
        self.archive: Path | None = None  # where months of its books are, once it has archived any
        self.http = httpx.Client(timeout=ANSWER_TIMEOUT_S)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.stop()

    # ------------------------------------------------------------------ life

    def start(self, *, port: int = 0) -> None:
        """
        Start it and wait until it says that it is ready.
        """
        command = [*COMMAND, "up", "--data", str(self.data_dir), "--port", str(port)]
        self.process = subprocess.Popen(
            [*command, "--console-port", "0", "--json", *self.arguments],
            env=clean_environment(self.environment),
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
        )
        self.events = []
        self.facts = self._wait_until_ready(self.process)

    def stop(self, which: signal.Signals = signal.SIGINT) -> int:
        """
        Ask it to end, wait for it, and return its exit code.
        """
        process = self.process
        if process is None:
            return 0
        self.process = None
        tree = [identity for identity in self.tree_of(process.pid) if identity.pid != process.pid]
        if process.poll() is None:
            process.send_signal(which)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
            self.left_behind = _wait_for_ends(tree)
            for left in self.left_behind:
                left.kill()
        return process.returncode

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> Document:
        assert process.stdout is not None, "it is a pipe"
        deadline = time.monotonic() + READY_TIMEOUT_S
        text = b""
        while time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 0.2)[0]:
                read = os.read(process.stdout.fileno(), 65_536)
                text += read
                *lines, text = text.split(b"\n")
                for line in lines:
                    event = json.loads(line) if line.startswith(b"{") else {"text": line.decode()}
                    self.events.append(event)
                    if event.get("event") == "ready":
                        return event
                if not read:
                    break
        message = f"the hub did not become ready: {self.events} {text.decode()}"
        raise AssertionError(message)

    # ------------------------------------------------------------------ processes

    @property
    def is_running(self) -> bool:
        """
        Whether it was started and has not ended.
        """
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """
        The pid of the supervisor.
        """
        assert self.process is not None, "it runs"
        return self.process.pid

    def tree_of(self, pid: int) -> list[psutil.Process]:
        """
        Return a process and all below it.
        """
        try:
            parent = psutil.Process(pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def children(self) -> dict[str, int]:
        """
        Return the pids of the hub's services by name, from its runtime record.
        """
        record = json.loads((self.data_dir / "runtime.json").read_text(encoding="utf-8"))
        return {child["name"]: child["pid"] for child in record["children"]}

    # ------------------------------------------------------------------ doors

    @property
    def base_url(self) -> str:
        """
        Where the official client points to.
        """
        return str(self.facts["base_url"])

    @property
    def url(self) -> str:
        """
        The hub's address without a door.
        """
        return self.base_url.removesuffix("/v1")

    def run(
        self, *arguments: str, key: str | None = None, is_fork: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command against this hub, as its admin unless told otherwise.
        """
        environment = {"TOKENWORKS_URL": self.url, "TOKENWORKS_KEY": key or self.admin_key}
        return run_command(*arguments, environment=environment, is_fork=is_fork)

    def tell(self, *arguments: str, is_fork: bool = True) -> Document:
        """
        Run a command that must succeed; return what its ``--json`` prints.
        """
        done = self.run(*arguments, "--json", is_fork=is_fork)
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    def get(self, path: str, *, key: str | None = None, **query: object) -> Document:
        """
        Read from the hub API; the answer must be 200.
        """
        answer = self.ask("GET", path, key=key, params=query)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        **options: Any,  # noqa: ANN401 - what httpx takes
    ) -> httpx.Response:
        """
        Send a request to the hub API and return whatever comes.
        """
        headers = {"authorization": f"Bearer {key or self.admin_key}", **options.pop("headers", {})}
        return self.http.request(method, f"{self.url}/hub/v1/{path}", headers=headers, **options)

    def chat(self, key: str, body: Mapping[str, object] | bytes) -> httpx.Response:
        """
        Send a raw chat request.
        """
        return self.http.post(f"{self.base_url}/chat/completions", **raw_call(key, body))

    def stream(
        self, key: str, body: Mapping[str, object]
    ) -> AbstractContextManager[httpx.Response]:
        """
        Send a raw chat request and read its answer as it comes.
        """
        return self.http.stream("POST", f"{self.base_url}/chat/completions", **raw_call(key, body))

    def all_calls(self, **query: str) -> list[Document]:
        """
        Return every call in the books, page by page.
        """
        rows: list[Document] = []
        cursor: str | None = None
        while True:
            if cursor is not None:
                query["cursor"] = cursor
            page = self.get("calls", key=None, limit=500, **query)
            rows += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return rows

    def kept_of(self, party: str, answered: Collection[str]) -> dict[str, Decimal]:
        """
        Return what of each charge of a party's calls was not given back, by call id.

        An answer that could not be booked in time is refused, and a charge for it that is in the
        books all the same is refunded behind the refusal: wait for what depends on it. Only calls
        that were not answered are looked at; that no other was refunded is for the balance to show.
        """
        kept: dict[str, Decimal] = {}
        for call in self.all_calls(party=party):
            call_id, back = call["call_id"], Decimal(0)
            if call_id not in answered:
                back = Decimal(self.get(f"calls/{call_id}")["refunded"] or 0)
            kept[call_id] = Decimal(call["charge"]) - back
        return kept

    def posted_of(self, party: str) -> Decimal:
        """
        Return what a party has.
        """
        return Decimal(self.get("balance", party=party)["cash"][0]["posted"])

    def check_books(self) -> Document:
        """
        Run the check of the books; it must find them clean.
        """
        arguments = ("ledger", "check", "--full", "--json", "--data", str(self.data_dir))
        if self.archive is not None:
            arguments += ("--archive", str(self.archive))
        done = run_command(*arguments, environment=self.environment)
        assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    # ------------------------------------------------------------------ business

    def add_admin(self, *, is_fork: bool = True) -> None:
        """
        Make the first admin key as an operator does, in the database itself.
        """
        arguments = ("key", "add", "--admin", "--data", str(self.data_dir), "--json")
        done = run_command(*arguments, environment=self.environment, is_fork=is_fork)
        assert done.returncode == 0, done.stderr
        self.admin_key = json.loads(done.stdout)["secret"]

    def post(self, path: str, **body: object) -> Document:
        """
        Make something by the hub API; it must succeed.
        """
        headers = {"idempotency-key": str(uuid.uuid4())}
        answer = self.ask("POST", path, json=body, headers=headers)
        assert answer.is_success, f"POST {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def sell(self, supplier: str, model: str, **offer: object) -> str:
        """
        Offer a model and price it at 1 USD per million in and 2 out; return the offer's id.
        """
        terms: Document = {"tier": "standard", "supplier_share_ppm": 600_000, **offer}
        made = self.post("offers", supplier=supplier, model=model, **terms)
        prices = {"input": "1", "output": "2"}
        self.post("prices", model=model, tier=terms["tier"], prices=prices)
        return str(made["offer_id"])

    def add_buyer(self, name: str, amount: str | None = "10", parent: str | None = None) -> str:
        """
        Open a buyer with money and a key; return the key.
        """
        above = {} if parent is None else {"parent": parent}
        self.post("parties", name=name, kind="buyer", **above)
        if amount is not None:
            self.post("deposits", party=name, amount=amount)
        return str(self.post("keys", party=name)["secret"])

    def set_limit(self, party: str, amount: str, *, per: str, unit: str = "USD") -> None:
        """
        Limit what a party may spend.
        """
        self.post("limits", party=party, amount=amount, per=per, unit=unit)


def raw_call(key: str, body: Mapping[str, object] | bytes) -> Document:
    """
    Return the content and headers of a chat request.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return {"content": content, "headers": headers}


@contextmanager
def data_directory() -> Generator[Path]:
    """
    Give a data directory of its own, outside pytest's folders: PostgreSQL must pass through.
    """
    directory = Path(tempfile.mkdtemp(prefix="tw-acceptance-"))
    try:
        yield directory / "hub"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
