"""
The live page: what flows through the hub right now. NiceGUI keeps it up to date.

The server decides everything; the browser is told what changed. The one script of our own
says whether the reader's system is dark and the window narrow: charts are drawn, not styled.
"""

from __future__ import annotations

import contextlib
from typing import Final, cast

from nicegui import ui
from starlette.requests import Request

from tokenworks.foundation.errors import TokenworksError
from tokenworks.web.console.charts import Options, rate_options, receivers, sankey_options
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.feed import WINDOW_S_DEFAULT, WINDOWS_S, Snapshot
from tokenworks.web.console.frame import FAVICON, ConsolePage, html, put
from tokenworks.web.console.model import Call
from tokenworks.web.console.pages import render
from tokenworks.web.console.rates import HISTORY_S

WINDOW_NAMES: Final = {60: "1 min", 300: "5 min", 3_600: "1 hour"}
KIND_NAMES: Final = {
    "buyer": "buyer",
    "sale": "sale",
    "service": "model@tier",
    "tax": "tax",
    "reseller": "reseller",
    "rights": "rights holder",
    "platform": "platform",
    "supplier": "supplier",
    "power": "power producer",
}

LOOK_TIMEOUT_S: Final = 5.0
_IS_DARK: Final = "(prefers-color-scheme: dark)"
_IS_NARROW: Final = "(max-width: 720px)"
_LOOK: Final = f'[matchMedia("{_IS_DARK}").matches, matchMedia("{_IS_NARROW}").matches]'
_WATCH: Final = f"""
emitEvent("look", {_LOOK});
for (const query of ["{_IS_DARK}", "{_IS_NARROW}"])
  matchMedia(query).addEventListener("change", () => emitEvent("look", {_LOOK}));
"""


def add_live_page(desk: Desk) -> None:
    """
    Add the page at ``/``.
    """

    @ui.page("/", title="Live · Tokenworks", favicon=FAVICON)
    async def live(request: Request) -> None:
        await LivePage(desk, request, title="Live").open()


