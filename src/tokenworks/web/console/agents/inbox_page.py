"""
The inbox: payments that wait for a person, and what became of those before.

A card keeps its elements as long as its review waits, so that neither the focus nor a question
that is open is lost to the clock that counts down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nicegui import ui
from starlette.requests import Request

from tokenworks.foundation.errors import TokenworksError
from tokenworks.web.console.agents.acting import ActingPage, Action, button
from tokenworks.web.console.agents.model import Limit, Review
from tokenworks.web.console.agents.rows import Rows
from tokenworks.web.console.agents.wording import left_text
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.frame import FAVICON, html, put
from tokenworks.web.console.pages import render

SCOPE_LABELS: Final = {
    "once": "Approve once",
    "payee": "Approve, and know the payee",
    "raise": "Approve, and raise the limit",
}


def add_inbox_page(desk: Desk) -> None:
    """
    Add the inbox, and the address of one review in it.
    """

    @ui.page("/inbox", title="Inbox · Tokenworks", favicon=FAVICON)
    async def inbox(request: Request) -> None:
        await InboxPage(desk, request, title="Inbox").open()

    @ui.page("/inbox/{review_id}", title="Inbox · Tokenworks", favicon=FAVICON)
    async def inbox_at(request: Request, review_id: str) -> None:
        await InboxPage(desk, request, title="Inbox", wanted=review_id).open()


class InboxPage(ActingPage):
    """
    What waits for the reader, and what was decided.
    """

    def __init__(
        self, desk: Desk, request: Request, *, title: str, wanted: str | None = None
    ) -> None:
        super().__init__(desk, request, title=title)
        self._wanted = wanted

    def build_content(self) -> None:
        """
        Lay out both lists.
        """
        self.build_said()
        with ui.element("section").classes("stack").props('aria-labelledby="waiting-title"'):
            self._head = html(render("inbox_head.html", count=None))
            self._empty = html("")
            self._waiting: Rows[Card] = Rows(ui.element("div").classes("stack reviews"))
        with ui.element("section").classes("card").props('aria-labelledby="decided-title"'):
            html("Decided before", tag="h2").props('id="decided-title"')
            self._no_history = html("")
            self._history: Rows[DecidedRow] = Rows(ui.element("div").classes("history"))

    async def refresh(self) -> str | None:
        """
        Show what waits and what was decided.
        """
        self.grow_old()
        feed = self.desk.agents_of(self.session)
        pending, decided = await feed.pending.read(), await feed.decided.read()
        if pending.answer is not None:
            self._show_waiting(sorted(pending.answer.items, key=lambda each: each.expires_at))
        if decided.answer is not None:
            self._show_history([each for each in decided.answer.items if each.state != "pending"])
        return pending.notice or decided.notice

    def _show_waiting(self, reviews: Sequence[Review]) -> None:
        now = self.desk.clock.now()
        put(self._head, render("inbox_head.html", count=len(reviews)))
        put(self._empty, "" if reviews else render("inbox_empty.html"))
        self._waiting.keep([review.review_id for review in reviews])
        for index, review in enumerate(reviews):
            card = self._waiting.at(index, review.review_id, lambda: Card(self))
            card.show(review, left=left_text(review.expires_at, now))
            if review.review_id == self._wanted:
                self._wanted = None
                ui.run_javascript(f"getElement({card.element.id}).scrollIntoView()")

    def _show_history(self, reviews: Sequence[Review]) -> None:
        put(self._no_history, "" if reviews else render("inbox_no_history.html"))
        self._history.keep([review.review_id for review in reviews])
        for index, review in enumerate(reviews):
            row = self._history.at(index, review.review_id, lambda: DecidedRow(self))
            row.show(review)

    # ------------------------------------------------------------------ deciding

    async def approve(self, review: Review, scope: str) -> None:
        """
        Ask, and approve what was shown.
        """
        feed = self.desk.agents_of(self.session)
        limits: Sequence[Limit] = ()
        if scope == "raise":
            limits = await self._limits_of(review)
            if not limits:
                self.say("The mandate has no limit of money that could be raised.", tone="bad")
                return
        label = SCOPE_LABELS[scope]
        facts = {"review": review, "scope": scope, "label": label, "limits": limits}
        answers = await self.ask("question_approve.html", **facts)
        if answers is None:
            return
        is_last = len(review.approved_by) + 1 >= review.approvals_needed
        done = "Approved: the payment goes on when the agent sends it again."
        if not is_last:
            done = "Your approval counts; one more person has to approve."

        async def action() -> None:
            await feed.approve(review, scope=scope, answers=answers)

        await self.act(done, action)

    async def _limits_of(self, review: Review) -> Sequence[Limit]:
        try:
            mandate = await self.desk.agents_of(self.session).mandate(review.mandate_id)
        except TokenworksError:
            return ()  # the question cannot be asked, and the page says so
        return [limit for limit in mandate.limits if limit.unit == review.currency]

    async def deny(self, review: Review) -> None:
        """
        Ask, and deny what was shown.
        """
        answers = await self.ask("question_deny.html", review=review)
        if answers is None:
            return
        feed = self.desk.agents_of(self.session)

        async def action() -> None:
            await feed.deny(review, note=answers.get("note", ""))

        await self.act("Denied: nothing is paid, and what was held goes back.", action)


class DecidedRow:
    """
    One review that is over; who said what is asked for when it is opened.
    """

    def __init__(self, page: InboxPage) -> None:
        self._page = page
        self._review: Review | None = None
        self._is_whole = False
        self.element = html("", tag="details").classes("decided").on("toggle", self._learn)

    def show(self, review: Review) -> None:
        """
        Bring the row up to date; what was learned of it stays, for it is final.
        """
        if not self._is_whole:
            self._review = review
            put(self.element, render("decided.html", review=review))

    async def _learn(self) -> None:
        if self._review is None or self._is_whole:
            return
        feed = self._page.desk.agents_of(self._page.session)
        try:
            self._review = await feed.review(self._review.review_id)
        except TokenworksError as error:
            self._page.say(error.message, tone="bad")
            return
        self._is_whole = True
        put(self.element, render("decided.html", review=self._review))


class Card:
    """
    One review that waits.
    """

    def __init__(self, page: InboxPage) -> None:
        self._page = page
        self._review: Review | None = None
        self.element = ui.element("article").classes("card review")
        with self.element:
            self._content = html("").classes("review-content")
            with ui.element("div").classes("review-foot"):
                self._left = html("").classes("review-left").props('role="timer"')
                for scope, label in SCOPE_LABELS.items():
                    kind = "primary" if scope == "once" else ""
                    button(label, self._approval(scope), kind=kind)
                button("Deny", self._deny, kind="danger")

    def show(self, review: Review, *, left: str) -> None:
        """
        Bring the card up to date.
        """
        self._review = review
        put(self._content, render("review.html", review=review))
        put(self._left, left)

    def _approval(self, scope: str) -> Action:
        async def approve() -> None:
            if self._review is not None:
                await self._page.approve(self._review, scope)

        return approve

    async def _deny(self) -> None:
        if self._review is not None:
            await self._page.deny(self._review)
