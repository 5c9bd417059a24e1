"""
What every live page has: head, header with the way to the other pages, banner, heartbeat.

A page says what it shows (``build_content``) and brings it up to date (``refresh``); when
its session ends it leaves by itself.
"""

from __future__ import annotations

from typing import Final

from nicegui import ui
from starlette.requests import Request

from tokenworks.foundation.errors import ForbiddenError, UnauthenticatedError
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.doors import STATIC, header_facts, theme_of
from tokenworks.web.console.guard import login_address, session_of
from tokenworks.web.console.pages import render
from tokenworks.web.console.sessions import Session
from tokenworks.web.console.theme import Theme

TICK_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 30.0
FAVICON: Final = (STATIC / "icon.svg").read_text(encoding="utf-8")


class ConsolePage:
    """
    One open page of one reader.

    Args:
        desk: What the pages share.
        request: Who opened it, with which colours.
        title: The page's heading, read by screen readers when it shows none.
    """

    def __init__(self, desk: Desk, request: Request, *, title: str) -> None:
        session = session_of(request.scope)
        assert session is not None, "the guard lets nobody else in"
        self.desk = desk
        self.session: Session = session
        self.theme = theme_of(request)
        self.here = request.url.path
        self._title = title

    # ------------------------------------------------------------------ what a page adds

    def build_content(self) -> None:
        """
        Lay out what stands below the header.
        """
        raise NotImplementedError

    async def refresh(self) -> str | None:
        """
        Bring the page up to date; returns what is wrong now, for people.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ building

    async def open(self) -> None:
        """
        Build the page, and keep it up to date as soon as the browser is there.
        """
        self._build()
        await ui.context.client.connected(timeout=CONNECT_TIMEOUT_S)
        await self.start()

    async def start(self) -> None:
        """
        Look at the hub now and every second.
        """
        await self.tick()
        ui.timer(TICK_S, self.tick)

    async def tick(self) -> None:
        """
        Bring everything up to date, or leave when the session is over.
        """
        if not self.desk.sessions.is_live(self.session):
            self.leave(self.session.ended_because)
            return
        try:
            notice = await self.refresh()
            if self.session.reader.spends:
                await self._count_reviews()
        except UnauthenticatedError:
            self.leave("key_refused")
        except ForbiddenError:
            self.leave("forbidden")
        else:
            put(self._banner, render("notice.html", text=notice) if notice else "")

    def leave(self, reason: str) -> None:
        """
        End the session and go to the login.

        A session that ended meanwhile did so for another reason, and its key is forgotten: that
        the hub refuses to be asked without one is no news.
        """
        self.desk.sessions.end(self.session, reason)
        ui.navigate.to(login_address(self.here, reason=self.session.ended_because))

    def go_to(self, path: str) -> None:
        """
        Show another address of this page without loading it.
        """
        self.here = path
        ui.navigate.history.replace(path)
        self._show_header()

    def _build(self) -> None:
        ui.add_head_html('<link rel="stylesheet" href="/console/console.css">')
        ui.add_head_html('<meta name="referrer" content="same-origin">')
        if self.theme is not Theme.SYSTEM:
            ui.add_head_html(f"<style>:root {{ color-scheme: {self.theme}; }}</style>")
        self._header = html("", tag="header").classes("console-header")
        self._show_header()
        self.content = ui.element("div").classes("console-main").props('id="content"')
        with self.content:
            html(self._title, tag="h1").classes("sr-only")
            self._banner = html("").classes("banner").props('role="status" aria-live="polite"')
            self.build_content()

    def _show_header(self) -> None:
        facts = header_facts(self.session, theme=self.theme, here=self.here)
        put(self._header, render("header.html", **facts))

    async def _count_reviews(self) -> None:
        look = await self.desk.agents_of(self.session).pending.read()
        waiting = len(look.answer.items) if look.answer else None
        if waiting != self.session.reviews_waiting:
            self.session.reviews_waiting = waiting
        self._show_header()


def html(content: str, *, tag: str = "div") -> ui.html:
    """
    Return an element with HTML of our own templates, which escape every text.

    A sanitizer in the browser would drop table cells.
    """
    return ui.html(content, sanitize=False, tag=tag)


def put(element: ui.html, content: str) -> None:
    """
    Show something else in an element, if it is something else.
    """
    if element.content != content:
        element.set_content(content)
