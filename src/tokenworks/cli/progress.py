"""
Tell how a start goes: a line that fills in on a terminal, plain lines in a log, JSON
lines for programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from rich.console import Console
from rich.markup import escape

from tokenworks.foundation.clock import Clock

_CLEAR_LINE: Final = "\r\x1b[2K"


class Style(StrEnum):
    """
    Who reads.
    """

    TERMINAL = "terminal"
    PLAIN = "plain"
    JSON = "json"


def choose_style(*, as_json: bool) -> Style:
    """
    Return the style for standard output as it is.
    """
    if as_json:
        return Style.JSON
    return Style.TERMINAL if sys.stdout.isatty() else Style.PLAIN


class Progress:
    """
    Print steps, notices and the closing words.
    """

    def __init__(self, style: Style, clock: Clock, console: Console | None = None) -> None:
        self._style = style
        self._clock = clock
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._open_step: str | None = None

    @contextmanager
    def step(self, name: str, text: str) -> Generator[None]:
        """
        Show that a step has begun, and then how long it took.
        """
        started_at_s = self._clock.monotonic_s()
        self._open_step = text
        self._show_open_step()
        try:
            yield
        except BaseException:
            self._open_step = None
            if self._style is Style.TERMINAL:
                self._console.file.write(_CLEAR_LINE)
                self._console.print(f"[red]✗[/] {escape(text)}")
            raise
        seconds = round(self._clock.monotonic_s() - started_at_s, 3)
        self._open_step = None
        if self._style is Style.JSON:
            self._write_json({"event": "step", "step": name, "seconds": seconds})
        elif self._style is Style.TERMINAL:
            self._console.file.write(_CLEAR_LINE)
            self._console.print(f"[green]✓[/] {escape(text)} [dim]{seconds:.2f} s[/]")
        else:
            self._console.print(f"{text}: ready in {seconds:.2f} s", markup=False)

    def notice(self, text: str) -> None:
        """
        Print a sentence for the operator.
        """
        if self._style is Style.JSON:
            self._write_json({"event": "notice", "text": text})
        elif self._style is Style.TERMINAL:
            self._console.file.write(_CLEAR_LINE)
            self._console.print(f"[yellow]![/] {escape(text)}")
            self._show_open_step()
        else:
            self._console.print(text, markup=False)

    def ready(self, facts: Mapping[str, object], text: str) -> None:
        """
        Print what to do next: ``facts`` for programs, ``text`` for people.
        """
        if self._style is Style.JSON:
            self._write_json({"event": "ready", **facts})
        else:
            self._console.print(text, markup=False)

    def _show_open_step(self) -> None:
        if self._style is Style.TERMINAL and self._open_step is not None:
            self._console.print(f"[dim]… {escape(self._open_step)}[/]", end="")
            self._console.file.flush()

    def _write_json(self, content: Mapping[str, object]) -> None:
        self._console.file.write(json.dumps(content) + "\n")
        self._console.file.flush()
