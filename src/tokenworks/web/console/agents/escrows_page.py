"""
Escrows: what is promised, how far it is, and the arbiter's word where the sides disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nicegui import ui
from starlette.requests import Request

from tokenworks.web.console.agents.acting import ActingPage, Action
from tokenworks.web.console.agents.escrow_panel import EscrowPanel
from tokenworks.web.console.agents.model import Escrow, Milestone
from tokenworks.web.console.agents.progress import GROUPS, in_group, to_progress
from tokenworks.web.console.agents.rows import Rows
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.frame import FAVICON, html, put
from tokenworks.web.console.pages import render

GROUP_LABELS: Final = {"all": "All", "running": "Running", "disputed": "Disputed", "over": "Over"}


def add_escrows_page(desk: Desk) -> None:
    """
    Add the list, and the address of one escrow in it.
    """

    @ui.page("/escrows", title="Escrows · Tokenworks", favicon=FAVICON)
    async def escrows(request: Request) -> None:
        await EscrowsPage(desk, request, title="Escrows").open()

    @ui.page("/escrows/{escrow_id}", title="Escrows · Tokenworks", favicon=FAVICON)
    async def escrows_at(request: Request, escrow_id: str) -> None:
        await EscrowsPage(desk, request, title="Escrows", wanted=escrow_id).open()


class EscrowsPage(ActingPage):
    """
    The reader's escrows, and one beside the list.
    """

    def __init__(
        self, desk: Desk, request: Request, *, title: str, wanted: str | None = None
    ) -> None:
        super().__init__(desk, request, title=title)
        self.chosen = wanted
        self._group = "all"

    def build_content(self) -> None:
        """
        Lay out the list and the panel.
        """
        self.build_said()
        with ui.element("div").classes("split wide-panel"):
            with ui.element("section").classes("card").props('aria-labelledby="escrows-title"'):
                with ui.element("div").classes("card-head"):
                    html("Escrows", tag="h2").props('id="escrows-title"')
                    with (
                        ui.element("div")
                        .classes("segments")
                        .props('role="group" aria-label="State"')
                    ):
                        self._segments = {each: self._segment(each) for each in GROUPS}
                self._empty = html('<div class="loading"></div><div class="loading"></div>')
                self._rows: Rows[EscrowRow] = Rows(ui.element("div").classes("escrows"))
                self._cut = html("")
            self._panel = EscrowPanel(self)

    async def refresh(self) -> str | None:
        """
        Show the list as the hub has it, and the chosen escrow.
        """
        self.grow_old()
        look = await self.desk.agents_of(self.session).escrows.read()
        if look.answer is not None:
            wanted = [party_id for escrow in look.answer.items for party_id in escrow.party_ids]
            names = await self.desk.agents_of(self.session).names_of(wanted)
            # Not before the names are there: another group may be chosen meanwhile.
            found = [each for each in look.answer.items if in_group(each, self._group)]
            self._show(found, names)
            put(self._cut, render("escrows_cut.html") if look.answer.next_cursor else "")
        panel_notice = await self._panel.refresh(self.chosen)
        return look.notice or panel_notice

    def _show(self, escrows: Sequence[Escrow], names: Mapping[str, str]) -> None:
        put(self._empty, "" if escrows else render("escrows_empty.html", group=self._group))
        self._rows.keep([escrow.escrow_id for escrow in escrows])
        for index, escrow in enumerate(escrows):
            row = self._rows.at(index, escrow.escrow_id, lambda: EscrowRow(self))
            row.show(escrow, names, is_chosen=escrow.escrow_id == self.chosen)

    def _segment(self, group: str) -> ui.html:
        made = html(GROUP_LABELS[group], tag="button")
        made.props(f'type="button" aria-pressed="{"true" if group == self._group else "false"}"')

        async def choose() -> None:
            self._group = group
            for each, segment in self._segments.items():
                segment.props(f'aria-pressed="{"true" if each == group else "false"}"')
            await self.tick()

        return made.on("click", choose)

    # ------------------------------------------------------------------ doing

    async def choose(self, escrow_id: str | None) -> None:
        """
        Show an escrow beside the list, or none.
        """
        self.chosen = escrow_id
        self.go_to(f"/escrows/{escrow_id}" if escrow_id else "/escrows")
        await self.tick()

    async def arbitrate(self, escrow: Escrow, milestone: Milestone) -> None:
        """
        Ask how much of a disputed milestone is due, and decide it for good.
        """
        feed = self.desk.agents_of(self.session)
        names = await feed.names_of(escrow.party_ids)
        facts = {"escrow": escrow, "milestone": milestone, "names": names}
        answers = await self.ask("question_arbitrate.html", **facts)
        if answers is None:
            return
        amount, reason = answers.get("amount", ""), answers.get("reason", "")

        async def action() -> None:
            await feed.arbitrate(escrow, milestone, amount=amount, reason=reason)
            self._panel.forget()

        done: Action = action
        await self.act(f"{milestone.name} is decided: {amount} {escrow.currency} is due.", done)


class EscrowRow:
    """
    One escrow of the list.
    """

    def __init__(self, page: EscrowsPage) -> None:
        self._page = page
        self._escrow: Escrow | None = None
        self.element = html("", tag="button").classes("escrow-row").props("type=button")
        self.element.on("click", self._choose)

    def show(self, escrow: Escrow, names: Mapping[str, str], *, is_chosen: bool) -> None:
        """
        Bring the row up to date.
        """
        self._escrow = escrow
        facts = {"escrow": escrow, "progress": to_progress(escrow), "names": names}
        put(self.element, render("escrow_row.html", **facts))
        self.element.props(f'aria-pressed="{"true" if is_chosen else "false"}"')
        self.element.classes(add="is-chosen") if is_chosen else self.element.classes(
            remove="is-chosen"
        )

    async def _choose(self) -> None:
        if self._escrow is not None:
            escrow_id = self._escrow.escrow_id
            await self._page.choose(None if self._page.chosen == escrow_id else escrow_id)
