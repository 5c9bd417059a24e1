"""
The agents page: who may spend what, how far it is spent, and the buttons that stop it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nicegui import ui
from nicegui.events import GenericEventArguments
from starlette.requests import Request

from tokenworks.web.console.agents.acting import ActingPage, button
from tokenworks.web.console.agents.mandate_panel import MandatePanel
from tokenworks.web.console.agents.rows import Rows
from tokenworks.web.console.agents.tree import Row, counts, matching, newest_by_mandate, to_rows
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.frame import FAVICON, html, put
from tokenworks.web.console.pages import render

ROWS_SHOWN_MAX: Final = 300
_TYPED: Final = "(event) => emit(event.target.value)"
_TYPING_S: Final = 0.3


def add_agents_page(desk: Desk) -> None:
    """
    Add the tree, and the address of one mandate in it.
    """

    @ui.page("/agents", title="Agents · Tokenworks", favicon=FAVICON)
    async def agents(request: Request) -> None:
        await AgentsPage(desk, request, title="Agents").open()

    @ui.page("/agents/{mandate_id}", title="Agents · Tokenworks", favicon=FAVICON)
    async def agents_at(request: Request, mandate_id: str) -> None:
        await AgentsPage(desk, request, title="Agents", wanted=mandate_id).open()


class AgentsPage(ActingPage):
    """
    The tree of the reader's agents, and one mandate beside it.
    """

    def __init__(
        self, desk: Desk, request: Request, *, title: str, wanted: str | None = None
    ) -> None:
        super().__init__(desk, request, title=title)
        self.chosen = wanted
        self._words = ""

    def build_content(self) -> None:
        """
        Lay out the tree and the panel.
        """
        self.build_said()
        with ui.element("div").classes("split"):
            with ui.element("section").classes("card").props('aria-labelledby="tree-title"'):
                with ui.element("div").classes("card-head"):
                    html("Who may spend", tag="h2").props('id="tree-title"')
                    self._counts = html("").classes("muted small")
                    self._field = ui.element("input").classes("find")
                    self._field.props(
                        'type=search placeholder="Find" aria-label="Find in the tree"'
                    )
                    self._field.on("input", self._find, throttle=_TYPING_S, js_handler=_TYPED)
                self._empty = html('<div class="loading"></div><div class="loading"></div>')
                self._rows: Rows[TreeRow] = Rows(ui.element("div").classes("tree"))
                self._cut = html("")
            self._panel = MandatePanel(self)

    async def refresh(self) -> str | None:
        """
        Show the tree as the hub has it, and the chosen mandate.
        """
        self.grow_old()
        feed = self.desk.agents_of(self.session)
        look, newest = await feed.tree.read(), await feed.newest.read()
        if look.answer is not None:
            payments = newest_by_mandate(newest.answer.items if newest.answer else ())
            rows = to_rows(look.answer, self.desk.clock.now(), last_payments=payments)
            self._show(rows, is_cut=look.answer.is_cut)
        panel_notice = await self._panel.refresh(self.chosen)
        return look.notice or panel_notice

    def _show(self, rows: Sequence[Row], *, is_cut: bool) -> None:
        found = matching(rows, self._words)
        shown = found[:ROWS_SHOWN_MAX]
        put(self._counts, render("tree_counts.html", counts=counts(rows)) if rows else "")
        is_empty = not found
        put(self._empty, render("tree_empty.html", words=self._words) if is_empty else "")
        left_out = len(found) - len(shown)
        is_cut = is_cut or left_out > 0
        put(self._cut, render("tree_cut.html", left_out=left_out) if is_cut else "")
        self._rows.keep([row.identifier for row in shown])
        for index, row in enumerate(shown):
            make = self._make_mandate_row if row.mandate else self._make_party_row
            made = self._rows.at(index, row.identifier, make)
            made.show(row, is_chosen=row.identifier == self.chosen)

    def _make_mandate_row(self) -> TreeRow:
        return TreeRow(self, tag="button")

    def _make_party_row(self) -> TreeRow:
        return TreeRow(self, tag="p")

    async def _find(self, event: GenericEventArguments) -> None:
        self._words = str(event.args)
        await self.tick()

    # ------------------------------------------------------------------ doing

    async def choose(self, mandate_id: str | None) -> None:
        """
        Show a mandate beside the tree, or none.
        """
        self.chosen = mandate_id
        self.go_to(f"/agents/{mandate_id}" if mandate_id else "/agents")
        await self.tick()

    async def freeze(self, row: Row) -> None:
        """
        Ask, naming what stops, and stop it.
        """
        if await self.ask("question_freeze.html", row=row) is None:
            return
        feed = self.desk.agents_of(self.session)

        async def action() -> None:
            await feed.freeze(_kind(row), row.identifier)

        await self.act(f"{row.name} is frozen: its next payment is refused.", action)

    async def thaw(self, row: Row) -> None:
        """
        Ask, and let it go on.
        """
        if await self.ask("question_thaw.html", row=row) is None:
            return
        feed = self.desk.agents_of(self.session)

        async def action() -> None:
            await feed.thaw(_kind(row), row.identifier)

        await self.act(f"{row.name} may pay again.", action)

    async def revoke(self, row: Row) -> None:
        """
        Ask, and end a mandate for good.
        """
        if await self.ask("question_revoke.html", row=row) is None:
            return
        feed = self.desk.agents_of(self.session)

        async def action() -> None:
            await feed.revoke(row.identifier)

        await self.act(f"{row.name} is revoked, and what was delegated below it.", action)


def _kind(row: Row) -> str:
    return "mandates" if row.mandate is not None else "agents"


class TreeRow:
    """
    One line of the tree with its buttons.
    """

    def __init__(self, page: AgentsPage, *, tag: str) -> None:
        self._page = page
        self._row: Row | None = None
        self.element = ui.element("div").classes("tree-row")
        with self.element:
            self._name = html("", tag=tag).classes("tree-name")
            if tag == "button":
                self._name.props("type=button").on("click", self._choose)
            self._content = html("").classes("tree-content")
            with ui.element("div").classes("tree-buttons"):
                self._freeze = button("Freeze", self._do_freeze, kind="small-button")
                self._thaw = button("Thaw", self._do_thaw, kind="small-button")
                self._revoke = button("Revoke", self._do_revoke, kind="small-button danger")

    def show(self, row: Row, *, is_chosen: bool) -> None:
        """
        Bring the line up to date.
        """
        before, self._row = self._row, row
        if before == row and self._was_chosen == is_chosen:
            return
        self._was_chosen = is_chosen
        kind = "is-mandate" if row.mandate else f"is-{row.party.level}" if row.party else ""
        marks = (
            f"tree-row {kind}{' is-chosen' if is_chosen else ''}{' is-over' if row.is_over else ''}"
        )
        self.element.classes(replace=marks)
        self.element.style(replace=f"--depth: {row.depth}")
        put(self._name, render("tree_name.html", row=row))
        if row.mandate is not None:
            self._name.props(f"aria-pressed={'true' if is_chosen else 'false'}")
        put(self._content, render("tree_row.html", row=row))
        can_stop = not row.is_over and not row.is_own_frozen
        self._freeze.set_visibility(can_stop)
        self._thaw.set_visibility(row.is_own_frozen and not row.is_over)
        self._revoke.set_visibility(row.mandate is not None and not row.is_over)
        for each, word in (
            (self._freeze, "Freeze"),
            (self._thaw, "Thaw"),
            (self._revoke, "Revoke"),
        ):
            each.props["aria-label"] = f"{word} {row.name}"
            each.update()

    _was_chosen = False

    async def _choose(self) -> None:
        if self._row is not None and self._row.mandate is not None:
            is_chosen = self._page.chosen == self._row.identifier
            await self._page.choose(None if is_chosen else self._row.identifier)

    async def _do_freeze(self) -> None:
        if self._row is not None:
            await self._page.freeze(self._row)

    async def _do_thaw(self) -> None:
        if self._row is not None:
            await self._page.thaw(self._row)

    async def _do_revoke(self) -> None:
        if self._row is not None:
            await self._page.revoke(self._row)
