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

from tests.console.conftest import Console, Visitor, Visitors
from tests.console.fake_hub import (
    ADMIN_KEY,
    BUYER_KEY,
    SUPPLIER_KEY,
    FakeHub,
)
from tests.console.fake_hub_door import Server

pytestmark = [pytest.mark.console, pytest.mark.timeout(120)]

WRONG_KEY = "tw_wrong" + "W" * 38
INK_OF_CANVAS = """
(canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let index = 3; index < pixels.length; index += 4) if (pixels[index] > 20) inked += 1;
  return inked / (pixels.length / 4);
}
"""


def number_of(text: str) -> Decimal:
    """
    Return the number in a cell's text; an empty cell is zero.
    """
    return Decimal(re.sub(r"[^0-9.\-]", "", text) or "0")


def table_numbers(visitor: Visitor, selector: str) -> list[Decimal]:
    """
    Return the numbers of all cells a selector finds.
    """
    return [number_of(text) for text in visitor.page.locator(selector).all_inner_texts()]


def wait_until_inked(visitor: Visitor, selector: str, *, share: float) -> None:
    """
    Wait for a chart to be drawn: so much of its canvas is not empty.
    """
    canvas = visitor.page.locator(selector)
    canvas.wait_for()
    for _ in range(50):
        if float(canvas.evaluate(INK_OF_CANVAS)) > share:
            return
        visitor.page.wait_for_timeout(100)
    pytest.fail(f"{selector} stays empty")


# --------------------------------------------------------------------------- the login


def test_bad_key_is_refused_with_a_sentence(console: Console, visitors: Visitors) -> None:
    """
    A key the hub does not know leads back to the form; the form does not repeat the key.
    """
    visitor = visitors.open(console)
    visitor.log_in(WRONG_KEY)

    assert "not valid" in visitor.page.locator("[role=alert]").inner_text()
    assert WRONG_KEY not in visitor.page.content()
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
    stored = visitor.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    texts = [visitor.page.content(), stored, json.dumps(cookies), console.log]

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

    assert "logged out" in other.locator("[role=alert]").inner_text()
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
    visitor.page.wait_for_selector(".receipt-top")
    elsewhere = httpx.post(
        console.url + "/login", data={"key": ADMIN_KEY, "next": "//elsewhere.example/"}
    )

    assert visitor.page.url.endswith(call_id)
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
    figures = visitor.page.locator(".figures")

    wait_until_inked(visitor, ".sankey canvas", share=0.1)
    wait_until_inked(visitor, ".chart canvas >> nth=0", share=0.01)

    assert number_of(figures.locator("[data-figure=tokens] .figure-value").inner_text()) > 0
    assert "balance" in figures.locator("[data-figure=books]").inner_text()
    assert visitor.page.locator(".calls tbody tr").count() == 20
    receivers = visitor.page.locator(".receivers").inner_text()
    for name in ("acme", "tax", "globe-resale", "authors-guild", "riverside", "hydro-north"):
        assert name in receivers
    visitor.page.wait_for_timeout(700)  # the picture has come to rest
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
    visitor.page.evaluate("window.sameDocument = true")
    before = visitor.page.locator(".calls tbody tr").count()

    call_id = hub.sell(status="open", model="fresh-model")
    row = visitor.page.locator(".calls tbody tr", has_text="fresh-model")
    row.get_by_text("open").wait_for()
    hub.sales[call_id].call.update(status="settled", charge="0.004", duration_ms=800.0)
    row.get_by_text("settled").wait_for()

    assert visitor.page.locator(".calls tbody tr").count() == before + 1
    assert "0.004" in row.inner_text()
    assert visitor.page.evaluate("window.sameDocument") is True


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
    assert visitor.page.locator("[aria-pressed=true]").inner_text() == "1 hour"


def test_empty_hub_says_what_to_try(console: Console, visitors: Visitors) -> None:
    """
    Without calls the page shows the line that makes the first one.
    """
    visitor = visitors.open(console)
    visitor.see_live_page(ADMIN_KEY)
    line = visitor.page.locator(".try")
    line.wait_for()

    assert "/v1/chat/completions" in line.inner_text()
    assert "smollm2@standard" in line.inner_text()
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

    with server.stopped():
        banner.wait_for()
        assert "does not answer" in banner.inner_text()
        assert visitor.page.locator(".calls tbody tr").count() == 20
        visitor.keep("live-hub-away", full_page=False)
    banner.wait_for(state="detached")

    hub.is_strange = True
    banner.wait_for()
    assert "as a Tokenworks hub does" in banner.inner_text()


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
    assert "no longer accepts this key" in visitor.page.locator("[role=alert]").inner_text()


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

    cell = visitor.page.locator(".calls .model").first
    cell.wait_for()
    assert cell.inner_text() == nasty
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    assert nasty in visitor.page.locator("h1").inner_text()


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
    wait_until_inked(visitor, ".sankey canvas", share=0.1)
    live = visitor.page.locator("main").inner_text()
    visitor.keep("live-buyer")
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    receipt = visitor.page.locator("main").inner_text()
    visitor.keep("receipt-buyer")

    assert "82.4173" in live
    for hidden in ("northwind", "riverside", "hillcrest", "hydro-north", "revenue"):
        assert hidden not in live + receipt
    asked = {path for path, key in hub.requests if key == BUYER_KEY}
    assert not any("/flow" in path or "/ledger" in path for path in asked)
    assert visitor.page.locator("#balanced").inner_text() == "debits = credits"


