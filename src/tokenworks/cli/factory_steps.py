"""
``tokenworks factory steps send``: an engine's step log to the hub, as it is written.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import sleep as wait
from typing import Annotated, Final, TextIO, cast

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    Document,
    HubClient,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.factory.attribution.model import Step
from tokenworks.factory.attribution.step_log import read_step_line, read_step_log, to_json
from tokenworks.factory.errors import TableInvalidError
from tokenworks.factory.live.step_spool import find_remarks

steps_app: Final = typer.Typer(help="Step logs of engines, live.", no_args_is_help=True)

STEPS_SENT: Final = 200
STEPS_KEPT_MAX: Final = 20_000
RETRY_S: Final = 1.0
REMARKS_SHOWN_MAX: Final = 50


@steps_app.command("send")
def send(
    file: Annotated[str, typer.Argument(help="The step log: JSON lines or CSV; - reads stdin.")],
    meter: Annotated[str, typer.Option(help="The id of the meter behind which the engine is.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what is written, until interrupted.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Send an engine's step log: its meter's intervals are then divided by step and phase.

    Steps name calls by the hub's call id (the supplier needs --send-call-id). What is out of order,
    missing, torn or there twice is said with row and column, and keeps no other row out; sending a
    file again adds nothing twice.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        sender = _StepSender(hub, meter, name="stdin" if file == "-" else Path(file).name)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                if file == "-":
                    sender.read(_whole_lines(sys.stdin, follow=False))
                else:
                    with Path(file).open(encoding="utf-8-sig", newline="") as lines:
                        sender.read(_whole_lines(lines, follow=follow))
            sender.flush(is_last=True)
        except OSError as error:
            message = f"{file} cannot be read: {error.strerror}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
        hub.output.document(sender.summary())
        if sender.refused or sender.waiting:
            raise typer.Exit(EXIT_REFUSED)


def _whole_lines(lines: TextIO, *, follow: bool) -> Iterator[str]:
    """
    Yield lines with their ends; what is not whole yet is waited for, or comes last as it is.

    An empty text says that there is nothing more for now.
    """
    begun = ""
    while True:
        line = lines.readline()
        if line.endswith("\n"):
            yield begun + line
            begun = ""
        elif line:
            begun += line
        elif follow:
            yield ""
            wait(RETRY_S)
        else:
            break
    if begun:
        yield begun


class _StepSender:
    def __init__(self, hub: HubClient, meter: str, *, name: str) -> None:
        self.sent = 0
        self.repeated = 0
        self.refused: list[dict[str, object]] = []
        self.remarks: list[dict[str, object]] = []
        self.waiting: list[Step] = []
        self._hub = hub
        self._meter = meter
        self._name = name
        self._before: Step | None = None
        self._told = ""

    def read(self, lines: Iterable[str]) -> None:
        row = 0
        for line in lines:
            if not line:
                self.flush()
                continue
            row += 1
            if row == 1 and not line.lstrip().startswith("{"):
                self._read_csv(line, lines)
                return
            if line.strip():
                self._read_line(line, row)
            if len(self.waiting) >= STEPS_SENT:
                self.flush()

    def _read_line(self, line: str, row: int) -> None:
        try:
            self._keep(read_step_line(line, self._name, row))
        except TableInvalidError as error:
            column = error.param or "(line)"
            text = error.message
            if not line.endswith("\n"):
                text = (
                    f"{self._name}: row {row}, column (line): is torn, its end is missing;"
                    " send the file again when it is whole"
                )
            self._refuse(row, column, text)

    def _read_csv(self, header: str, lines: Iterable[str]) -> None:
        rest = (line for line in lines if line)
        for step in read_step_log(_after(header, rest), self._name, is_continued=True):
            self._keep(step)
            if len(self.waiting) >= STEPS_SENT:
                self.flush()

    def _keep(self, step: Step) -> None:
        for one in find_remarks(step, self._before):
            text = f"{self._name}: row {one.row}, column {one.column}: {one.text}"
            self.remarks.append({"row": one.row, "column": one.column, "text": text})
            self._hub.output.note(text)
        self._before = step
        self.waiting.append(step)

    def flush(self, *, is_last: bool = False) -> None:
        """
        Send what waits; while the hub is away it waits on, up to a bound that is told.
        """
        while self.waiting:
            batch = self.waiting[:STEPS_SENT]
            try:
                answer = self._hub.post(
                    f"factory/meters/{self._meter}/steps",
                    {"steps": [to_json(step) for step in batch]},
                )
            except CommandError as error:
                problem = error.problem or {}
                if problem.get("code") == "steps_invalid":
                    # None of them was kept; the problem has each row.
                    self._note(cast("Document", problem.get("details") or {}), batch)
                    self.waiting = self.waiting[len(batch) :]
                    continue
                if error.exit_code != EXIT_COULD_NOT_RUN:
                    raise
                if error.message != self._told:
                    self._hub.output.note(f"Kept for later: {error.message}")
                self._told = error.message
                if is_last or len(self.waiting) < STEPS_KEPT_MAX:
                    return
                wait(RETRY_S)  # Nothing more is read meanwhile: the file keeps it.
                continue
            self._told = ""
            self._note(answer, batch)
            self.waiting = self.waiting[len(batch) :]

    def _note(self, answer: Document, batch: list[Step]) -> None:
        self.sent += answer.get("steps", 0)
        self.repeated += answer.get("repeated", 0)
        for one in cast("list[Document]", answer.get("refused", [])):
            place: int = one["row"]
            row, column = batch[place - 1].row, str(one["column"])
            self._refuse(row, column, self._placed(row, column, str(one["text"])))

    def _placed(self, row: int, column: str, text: str) -> str:
        return f"{self._name}: row {row}, column {column}: {text}"

    def _refuse(self, row: int, column: str, text: str) -> None:
        self.refused.append({"row": row, "column": column, "text": text})
        self._hub.output.note(f"Not sent: {text}")

    def summary(self) -> dict[str, object]:
        """
        Return what became of every row.
        """
        return {
            "sent": self.sent,
            "repeated": self.repeated,
            "not_sent": len(self.waiting),
            "remarks": self.remarks[:REMARKS_SHOWN_MAX],
            "remarks_left_out": max(len(self.remarks) - REMARKS_SHOWN_MAX, 0),
            "refused": self.refused,
        }


def _after(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest
