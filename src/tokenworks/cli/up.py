"""
``tokenworks up``: a whole hub on one machine, from nothing to the first call.

Order: lock, ports, PostgreSQL (and the demo model beside it), migrations, then gateways,
worker and console, then the demo's books. Ready means ``GET /healthz`` is 200. Ctrl-C or
SIGTERM stops in the reverse order; a second one does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from tokenworks.adapters.llama_cpp.weights import find_weights
from tokenworks.adapters.operating_system.private_file import write_private
from tokenworks.cli.data_directory import (
    DataDirectoryLock,
    end_leftovers,
    remove_runtime,
    wal_archive,
    write_runtime,
)
from tokenworks.cli.progress import Progress, choose_style
from tokenworks.cli.services import (
    MODEL_HOST,
    PostgresService,
    choose_model_port,
    choose_port,
    console_service,
    gateway_service,
    model_service,
    worker_service,
)
from tokenworks.cli.supervisor import Supervisor
from tokenworks.foundation.clock import SystemClock
from tokenworks.settings import ChildRecord, Runtime, Settings, load_settings

DEMO_FILE_NAME: Final = "demo.json"
DEMO_FIELDS: Final = (
    "base_url",
    "console_url",
    "admin_key",
    "buyer_key",
    "model",
    "receipt_public_key",
)

app = typer.Typer(help="Run a whole hub on this machine.")


@app.command()
def up(
    data: Annotated[
        Path | None, typer.Option("--data", help="The data directory (.tokenworks).")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the gateway (8700).")] = None,
    console_port: Annotated[int | None, typer.Option(help="Port of the console (8701).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind (127.0.0.1).")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway processes (1).")] = None,
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve a small real model and open a demo business.")
    ] = False,
    no_console: Annotated[
        bool, typer.Option("--no-console", help="Start without the console.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """
    Run a whole hub on this machine: database, gateway, worker, console.
    """
    settings = load_settings(
        {
            "data_dir": data,
            "port": port,
            "console_port": console_port,
            "host": host,
            "workers": workers,
        }
    )
    progress = Progress(choose_style(as_json=as_json), SystemClock())
    options = UpOptions(with_demo=demo, with_console=not no_console)
    asyncio.run(Hub(settings, options, progress).run())


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """
    What is started beside the hub itself.
    """

    with_demo: bool
    with_console: bool


class Hub:
    """
    A hub between its start and its stop.
    """

    def __init__(self, settings: Settings, options: UpOptions, progress: Progress) -> None:
        # Children change their working directory, so the path may not depend on it; and
        # the hub that commands talk to is not the one that starts here.
        data_dir = settings.data_dir.absolute()
        self._settings = replace(settings, data_dir=data_dir, url=None, key=None)
        self._options = options
        self._progress = progress
        self._clock = SystemClock()
        self._supervisor = Supervisor(self, self._clock)
        self._stop_asked = asyncio.Event()
        self._runtime: Runtime | None = None
        self._model_port: int | None = None

    async def run(self) -> None:
        """
        Start, serve until a signal comes, stop.
        """
        started_at_s = self._clock.monotonic_s()
        if self._options.with_demo:
            find_weights()
        for warning in self._settings.warnings():
            self._progress.notice(f"Warning: {warning}")
        lock = DataDirectoryLock.acquire(self._settings.data_dir)
        try:
            if lock.notice is not None:
                self._progress.notice(lock.notice)
            await asyncio.to_thread(end_leftovers, self._settings.data_dir)
            self._choose_ports()
            self._listen_for_signals()
            await self._serve(started_at_s)
        finally:
            lock.release()

    def notice(self, text: str) -> None:
        """
        Pass the supervisor's sentences on, where somebody can still read them.
        """
        with contextlib.suppress(OSError):  # a full disk, a pipe whose reader has left
            self._progress.notice(text)

    def children_changed(self, children: tuple[ChildRecord, ...]) -> None:
        """
        Keep the children's pids on record, for the next start after a crash.
        """
        if self._runtime is not None:
            self._write_runtime(msgspec.structs.replace(self._runtime, children=children))

    async def _serve(self, started_at_s: float) -> None:
        starting = asyncio.create_task(self._start())
        asked = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                demo = starting.result()
                seconds = self._clock.monotonic_s() - started_at_s
                self._progress.ready(self._facts(seconds), self._closing_words(demo, seconds))
                await self._supervisor.watch(self._stop_asked)
        finally:
            starting.cancel()
            asked.cancel()
            await asyncio.gather(starting, asked, return_exceptions=True)
            if self._stop_asked.is_set():
                self._progress.notice("Stopping: calls in flight are finished first.")
            await self._supervisor.stop()
            remove_runtime(self._settings.data_dir)
            if self._stop_asked.is_set():
                self._progress.notice("Stopped.")

    def _choose_ports(self) -> None:
        settings = self._settings
        port = choose_port(settings.host, settings.port, flag="--port")
        console_port = settings.console_port
        if self._options.with_console:
            console_port = choose_port(settings.host, console_port, flag="--console-port")
        self._settings = replace(settings, port=port, console_port=console_port)
        if self._options.with_demo:
            self._model_port = choose_model_port(is_any=settings.port == 0)

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(which, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            self._supervisor.hurry()
        self._stop_asked.set()

    async def _start(self) -> Mapping[str, object] | None:
        if self._model_port is not None:
            self._supervisor.spawn(model_service(self._settings, self._model_port))
        dsn_owner, dsn_posting = await self._open_database()
        with self._progress.step("migrations", "Books"):
            await self._migrate(dsn_owner)
        self._runtime = Runtime(
            pid=os.getpid(),
            dsn_owner=dsn_owner,
            dsn_posting=dsn_posting,
            host=self._settings.host,
            port=self._settings.port,
            console_port=self._settings.console_port if self._options.with_console else None,
            workers=self._settings.workers,
            supplier_url=self._supplier_url(),
        )
        self._write_runtime(self._runtime)
        for index in range(self._settings.workers):
            self._supervisor.spawn(gateway_service(self._settings, index))
        self._supervisor.spawn(worker_service(self._settings))
        if self._options.with_console:
            self._supervisor.spawn(console_service(self._settings))
        if self._model_port is not None:
            with self._progress.step("model", "Demo model (SmolLM2-135M, llama.cpp)"):
                await self._supervisor.wait_until_ready("model")
        demo = await self._open_demo(dsn_owner)
        with self._progress.step("gateway", f"Gateway on port {self._settings.port}"):
            for index in range(self._settings.workers):
                await self._supervisor.wait_until_ready(f"gateway-{index}")
            await self._supervisor.wait_until_ready("worker")
        if self._options.with_console:
            text = f"Console on port {self._settings.console_port}"
            with self._progress.step("console", text):
                await self._supervisor.wait_until_ready("console")
        return demo

    async def _open_database(self) -> tuple[str, str]:
        settings = self._settings
        if settings.database_url is not None:
            return settings.database_url, settings.posting_database_url or settings.database_url
        service = PostgresService(data_dir=settings.data_dir, wal_archive=wal_archive(settings))
        with self._progress.step("postgres", "PostgreSQL"):
            self._supervisor.spawn(service)
            await self._supervisor.wait_until_ready(service.name)
        assert service.running is not None, "it is ready"
        for text in service.running.notices:
            self._progress.notice(text)
        return service.running.dsn_owner, service.running.dsn_posting

    async def _migrate(self, dsn_owner: str) -> None:
        from tokenworks.bootstrap.database import make_fence
        from tokenworks.postgres.migrate import ALL_PHASES, Phase, migrate

        # Nobody else runs on the hub's own database; on one of yours another host may.
        is_own = self._settings.database_url is None
        await migrate(
            dsn_owner,
            clock=self._clock,
            phases=ALL_PHASES if is_own else {Phase.PRE},
            fence=make_fence(self._settings),
        )

    async def _open_demo(self, dsn_owner: str) -> Mapping[str, object] | None:
        supplier_url = self._supplier_url()
        if supplier_url is None:
            return None
        from tokenworks.bootstrap.demo import prepare_demo

        with self._progress.step("demo", "Demo business: supplier, price, buyer"):
            prepared = await prepare_demo(self._settings, dsn_owner, supplier_url)
            demo = {name: prepared[name] for name in DEMO_FIELDS}
            content = json.dumps(demo, indent=2) + "\n"
            write_private(self._settings.data_dir / DEMO_FILE_NAME, content.encode())
        return demo

    def _supplier_url(self) -> str | None:
        if self._model_port is None:
            return None
        return f"http://{MODEL_HOST}:{self._model_port}/v1"

    def _write_runtime(self, runtime: Runtime) -> None:
        self._runtime = runtime
        write_runtime(self._settings.data_dir, runtime)

    def _facts(self, seconds: float) -> Mapping[str, object]:
        has_demo = self._options.with_demo
        return {
            "seconds": round(seconds, 3),
            "base_url": f"{self._settings.hub_url}/v1",
            "console_url": self._settings.console_url if self._options.with_console else None,
            "data_dir": str(self._settings.data_dir),
            "demo_file": str(self._settings.data_dir / DEMO_FILE_NAME) if has_demo else None,
        }

    def _closing_words(self, demo: Mapping[str, object] | None, seconds: float) -> str:
        lines = [f"\nThe hub is ready after {seconds:.1f} s. Ctrl-C stops it.\n"]
        if demo is None:
            data = shlex.quote(str(self._settings.data_dir))
            lines.append(f"The first admin key:  tokenworks key add --admin --data {data}")
        else:
            lines.append(demo_words(self._settings.data_dir / DEMO_FILE_NAME, demo))
        if self._options.with_console:
            hint = "" if demo is None else f" (log in with the admin_key of {DEMO_FILE_NAME})"
            lines.append(f"The console:  {self._settings.console_url}{hint}")
        return "\n".join(lines)


def demo_words(demo_file: Path, demo: Mapping[str, object]) -> str:
    """
    Return what to try first; the keys stay in the file and are not printed.
    """
    path = shlex.quote(str(demo_file))
    program = """import json,sys; print(json.load(open(sys.argv[1]))["buyer_key"])"""
    read_key = f"python3 -c '{program}' {path}"
    body = json.dumps(
        {"model": demo["model"], "messages": [{"role": "user", "content": "What is water?"}]}
    )
    return f"""The keys are in {path}. Try a paid call:

  curl -i {demo["base_url"]}/chat/completions -H "Authorization: Bearer $({read_key})" \\
    -H 'Content-Type: application/json' -d '{body}'

or with Python (pip install openai):

  import json, openai
  demo = json.load(open({str(demo_file)!r}))
  client = openai.OpenAI(base_url=demo["base_url"], api_key=demo["buyer_key"])
  question = [{{"role": "user", "content": "What is water?"}}]
  answer = client.chat.completions.create(model=demo["model"], messages=question)
  print(answer.choices[0].message.content)
"""