def test_supplier_sees_what_it_earned(console: Console, hub: FakeHub, visitors: Visitors) -> None:
    """
    A supplier's pages show payables instead of charges, and what is owed.
    """
    hub.sell_history()
    call_id = hub.sell(ago_s=1)
    visitor = visitors.open(console)
    visitor.see_live_page(SUPPLIER_KEY)
    live = visitor.page.locator("main").inner_text()
    visitor.page.goto(f"{console.url}/calls/{call_id}")

    assert "Owed to you" in live
    assert "10.25" in live
    assert "acme" not in live + visitor.page.locator("main").inner_text()
    assert "Earned" in visitor.page.locator(".facts").inner_text()


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
    visitor.page.locator(".calls tbody tr").first.click()
    visitor.page.wait_for_selector(".receipt-top")

    groups = visitor.page.locator(".journal tbody").evaluate_all(
        "(bodies) => bodies.map((body) => body.dataset.group)"
    )
    assert groups == ["sale", "purchase", "safeguarding", "limits"]
    for group in groups:
        body = f".journal tbody[data-group={group}]"
        debits = table_numbers(visitor, f"{body} tr:not(.sum):not(.group) .debit")
        credits_ = table_numbers(visitor, f"{body} tr:not(.sum):not(.group) .credit")
        sums = table_numbers(visitor, f"{body} tr.sum td.right")
        assert sum(debits) == sum(credits_) > 0
        assert sum(sums) == 2 * sum(debits)
    assert visitor.page.locator("#balanced").inner_text() == "debits = credits"
    amounts = table_numbers(visitor, ".bill tbody td:last-child")
    charge = table_numbers(visitor, "#charge")[0]
    assert sum(amounts) == charge == Decimal(hub.sales[call_id].call["charge"])
    top = visitor.page.locator(".receipt-top").inner_text()
    assert "signature holds" in top
    assert call_id in top
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
    assert json.loads(visitor.page.locator(".raw").inner_text()) == saved


def test_wrong_signature_is_said_loudly(console: Console, hub: FakeHub, visitors: Visitors) -> None:
    """
    A receipt whose signature does not hold is never shown as if it did.
    """
    hub.is_seal_broken = True
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, f"/calls/{hub.sell()}")

    top = visitor.page.locator(".receipt-top .seal")
    top.wait_for()
    assert top.inner_text() == "signature does not hold"


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
    visitor.page.wait_for_selector(".receipt-top")
    text = visitor.page.locator("main").inner_text()

    assert status in text
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
        assert "No such" in visitor.page.locator("h1").inner_text()
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
    wait_until_inked(visitor, ".sankey canvas", share=0.1)
    visitor.page.wait_for_timeout(700)  # the picture has come to rest
    assert ground(visitor) < 60
    visitor.keep("live-dark")

    visitor.page.get_by_role("button", name="Colours").click()
    visitor.page.wait_for_selector(".figure-value")
    assert ground(visitor) > 200
    visitor.page.reload()
    assert ground(visitor) > 200
    visitor.page.get_by_role("button", name="Colours").click()
    visitor.page.goto(f"{console.url}/calls/{hub.sell()}")
    assert ground(visitor) < 60
    visitor.keep("receipt-dark")


def ground(visitor: Visitor) -> float:
    """
    Return how light the page's background is, from 0 to 255.
    """
    colour = str(visitor.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    parts = [float(part) for part in re.findall(r"[\d.]+", colour)][:3]
    return sum(parts) / 3 * (255 if colour.startswith("color(") else 1)


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
    wait_until_inked(visitor, ".sankey canvas", share=0.1)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == 390
    visitor.keep("live-narrow")
    visitor.page.goto(f"{console.url}/calls/{call_id}")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == 390
    for table in visitor.page.locator(".scroll").all():
        assert table.evaluate("(box) => box.scrollWidth - box.clientWidth") <= 1
    visitor.keep("receipt-narrow")
