"""
The console as people meet it: a real process, a real Chromium, a small hub behind.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.console.conftest import Console, Visitors, number_of, read
from tests.console.fake_hub import (
    ADMIN_KEY,
    BUYER_KEY,
    SUPPLIER_KEY,
    FakeHub,
)
from tests.console.fake_hub_door import Server

pytestmark = [pytest.mark.console, pytest.mark.timeout(120)]

WRONG_KEY = "tw_wrong" + "W" * 38

# --------------------------------------------------------------------------- the login


def test_bad_key_is_refused_with_a_sentence(console: Console, visitors: Visitors) -> None:
    """
    A key the hub does not know leads back to the form; the form does not repeat the key.
    """
    visitor = visitors.open(console)
    visitor.log_in(WRONG_KEY)

    visitor.says("[role=alert]", "not valid")
    assert WRONG_KEY not in read(visitor.page.content, until=lambda page: "not valid" in page)
    visitor.keep("login-refused")
    visitor.mistakes.clear()  # Chromium logs every answer of 401


@pytest.mark.parametrize(
    "path",
    ["/", "/calls/019c0000-0000-7000-8000-000000000001", "/nothing", "/_nicegui/x/static/a.js"],
)
def test_nothing_is_shown_without_login(console: Console, path: str) -> None:
    """
    Every page and file asks for a session first; pages lead to the login.
    """
    answer = httpx.get(console.url + path, headers={"accept": "text/html"})
    asked_by_script = httpx.get(console.url + path, headers={"accept": "*/*;q=0"})

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    assert asked_by_script.status_code == 401


def test_socket_without_session_is_refused(console: Console) -> None:
    """
    A socket without a session is never connected to a page; it is told to load the page again.
    """
    path = f"{console.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling&client_id=anything"
    opened = json.loads(httpx.get(path).text[1:])
    session = f"{path}&sid={opened['sid']}"

    httpx.post(session, content="40")

    assert "Implicit handshake failed" in httpx.get(session).text


def test_guessing_keys_is_slowed_down(own_console: Console) -> None:
    """
    The sixth failed login of an address within a minute is not even asked of the hub.
    """
    answers = [
        httpx.post(own_console.url + "/login", data={"key": WRONG_KEY}).status_code
        for _ in range(7)
    ]
    right = httpx.post(own_console.url + "/login", data={"key": ADMIN_KEY})

    assert answers == [401] * 5 + [429] * 2
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) > 0


def test_key_is_exchanged_for_a_strict_cookie(console: Console, visitors: Visitors) -> None:
    """
    The key stays in the console's memory: no cookie, page, storage, file or log has it.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    cookies = visitor.context.cookies()
    session = next(each for each in cookies if each.get("name") == "tokenworks_session")
    stored = visitor.stored()
    page = read(visitor.page.content, until=lambda page: "figure-value" in page)
    texts = [page, stored, json.dumps(cookies), console.log]

    assert session.get("httpOnly") is True
    assert session.get("sameSite") == "Strict"
    assert all(ADMIN_KEY not in text for text in texts)
    assert {path.name for path in console.folder.rglob("*")} == {"console.log"}


def test_requests_of_other_sites_are_refused(console: Console) -> None:
    """
    A form or socket that another site's page sends is refused before anything is read.
    """
    foreign = {"origin": "https://elsewhere.example"}

    login = httpx.post(console.url + "/login", data={"key": ADMIN_KEY}, headers=foreign)
    socket = httpx.post(console.url + "/_nicegui_ws/socket.io/?EIO=4", headers=foreign)

    assert (login.status_code, socket.status_code) == (403, 403)


def test_logout_ends_the_session_in_every_tab(console: Console, visitors: Visitors) -> None:
    """
    After a logout the cookie is worth nothing, and another open tab leaves by itself.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    cookie = visitor.context.cookies()[0]
    other = visitor.context.new_page()
    other.goto(console.url)
    other.wait_for_selector(".figure-value")

    other.get_by_role("button", name="Log out").click()

    expect(other.locator("[role=alert]")).to_contain_text("logged out")
    visitor.page.wait_for_url("**/login**")
    value = cookie.get("value") or ""
    again = httpx.get(console.url, cookies={"tokenworks_session": value})
    assert again.status_code == 401


def test_login_leads_to_the_page_that_was_asked_for(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    A link to a call survives the login; a link to elsewhere does not.
    """
    call_id = hub.sell()
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, f"/calls/{call_id}")
    expect(visitor.page).to_have_url(re.compile(f"/calls/{call_id}$"))
    visitor.page.wait_for_selector(".receipt-top")
    elsewhere = httpx.post(
        console.url + "/login", data={"key": ADMIN_KEY, "next": "//elsewhere.example/"}
    )

    assert elsewhere.headers["location"] == "/"