class LivePage(ConsolePage):
    """
    What flows through the hub, for one reader.
    """

    def __init__(self, desk: Desk, request: Request, *, title: str) -> None:
        super().__init__(desk, request, title=title)
        self._is_dark = bool(self.theme.is_dark)
        self._is_narrow = False
        self._window_s = WINDOW_S_DEFAULT
        self._rows: dict[str, ui.html] = {}
        self._drawn_flow: object = None
        self._model = "MODEL"

    # ------------------------------------------------------------------ building

    def build_content(self) -> None:
        """
        Lay out the page; figures come when the browser is there.
        """
        self._figures = html("").classes("card figures")
        self._build_flow()
        self._build_rates()
        self._build_calls()

    def _build_flow(self) -> None:
        title = "Where your earnings come from" if self._is_supplier else "Where the money goes"
        with ui.element("section").classes("card").props('aria-labelledby="flow-title"'):
            with ui.element("div").classes("card-head"):
                html(title, tag="h2").props('id="flow-title"')
                with ui.element("div").classes("segments").props('role="group" aria-label="Span"'):
                    self._segments = {each: self._segment(each) for each in WINDOWS_S}
            self._flow = ui.element("div").classes("flow is-empty")
            with self._flow:
                self._picture = ui.element("div").classes("flow-picture").props('role="img"')
                self._picture.set_visibility(False)
                self._receivers = html('<div class="loading"></div><div class="loading"></div>')

    def _segment(self, window_s: int) -> ui.html:
        button = html(WINDOW_NAMES[window_s], tag="button")
        button.props(f'type="button" aria-pressed="{_flag(window_s == self._window_s)}"')

        async def choose() -> None:
            await self._choose(window_s)

        return button.on("click", choose)

    def _build_rates(self) -> None:
        value = "Earned per second" if self._is_supplier else "Charge per second"
        with ui.element("div").classes("pair"):
            self._rate_cards: list[ui.element] = []
            for title in ("Tokens per second", value):
                with ui.element("section").classes("card") as card:
                    html(f'{title} <span class="muted small">last 5 minutes</span>', tag="h2")
                    self._rate_cards.append(card)

    def _build_calls(self) -> None:
        with ui.element("section").classes("card").props('aria-labelledby="calls-title"'):
            html("Last calls", tag="h2").props('id="calls-title"')
            self._no_calls = html('<div class="loading"></div><div class="loading"></div>')
            self._call_table = ui.element("div").classes("scroll")
            with self._call_table, ui.element("table").classes("calls"):
                html(render("call_head.html", reader=self.session.reader), tag="thead")
                self._call_rows = ui.element("tbody")
            self._call_table.set_visibility(False)

    # ------------------------------------------------------------------ living

    async def start(self) -> None:
        """
        Learn the browser's look and draw the charts first.
        """
        # A browser on a slow line has its figures all the same; it tells its look when it can.
        with contextlib.suppress(TimeoutError):
            look = cast("object", await ui.run_javascript(_LOOK, timeout=LOOK_TIMEOUT_S))
            self._take_look(look)
        ui.on("look", lambda event: self._take_look(event.args))
        ui.run_javascript(_WATCH)
        with self._picture:
            self._sankey = ui.echart({"series": []}).classes("sankey")
        self._curves: list[ui.echart] = []
        for card in self._rate_cards:
            with card:
                self._curves.append(ui.echart({"series": []}).classes("chart"))
        await super().start()

    async def refresh(self) -> str | None:
        """
        Show what the hub says now.
        """
        window_s = self._window_s
        now = await self.desk.feed_of(self.session).read(window_s)
        if now.is_loaded and not now.last_calls and not self._rows:
            await self._learn_model()
        if window_s == self._window_s:  # or another was chosen while the hub answered
            self._show(now)
        return now.notice

    async def _choose(self, window_s: int) -> None:
        self._window_s = window_s
        for each, button in self._segments.items():
            button.props(f'aria-pressed="{_flag(each == window_s)}"')
        await self.tick()

    def _take_look(self, look: object) -> None:
        match look:
            case [bool(is_system_dark), bool(is_narrow)]:
                chosen = self.theme.is_dark
                self._is_dark = is_system_dark if chosen is None else chosen
                self._is_narrow = is_narrow
                self._drawn_flow = None
            case _:
                pass  # not what our script says: the charts keep their look

    async def _learn_model(self) -> None:
        if self._model != "MODEL":
            return
        try:
            price = await self.desk.hub.first_price(self.session.key)
        except TokenworksError:
            return  # the line to try then says MODEL
        if price is not None:
            self._model = f"{price.model}@{price.tier}"

    # ------------------------------------------------------------------ showing

    def _show(self, now: Snapshot) -> None:
        for card in (self._figures, self._flow, self._call_table):
            card.classes(add="is-stale") if now.notice else card.classes(remove="is-stale")
        if not now.is_loaded:
            return
        put(self._figures, render("figures.html", now=now, reader=self.session.reader))
        self._show_flow(now)
        self._show_rates(now)
        self._show_calls(now.last_calls)

    def _show_flow(self, now: Snapshot) -> None:
        window = now.window
        drawn = (window.nodes, window.links, self._is_dark, window.window_s, window.is_cut)
        if drawn == self._drawn_flow:
            return
        self._drawn_flow = drawn
        is_empty = not window.links
        if is_empty:
            self._flow.classes(add="is-empty")
            put(self._receivers, render("no_flow.html", window_s=window.window_s))
        else:
            self._flow.classes(remove="is-empty")
            facts = {
                "rows": receivers(window.nodes, window.links),
                "kinds": KIND_NAMES,
                "currency": now.currency,
                "window_s": window.window_s,
                "is_cut": window.is_cut,
            }
            put(self._receivers, render("receivers.html", **facts))
        self._picture.set_visibility(not is_empty)
        options = sankey_options(
            window.nodes,
            window.links,
            currency=now.currency,
            is_dark=self._is_dark,
            is_narrow=self._is_narrow,
        )
        _draw(self._sankey, options)

    def _show_rates(self, now: Snapshot) -> None:
        span_ms = ((now.now_s - HISTORY_S) * 1_000, now.now_s * 1_000)
        tokens = [(point.at_s * 1_000, point.tokens_per_s) for point in now.history]
        value = [(point.at_s * 1_000, point.value_per_s) for point in now.history]
        for curve, points, name, unit in (
            (self._curves[0], tokens, "kind_buyer", "tokens/s"),
            (self._curves[1], value, "kind_sale", f"{now.currency}/s"),
        ):
            options = rate_options(
                points, colour_name=name, span_ms=span_ms, unit=unit, is_dark=self._is_dark
            )
            _draw(curve, options)

    def _show_calls(self, calls: tuple[Call, ...]) -> None:
        self._call_table.set_visibility(bool(calls))
        self._no_calls.set_visibility(not calls)
        if not calls:
            facts = {"hub_url": self.desk.hub.url, "model": self._model}
            put(self._no_calls, render("no_calls.html", reader=self.session.reader, **facts))
        for call_id in self._rows.keys() - {call.call_id for call in calls}:
            self._rows.pop(call_id).delete()
        # Rows keep their identity, so that a click or the focus is never lost to an update.
        for index, call in enumerate(calls):
            content = render("call_row.html", call=call, reader=self.session.reader)
            row = self._rows.get(call.call_id)
            if row is None:
                with self._call_rows:
                    row = html(content, tag="tr")
                self._rows[call.call_id] = row
            put(row, content)
            if self._call_rows.default_slot.children.index(row) != index:
                row.move(target_index=index)

    @property
    def _is_supplier(self) -> bool:
        return self.session.reader.is_supplier


def _draw(chart: ui.echart, options: Options) -> None:
    shown = cast("Options", chart.options)  # pyright: ignore[reportUnknownMemberType] - a bare dict
    shown.clear()
    shown.update(options)
    chart.update()


def _flag(is_set: bool) -> str:
    return "true" if is_set else "false"
