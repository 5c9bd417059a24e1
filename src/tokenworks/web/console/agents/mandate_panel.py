"""
One mandate beside the tree: its terms in plain words and its newest payments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from nicegui import ui

from tokenworks.web.console.agents.acting import button
from tokenworks.web.console.agents.model import Mandate, PaymentPage
from tokenworks.web.console.agents.rows import Rows, TextRow
from tokenworks.web.console.agents.wording import terms_in_words
from tokenworks.web.console.frame import html, put
from tokenworks.web.console.pages import render
from tokenworks.web.console.polling import Look, Polled

if TYPE_CHECKING:
    from tokenworks.web.console.agents.agents_page import AgentsPage

MANDATE_FRESH_FOR_S: Final = 9.0
PAYMENTS_FRESH_FOR_S: Final = 1.8
NAMES_MAX: Final = 8


class MandatePanel:
    """
    The panel beside the tree; empty while no mandate is chosen.
    """

    def __init__(self, page: AgentsPage) -> None:
        self._page = page
        self._shown: str | None = None
        self._mandate: Polled[Mandate] | None = None
        self._payments: Polled[PaymentPage] | None = None
        self.element = ui.element("aside").classes("card panel")
        self.element.props('aria-label="The chosen mandate"')
        with self.element:
            self._close = button("Close", self._leave, kind="small-button panel-close")
            self._terms = html("")
            self._no_payments = html("")
            self._rows: Rows[TextRow] = Rows(ui.element("div").classes("history"))

    async def refresh(self, mandate_id: str | None) -> str | None:
        """
        Show a mandate; returns what is wrong now.
        """
        if mandate_id != self._shown:
            self._turn_to(mandate_id)
        self.element.classes(add="is-open") if mandate_id else self.element.classes(
            remove="is-open"
        )
        self._close.set_visibility(mandate_id is not None)
        if mandate_id is None or self._mandate is None or self._payments is None:
            put(self._terms, render("mandate_none.html"))
            return None
        asked_mandate, asked_payments = self._mandate, self._payments
        mandate, payments = await asked_mandate.read(), await asked_payments.read()
        names: Mapping[str, str] = {}  # of payees, by id
        if mandate.answer is not None:
            feed = self._page.desk.agents_of(self._page.session)
            names = await feed.names_of((mandate.answer.terms.payees or ())[:NAMES_MAX])
        if mandate_id != self._shown:
            return None  # another was chosen while the hub answered
        self._show_mandate(mandate, names)
        if payments.answer is not None:
            self._show_payments(payments.answer)
        return payments.notice if mandate.notice is None else None

    def _turn_to(self, mandate_id: str | None) -> None:
        self._shown = mandate_id
        self._mandate = self._payments = None
        self._rows.keep(())
        for each in (self._terms, self._no_payments):
            put(each, "")
        if mandate_id is None:
            return
        feed = self._page.desk.agents_of(self._page.session)
        clock = self._page.desk.clock
        self._mandate = Polled(
            lambda: feed.mandate(mandate_id), clock, fresh_for_s=MANDATE_FRESH_FOR_S
        )
        self._payments = Polled(
            lambda: feed.payments(mandate_id), clock, fresh_for_s=PAYMENTS_FRESH_FOR_S
        )

    def _show_mandate(self, look: Look[Mandate], names: Mapping[str, str]) -> None:
        mandate = look.answer
        if mandate is None:
            put(self._terms, render("mandate_missing.html", text=look.notice or ""))
            return
        sentences = terms_in_words(mandate.terms, names)
        put(self._terms, render("mandate.html", mandate=mandate, sentences=sentences))

    def _show_payments(self, page: PaymentPage) -> None:
        empty = "" if page.items else render("payments_none.html")
        put(self._no_payments, empty)
        self._rows.keep([payment.payment_id for payment in page.items])
        for index, payment in enumerate(page.items):
            row = self._rows.at(index, payment.payment_id, lambda: TextRow("details", "decided"))
            row.show(render("payment_row.html", payment=payment))

    async def _leave(self) -> None:
        await self._page.choose(None)