# --------------------------------------------------------------------------- the live page


def test_live_page_shows_figures_and_the_flow(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    An operator sees rates, the books' state, the value chain drawn, and the last calls.
    """
    hub.sell_history()
    hub.sell(ago_s=1.0)
    visitor = visitors.open(console, height=1230)
    visitor.see_live_page(ADMIN_KEY)

    rate = visitor.page.locator("[data-figure=tokens] .figure-value")

    def rate_while_it_sells() -> Decimal:
        hub.sell()
        return number_of(rate.inner_text())

    read(rate_while_it_sells, until=lambda tokens_per_s: tokens_per_s > 0)
    visitor.rest(".sankey canvas", ink=0.1)
    visitor.rest(".chart canvas >> nth=0", ink=0.01)
    visitor.says("[data-figure=books]", "balance")
    expect(visitor.page.locator(".calls tbody tr")).to_have_count(20)
    everybody = ("acme", "tax", "globe-resale", "authors-guild", "riverside", "hydro-north")
    visitor.says(".receivers", *everybody)
    visitor.keep("live-light")
    visitor.keep("console", full_page=False)


def test_new_call_appears_without_reload(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    A call shows up within seconds on the page that is already open, and so does its end.
    """
    hub.sell(ago_s=5)
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    visitor.mark()
    rows = visitor.page.locator(".calls tbody tr")
    expect(rows).to_have_count(1)

    call_id = hub.sell(status="open", model="fresh-model")
    row = rows.filter(has_text="fresh-model")
    row.get_by_text("open").wait_for()
    hub.sales[call_id].call.update(status="settled", charge="0.004", duration_ms=800.0)
    row.get_by_text("settled").wait_for()

    expect(rows).to_have_count(2)
    visitor.says(row, "0.004")
    assert visitor.is_marked


def test_window_can_be_chosen(console: Console, hub: FakeHub, visitors: Visitors) -> None:
    """
    What flowed is shown for the last minute, five minutes or hour.
    """
    hub.sell(ago_s=1_800, buyer="longago")
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    visitor.page.get_by_text("No money moved in the last 5 minutes.").wait_for()

    visitor.page.get_by_role("button", name="1 hour").click()

    visitor.page.locator(".receivers", has_text="longago").wait_for()
    expect(visitor.page.locator("[aria-pressed=true]")).to_have_text("1 hour")


def test_empty_hub_says_what_to_try(console: Console, visitors: Visitors) -> None:
    """
    Without calls the page shows the line that makes the first one.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)

    visitor.says(".try", "/v1/chat/completions", "smollm2@standard")
    visitor.keep("live-empty")


def test_hub_that_goes_away_is_a_banner_until_it_is_back(
    console: Console, hub: FakeHub, server: Server, visitors: Visitors
) -> None:
    """
    The last answer stays with a notice; when the hub is back the notice goes by itself.
    """
    hub.sell_history()
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    banner = visitor.page.locator(".banner .notice")
    expect(visitor.page.locator(".calls tbody tr")).to_have_count(20)

    with server.stopped():
        expect(banner).to_contain_text("does not answer")
        expect(visitor.page.locator(".calls tbody tr")).to_have_count(20)
        visitor.keep("live-hub-away", full_page=False)
    banner.wait_for(state="detached")

    hub.is_strange = True
    expect(banner).to_contain_text("as a Tokenworks hub does")


def test_login_and_receipt_say_that_the_hub_is_away(own_console: Console, server: Server) -> None:
    """
    Plain pages turn an absent hub into a sentence and a 503, never a stack trace.
    """
    logged_in = httpx.post(own_console.url + "/login", data={"key": ADMIN_KEY})
    cookies = {"tokenworks_session": logged_in.cookies["tokenworks_session"]}
    path = "/calls/019c0000-0000-7000-8000-000000000001"

    with server.stopped():
        login = httpx.post(own_console.url + "/login", data={"key": ADMIN_KEY})
        page = httpx.get(own_console.url + path, cookies=cookies)

    assert (login.status_code, page.status_code) == (503, 503)
    assert all("does not answer" in answer.text for answer in (login, page))
    assert all("Traceback" not in answer.text for answer in (login, page))


def test_revoked_key_leads_back_to_the_login(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    When the hub no longer accepts the key, the open page leaves and says why.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)

    hub.revoked.add(ADMIN_KEY)

    visitor.page.wait_for_url("**/login**")
    expect(visitor.page.locator("[role=alert]")).to_contain_text("no longer accepts this key")


def test_restart_of_the_console_ends_at_the_login(own_console: Console, visitors: Visitors) -> None:
    """
    Sessions are in memory only: after a restart an open page finds its way to the login.
    """
    visitor = visitors.open(own_console)
    visitor.see_live_page(ADMIN_KEY)

    own_console.stop()
    own_console.start()

    visitor.page.wait_for_url("**/login**", timeout=30_000)
    visitor.mistakes.clear()  # the browser logs the lost connection


def test_texts_of_the_hub_are_never_markup(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    A model may have any name; it is shown as it is and does nothing.
    """
    nasty = "<img src=x onerror=alert(1)>{{7*7}}{b|x}"
    call_id = hub.sell(model=nasty, ago_s=1)
    visitor = visitors.open(console)
    visitor.page.on("dialog", lambda _: visitor.mistakes.append("a script ran"))
    visitor.see_live_page(BUYER_KEY)

    expect(visitor.page.locator(".calls .model").first).to_have_text(nasty)
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    expect(visitor.page.locator("h1")).to_contain_text(nasty)


# --------------------------------------------------------------------------- roles


def test_buyer_sees_its_own_calls_and_money_only(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    A buyer's pages need no admin's endpoint, name no supplier and show no other buyer.
    """
    hub.sell_history()
    call_id = hub.sell(buyer="acme", ago_s=1)
    visitor = visitors.open(console)
    visitor.see_live_page(BUYER_KEY)
    visitor.rest(".sankey canvas", ink=0.1)
    live = visitor.says("main", "82.4173", "Last calls", "acme")
    visitor.keep("live-buyer")
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    expect(visitor.page.locator("#balanced")).to_have_text("debits = credits")
    receipt = visitor.says("main", call_id)
    visitor.keep("receipt-buyer")

    for hidden in ("northwind", "riverside", "hillcrest", "hydro-north", "revenue"):
        assert hidden not in live + receipt
    asked = {path for path, key in hub.requests if key == BUYER_KEY}
    assert not any("/flow" in path or "/ledger" in path for path in asked)


def test_supplier_sees_what_it_earned(console: Console, hub: FakeHub, visitors: Visitors) -> None:
    """
    A supplier's pages show payables instead of charges, and what is owed.
    """
    hub.sell_history()
    call_id = hub.sell(ago_s=1)
    visitor = visitors.open(console)
    visitor.see_live_page(SUPPLIER_KEY)
    expect(visitor.page.locator(".calls tbody tr")).to_have_count(20)
    live = visitor.says("main", "Owed to you", "10.25")
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    visitor.says(".facts", "Earned")
    receipt = visitor.says("main", call_id)

    assert "acme" not in live + receipt


# --------------------------------------------------------------------------- the receipt


def test_receipt_shows_legs_whose_sums_agree(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Every group's debits equal its credits on the page, and the lines add up to the charge.
    """
    call_id = hub.sell(ago_s=3)
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    visitor.follow(visitor.page.locator(".calls tbody tr").first)

    groups = ("sale", "purchase", "safeguarding", "limits")
    expect(visitor.page.locator(".journal tbody[data-group]")).to_have_count(len(groups))
    for group in groups:
        body = f".journal tbody[data-group={group}]"
        debits = visitor.numbers(f"{body} tr:not(.sum):not(.group) .debit")
        credits_ = visitor.numbers(f"{body} tr:not(.sum):not(.group) .credit")
        sums = visitor.numbers(f"{body} tr.sum td.right")
        assert sum(debits) == sum(credits_) > 0
        assert sum(sums) == 2 * sum(debits)
    expect(visitor.page.locator("#balanced")).to_have_text("debits = credits")
    amounts = visitor.numbers(".bill tbody td:last-child")
    charge = visitor.numbers("#charge")[0]
    assert sum(amounts) == charge == Decimal(hub.sales[call_id].call["charge"])
    visitor.says(".receipt-top", "signature holds", call_id)
    visitor.keep("receipt-light")


def test_receipt_can_be_downloaded_and_read_raw(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    The file is what the hub signed, byte for byte as JSON; the page can show it, too.
    """
    call_id = hub.sell()
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, f"/calls/{call_id}")
    with visitor.page.expect_download() as found:
        visitor.page.get_by_text("Download").click()
    saved = json.loads(Path(found.value.path()).read_text())
    visitor.page.get_by_text("Raw receipt").click()

    assert found.value.suggested_filename == f"receipt-{call_id}.json"
    assert saved == hub.receipt(hub.sales[call_id], is_admin=True)
    assert json.loads(visitor.says(".raw", "}")) == saved


def test_wrong_signature_is_said_loudly(console: Console, hub: FakeHub, visitors: Visitors) -> None:
    """
    A receipt whose signature does not hold is never shown as if it did.
    """
    hub.is_seal_broken = True
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, f"/calls/{hub.sell()}")

    expect(visitor.page.locator(".receipt-top .seal")).to_have_text("signature does not hold")


@pytest.mark.parametrize("status", ["refused", "failed", "open"])
def test_call_without_receipt_has_a_page(
    console: Console, hub: FakeHub, visitors: Visitors, status: str
) -> None:
    """
    A call that sold nothing, or not yet, says so.
    """
    call_id = hub.sell(status=status)
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, f"/calls/{call_id}")
    text = visitor.says("main", status, call_id, "eceipt")

    assert ("signed when the answer ends" in text) == (status == "open")
    assert ("nothing was sold" in text) == (status != "open")


def test_unknown_call_and_page_are_sentences(console: Console, visitors: Visitors) -> None:
    """
    What is not there answers 404 in the console's own look.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    for path in ("/calls/019c0000-0000-7000-8000-00000000dead", "/calls/nonsense", "/nothing"):
        answer = visitor.page.goto(console.url + path)
        assert answer is not None
        assert answer.status == 404
        expect(visitor.page.locator("h1")).to_contain_text("No such")
    visitor.mistakes.clear()  # Chromium logs every answer of 404


# --------------------------------------------------------------------------- the look


def test_dark_follows_the_system_and_the_button(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Colours follow the system until the reader chooses; the choice is kept.
    """
    hub.sell_history()
    hub.sell(ago_s=1)
    visitor = visitors.open(console, scheme="dark")
    visitor.see_live_page(ADMIN_KEY)
    visitor.rest(".sankey canvas", ink=0.1)
    visitor.ground(until=is_dark)
    visitor.keep("live-dark")

    visitor.follow(visitor.page.get_by_role("button", name="Colours"))
    visitor.ground(until=is_light)
    visitor.page.reload()
    visitor.ground(until=is_light)
    visitor.follow(visitor.page.get_by_role("button", name="Colours"))
    visitor.page.goto(f"{console.url}/calls/{hub.sell()}")
    visitor.ground(until=is_dark)
    visitor.keep("receipt-dark")


def is_dark(ground: float) -> bool:
    """
    Tell whether a background is one of the dark colours.
    """
    return ground < 60


def is_light(ground: float) -> bool:
    """
    Tell whether a background is one of the light colours.
    """
    return ground > 200


def test_narrow_screen_needs_no_sideways_scrolling(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    At 390 px everything fits, the journal too.
    """
    hub.sell_history()
    call_id = hub.sell(ago_s=1)
    visitor = visitors.open(console, width=390, height=844)
    visitor.see_live_page(ADMIN_KEY)
    visitor.rest(".sankey canvas", ink=0.1)
    visitor.needs_width(390)
    visitor.keep("live-narrow")
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    visitor.needs_width(390)
    tables = visitor.page.locator(".scroll")
    too_wide = "(all) => all.map((box) => box.scrollWidth - box.clientWidth)"
    wider = read(lambda: tables.evaluate_all(too_wide), until=bool)
    assert max(wider) <= 1
    visitor.keep("receipt-narrow")
