"""
One escrow beside the list: terms, milestones with verdicts, timeline, the arbiter's buttons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from nicegui import ui

from tokenworks.foundation.errors import TokenworksError
from tokenworks.web.console.agents.acting import button
from tokenworks.web.console.agents.model import Escrow, Milestone
from tokenworks.web.console.agents.progress import to_progress
from tokenworks.web.console.agents.rows import Rows
from tokenworks.web.console.frame import html, put
from tokenworks.web.console.model import Document
from tokenworks.web.console.pages import render
from tokenworks.web.console.polling import Polled

if TYPE_CHECKING:
    from tokenworks.web.console.agents.escrows_page import EscrowsPage

ESCROW_FRESH_FOR_S: Final = 1.8


class EscrowPanel:
    """
    The panel beside the list; empty while no escrow is chosen.
    """

    def __init__(self, page: EscrowsPage) -> None:
        self._page = page
        self._shown: str | None = None
        self._escrow: Polled[Escrow] | None = None
        self.element = ui.element("aside").classes("card panel")
        self.element.props('aria-label="The chosen escrow"')
        with self.element:
            self._close = button("Close", self._leave, kind="small-button panel-close")
            self._top = html("")
            self._milestones: Rows[MilestoneRow] = Rows(ui.element("div").classes("milestones"))
            self._timeline = html("")

    async def refresh(self, escrow_id: str | None) -> str | None:
        """
        Show an escrow; returns what is wrong now.
        """
        if escrow_id != self._shown:
            self._turn_to(escrow_id)
        self.element.classes(add="is-open") if escrow_id else self.element.classes(remove="is-open")
        self._close.set_visibility(escrow_id is not None)
        if self._escrow is None:
            put(self._top, render("escrow_none.html"))
            return None
        look = await self._escrow.read()
        escrow = look.answer
        names: Mapping[str, str] = {}
        if escrow is not None:
            names = await self._page.desk.agents_of(self._page.session).names_of(escrow.party_ids)
        if escrow_id != self._shown:
            return None  # another was chosen while the hub answered
        if escrow is None:
            put(self._top, render("mandate_missing.html", text=look.notice or ""))
            return None
        facts = {"escrow": escrow, "progress": to_progress(escrow), "names": names}
        put(self._top, render("escrow.html", **facts, now=self._page.desk.clock.now()))
        self._milestones.keep([each.name for each in escrow.milestones])
        for index, milestone in enumerate(escrow.milestones):
            row = self._milestones.at(index, milestone.name, lambda: MilestoneRow(self._page))
            row.show(escrow, milestone)
        put(self._timeline, render("escrow_timeline.html", escrow=escrow))
        return look.notice

    def forget(self) -> None:
        """
        Ask anew next time: something was decided.
        """
        if self._escrow is not None:
            self._escrow.forget()

    def _turn_to(self, escrow_id: str | None) -> None:
        self._shown = escrow_id
        self._milestones.keep(())
        put(self._top, "")
        put(self._timeline, "")
        self._escrow = None
        if escrow_id is not None:
            feed = self._page.desk.agents_of(self._page.session)
            self._escrow = Polled(
                lambda: feed.escrow(escrow_id),
                self._page.desk.clock,
                fresh_for_s=ESCROW_FRESH_FOR_S,
            )

    async def _leave(self) -> None:
        await self._page.choose(None)


class MilestoneRow:
    """
    One milestone with what was submitted and decided; an opened one stays open.
    """

    def __init__(self, page: EscrowsPage) -> None:
        self._page = page
        self._facts: tuple[Escrow, Milestone] | None = None
        self._result: tuple[int, Document] | None = None  # with the submission's number
        self.element = ui.element("div").classes("milestone")
        with self.element:
            self._content = html("", tag="details").classes("decided").on("toggle", self._learn)
            self._decide = button("Decide as arbiter", self._arbitrate, kind="small-button")

    def show(self, escrow: Escrow, milestone: Milestone) -> None:
        """
        Bring the milestone up to date.
        """
        self._facts = (escrow, milestone)
        submission, known = milestone.submission, self._result
        is_same = submission is not None and known is not None and known[0] == submission.number
        facts = {"escrow": escrow, "milestone": milestone}
        result = known[1] if known is not None and is_same else None
        put(self._content, render("milestone.html", **facts, result=result))
        self._decide.set_visibility("arbiter" in escrow.sides and milestone.state == "disputed")

    async def _learn(self) -> None:
        if self._facts is None or self._facts[1].submission is None:
            return
        escrow, milestone = self._facts
        number = self._facts[1].submission.number
        if self._result is not None and self._result[0] == number:
            return
        feed = self._page.desk.agents_of(self._page.session)
        try:
            self._result = (number, await feed.result(escrow.escrow_id, milestone.name))
        except TokenworksError as error:
            self._page.say(error.message, tone="bad")
            return
        self.show(escrow, milestone)

    async def _arbitrate(self) -> None:
        if self._facts is not None:
            await self._page.arbitrate(*self._facts)
