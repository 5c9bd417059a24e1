"""
What pages with buttons have in common: ask first, do it, say what came of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from nicegui import ui

from tokenworks.foundation.errors import TokenworksError, UnauthenticatedError
from tokenworks.web.console.agents.dialog import Answers, ask
from tokenworks.web.console.frame import ConsolePage, html, put
from tokenworks.web.console.pages import render

WORDS_SHOWN_FOR_TICKS: Final = 12

Action: TypeAlias = Callable[[], Awaitable[None]]


class ActingPage(ConsolePage):
    """
    A live page on which something can be done.
    """

    _said_for_ticks = 0
    _is_asking = False

    def build_said(self) -> None:
        """
        Lay out where the page says what came of an action.
        """
        self._said = html("").classes("banner said").props('role="status" aria-live="assertive"')

    async def ask(self, template: str, **facts: object) -> Answers | None:
        """
        Ask a question of the page; a second press while it is open asks no second time.
        """
        if self._is_asking:
            return None
        self._is_asking = True
        try:
            # Not within the row whose button was pressed: a row may go while somebody answers.
            with self.content:
                return await ask(template, **facts)
        finally:
            self._is_asking = False

    async def act(self, done: str, action: Action) -> None:
        """
        Do something and say so, or say in the hub's words why not.
        """
        try:
            await action()
        except UnauthenticatedError:
            self.leave("key_refused")
            return
        except TokenworksError as error:
            self.say(error.message, tone="bad")
        else:
            self.say(done, tone="good")
        await self.tick()

    def say(self, text: str, *, tone: str) -> None:
        """
        Show a sentence for a while.
        """
        put(self._said, render("said.html", text=text, tone=tone))
        self._said_for_ticks = WORDS_SHOWN_FOR_TICKS

    def grow_old(self) -> None:
        """
        Take back what was said when it stood there long enough; once a tick.
        """
        self._said_for_ticks -= 1
        if self._said_for_ticks == 0:
            put(self._said, "")


def button(label: str, action: Action, *, kind: str = "") -> ui.html:
    """
    Return a button that is there as long as its row is.
    """
    made = html(label, tag="button").props('type="button"').classes(kind)
    return made.on("click", action)
