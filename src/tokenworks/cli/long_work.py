"""
Show on standard error how far a command that takes long has come.

Programs (``--json``) are not told: their result is one document on standard output.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tokenworks.cli.rendering import Output

_ALL: Final = 100


class LongWork:
    """
    Named steps, one after the other, each with a bar where its length is known.

    Args:
        output: Whose people are told.
        steps: What each step is called, by its name.
    """

    def __init__(self, output: Output, steps: Mapping[str, str]) -> None:
        self._steps = steps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=output.as_json,
        )
        self._step: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._end_step()
        self._progress.stop()

    def begin(self, step: str) -> None:
        """
        Show that a step has begun, and the one before it has ended.
        """
        self._end_step()
        self._step = self._progress.add_task(self._steps[step], total=None)

    def advance(self, percent: int) -> None:
        """
        Show how much of the present step is done.
        """
        if self._step is not None:
            self._progress.update(self._step, total=_ALL, completed=percent)

    def _end_step(self) -> None:
        if self._step is not None:
            self._progress.update(self._step, total=_ALL, completed=_ALL)
