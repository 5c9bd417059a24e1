"""
Rows that keep their identity: a click, the focus or an opened row is never lost to an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from nicegui import ui

from tokenworks.web.console.frame import html, put


class Row(Protocol):
    """
    What stands in a list.
    """

    @property
    def element(self) -> ui.element:
        """
        Return its outermost element.
        """
        ...


class TextRow:
    """
    A row that is HTML alone.
    """

    def __init__(self, tag: str, kind: str) -> None:
        self.element = html("", tag=tag).classes(kind)

    def show(self, content: str) -> None:
        """
        Show something else, if it is something else.
        """
        put(self.element, content)


Kept = TypeVar("Kept", bound=Row)


class Rows(Generic[Kept]):
    """
    The rows of one list, by the id of what they show.

    Args:
        parent: What they stand in; nothing else does.
    """

    def __init__(self, parent: ui.element) -> None:
        self._parent = parent
        self._rows: dict[str, Kept] = {}

    def keep(self, identifiers: Iterable[str]) -> None:
        """
        Take away the rows of all others.
        """
        for identifier in self._rows.keys() - set(identifiers):
            self._rows.pop(identifier).element.delete()

    def at(self, index: int, identifier: str, make: Callable[[], Kept]) -> Kept:
        """
        Return the row of an id at its place, made if it is new.
        """
        row = self._rows.get(identifier)
        if row is None:
            with self._parent:
                row = self._rows[identifier] = make()
        element = row.element
        if self._parent.default_slot.children.index(element) != index:
            element.move(target_index=index)
        return row
