"""
Agents, the inbox and escrows as people meet them: a real process, a real Chromium, a small hub.
"""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.console.conftest import Console, Visitor, Visitors
from tests.console.fake_agents import identifier
from tests.console.fake_hub import ADMIN_KEY, BUYER_KEY, SUPPLIER_KEY, FakeHub
from tests.console.fake_hub_door import Server

pytestmark = [pytest.mark.console, pytest.mark.timeout(120)]

SCOUT_MANDATE = identifier("mandate look things up")
NASTY = "<img src=x onerror=alert(1)>{{7*7}}"


@pytest.fixture
def agents(hub: FakeHub) -> FakeHub:
    """
    A hub with a small world of agents.
    """
    hub.agents.fill()
    return hub


def enter(visitors: Visitors, console: Console, path: str, *, key: str = ADMIN_KEY) -> Visitor:
    """
    Open a page in a new window.
    """
    visitor = visitors.open(console)
    visitor.log_in(key, path)
    visitor.page.wait_for_selector(".ways a[aria-current]")
    return visitor


# --------------------------------------------------------------------------- agents


def test_tree_shows_what_is_spent_held_and_left(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    Owners, teams, agents and mandates with their limits as bars, live without a reload.
    """
    visitor = enter(visitors, console, "/agents")
    tree = visitor.page.locator(".tree")
    row = tree.locator(".tree-row", has_text="look things up")

    expect(tree.locator(".tree-label")).to_have_text(
        [
            "acme",
            "research",
            "orchestrator",
            "research budget",
            "scout",
            "look things up",
            "writer",
            "one report",
        ]
    )
    expect(row.locator(".track").first).to_have_attribute(
        "aria-label", "a day: 4.8312 of 5 USD spent, 0.06 USD held, 0.1088 USD left"
    )
    visitor.says(row, "Last payment")
    visitor.says(tree.locator(".tree-row", has_text="one report"), "expired")

    agents.agents.mandates[SCOUT_MANDATE]["limits"][0].update(spent="4.9", remaining="0.04")
    row.get_by_text("0.04 of 5 USD left").wait_for()


def test_mandate_is_told_in_plain_words_with_its_payments(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    The panel says the terms as sentences, and why each payment was let through.
    """
    agents.agents.pay(
        SCOUT_MANDATE,
        "scout",
        "data.example",
        "0.07",
        ago_s=0,
        reasons=[
            {"rule": "loop", "action": "hold", "text": "The same request 30 times.", "figures": {}}
        ],
    )
    visitor = enter(visitors, console, "/agents")
    visitor.page.get_by_role("button", name="look things up").first.click()
    panel = visitor.page.locator(".panel")
    panel.get_by_text("At most 1.00 USD a day to each payee.").wait_for()
    payment = panel.locator("details", has_text="0.07")
    payment.locator("summary").first.click()

    visitor.says(panel, "data.example and maps.example only")
    visitor.says(payment, "The same request 30 times.")
    expect(visitor.page).to_have_url(re.compile(f"/agents/{SCOUT_MANDATE}$"))

    payment.get_by_text("Payment and receipt").click()
    visitor.says(".receipt-top", "0.07")
    visitor.page.get_by_role("link", name="Agents").last.click()
    panel.get_by_text("At most 1.00 USD a day to each payee.").wait_for()


def test_freeze_names_what_stops_and_can_be_thawed(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    The kill switch says what it stops before it does, and every row below shows it after.
    """
    visitor = enter(visitors, console, "/agents")
    visitor.page.get_by_role("button", name="Freeze research", exact=True).click()
    question = visitor.page.locator(".question")
    visitor.says(question, "2 agents", "orchestrator and scout", "2 mandates")

    question.get_by_role("button", name="Cancel").click()
    question.wait_for(state="detached")
    assert agents.agents.done == []

    visitor.page.get_by_role("button", name="Freeze research", exact=True).click()
    question.get_by_role("button", name="Freeze research").click()
    visitor.page.get_by_text("research is frozen: its next payment is refused.").wait_for()
    row = visitor.page.locator(".tree-row", has_text="look things up")
    row.get_by_text("stopped by research").wait_for()
    assert agents.agents.done[0][0] == f"/hub/v1/agents/{identifier('research')}/freeze"

    visitor.page.get_by_role("button", name="Thaw research").click()
    question.get_by_role("button", name="Thaw research").click()
    row.get_by_text("stopped by research").wait_for(state="detached")


def test_revoked_mandate_is_over_and_a_refusal_is_told(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    What the hub refuses is said in its words; revoking asks, and leaves nothing to press.
    """
    agents.agents.refusal = "The mandate belongs to somebody else."
    visitor = enter(visitors, console, "/agents")
    revoke = visitor.page.get_by_role("button", name="Revoke look things up")
    question = visitor.page.locator(".question")
    revoke.click()
    question.get_by_role("button", name="Revoke").click()
    expect(visitor.page.locator(".said .bad")).to_have_text(agents.agents.refusal)

    agents.agents.refusal = ""
    revoke.click()
    question.get_by_role("button", name="Revoke").click()
    row = visitor.page.locator(".tree-row", has_text="look things up")
    row.locator(".status-revoked").wait_for()
    expect(row.locator(".tree-buttons button:visible")).to_have_count(0)


def test_agent_is_found_by_name(console: Console, agents: FakeHub, visitors: Visitors) -> None:
    """
    Typing narrows the tree to what matches, in its place.
    """
    visitor = enter(visitors, console, "/agents")
    visitor.page.locator(".tree-row", has_text="one report").wait_for()
    visitor.page.get_by_role("searchbox").fill("look")
    visitor.page.locator(".tree-row", has_text="one report").wait_for(state="detached")

    expect(visitor.page.locator(".tree-label")).to_have_text(
        ["acme", "research", "scout", "look things up"]
    )
    visitor.page.get_by_role("searchbox").fill("nobody")
    visitor.page.get_by_text("Nothing matches").wait_for()


# --------------------------------------------------------------------------- the inbox


def test_held_payment_is_approved_with_the_keyboard_alone(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    The card says who, whom, how much, for what, why and how long; Enter twice approves.
    """
    review_id = agents.agents.hold("12.5", description="Quarterly report")
    visitor = enter(visitors, console, "/inbox")
    card = visitor.page.locator(".review")
    whom = ("12.50", "scout", "acme", "data.example", "Quarterly report", "1,340,000")
    why = "The first payment to this payee is 12.5 USD"
    visitor.says(card, *whom, why, str(agents.agents.reviews[review_id]["digest"]))
    expect(visitor.page.locator(".badge")).to_have_text("1 waiting")
    left = card.locator(".review-left")
    before = visitor.says(left, " left")
    assert re.fullmatch(r"1[45]:\d\d left", before)

    approve = card.get_by_role("button", name="Approve once")
    approve.focus()
    expect(left).not_to_have_text(before)
    visitor.page.keyboard.press("Enter")  # the focus survived the clock
    visitor.page.locator(".question").wait_for()
    visitor.page.keyboard.press("Enter")

    visitor.page.get_by_text("Nothing waits for you").wait_for()
    visitor.page.locator(".badge").wait_for(state="detached")
    assert agents.agents.reviews[review_id]["state"] == "approved"
    decided = visitor.page.locator(".history details", has_text="data.example")
    decided.locator("summary").click()
    decided.get_by_text("Approved by platform").wait_for()


def test_second_person_is_asked_for(console: Console, agents: FakeHub, visitors: Visitors) -> None:
    """
    A payment for two persons stays until the second has approved it.
    """
    agents.agents.hold("140", needed=2)
    visitor = enter(visitors, console, "/inbox")
    card = visitor.page.locator(".review")
    card.get_by_text("0 of 2").wait_for()
    card.get_by_role("button", name="Approve, and know the payee").click()
    question = visitor.page.locator(".question")
    question.get_by_text("approval 1 of 2").wait_for()
    question.get_by_role("button", name="Approve").click()

    card.get_by_text("1 of 2").wait_for()
    visitor.says(".said", "one more person")
    assert agents.agents.done[0][1]["scope"] == "payee"


def test_limit_is_raised_and_payment_is_denied_with_a_note(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    Raising names the limit and its new amount; a denial carries its reason and the digest.
    """
    agents.agents.hold("30", payee="studio", left_s=60)
    denied = agents.agents.hold("12", payee="data.example", left_s=900)
    visitor = enter(visitors, console, f"/inbox/{denied}", key=BUYER_KEY)
    first = visitor.page.locator(".review", has_text="studio")
    first.get_by_role("button", name="Approve, and raise the limit").click()
    question = visitor.page.locator(".question")
    question.locator("select").select_option("month")
    question.locator("#amount").fill("250")
    question.get_by_role("button", name="Approve").click()
    first.wait_for(state="detached")
    visitor.page.get_by_role("button", name="Deny").click()
    question.locator("textarea").fill("Nobody ordered this.")
    question.get_by_role("button", name="Deny").click()
    visitor.page.get_by_text("Denied: nothing is paid").wait_for()

    approval, denial = (said for _, said in agents.agents.done)
    assert approval["raise_limit"] == {"per": "month", "amount": "250"}
    digest = agents.agents.reviews[denied]["digest"]
    assert denial == {"digest": digest, "note": "Nobody ordered this."}


# --------------------------------------------------------------------------- escrows


def test_escrows_show_progress_and_verdicts(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    The list stands in groups; an escrow tells conditions, results, verdicts and deadlines.
    """
    visitor = enter(visitors, console, "/escrows")
    rows = visitor.page.locator(".escrow-row")
    rows.nth(2).wait_for()
    visitor.page.get_by_role("button", name="Disputed", exact=True).click()
    rows.nth(1).wait_for(state="detached")
    rows.first.click()
    panel = visitor.page.locator(".panel")
    panel.locator("summary", has_text="draft").click()
    panel.get_by_text('"words": 512').wait_for()

    visitor.says(
        panel,
        "result.status == 200",
        "The condition is not met: no_such_field",
        "Disputed by the payer",
        "Attested by ci",
        "Metered by the hub in 1 call: 12 input and 640 output tokens",
        "This key is no verifier",
        "After a met condition the payer may dispute for 10 minutes.",
        "The hub's operator decides disputes.",
        "Opened",
        '"words": 512',
    )


def test_operator_decides_a_dispute(console: Console, agents: FakeHub, visitors: Visitors) -> None:
    """
    The arbiter says how much of a milestone is due, and why.
    """
    escrow_id = identifier("escrow translate")
    visitor = enter(visitors, console, f"/escrows/{escrow_id}")
    visitor.page.get_by_role("button", name="Decide as arbiter").click()
    question = visitor.page.locator(".question")
    question.locator("#amount").fill("0.4")
    question.locator("#reason").fill("Half of the pages are missing.")
    question.get_by_role("button", name="Decide").click()
    visitor.page.get_by_text("draft is decided: 0.4 USD is due.").wait_for()

    path, said = agents.agents.done[0]
    assert path == f"/hub/v1/escrows/{escrow_id}/arbitrate"
    assert said == {
        "parts": [{"milestone": "draft", "amount": "0.4"}],
        "reason": "Half of the pages are missing.",
    }


# --------------------------------------------------------------------------- all pages


def test_empty_hub_says_so_on_every_page(console: Console, visitors: Visitors) -> None:
    """
    Without agents, reviews and escrows each page says what will show up here.
    """
    visitor = enter(visitors, console, "/agents")
    visitor.page.get_by_text("No agents yet").wait_for()
    visitor.page.get_by_role("link", name="Inbox").click()
    visitor.page.get_by_text("Nothing waits for you").wait_for()
    visitor.page.get_by_role("link", name="Escrows").click()
    visitor.page.get_by_text("No escrows yet").wait_for()


def test_hub_that_goes_away_keeps_the_last_answer(
    console: Console, agents: FakeHub, server: Server, visitors: Visitors
) -> None:
    """
    The tree stays with a notice, and a button pressed meanwhile says why nothing happened.
    """
    visitor = enter(visitors, console, "/agents")
    visitor.page.locator(".tree-row").nth(3).wait_for()
    with server.stopped():
        visitor.page.locator(".banner .warn").wait_for()
        expect(visitor.page.locator(".tree-row")).to_have_count(8)
        visitor.page.get_by_role("button", name="Freeze acme").click()
        visitor.page.locator(".question").get_by_role("button", name="Freeze acme").click()
        expect(visitor.page.locator(".said .bad")).to_contain_text("does not answer")
    visitor.page.locator(".banner .warn").wait_for(state="detached")


def test_key_that_may_not_see_agents_is_told_so(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    A refused page is a sentence; a supplier is not led there.
    """
    agents.forbidden.add("agents")
    visitor = enter(visitors, console, "/agents", key=BUYER_KEY)
    visitor.page.get_by_text("This key may not do this.").wait_for()
    supplier = visitors.open(console)
    supplier.see_live_page(SUPPLIER_KEY)

    expect(supplier.page.locator(".ways a")).to_have_text(["Live", "Factory", "Escrows"])
    assert not any("/reviews" in path for path, key in agents.requests if key == SUPPLIER_KEY)


def test_names_of_agents_are_never_markup(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Whatever agents, payees and reasons are called, they are text.
    """
    hub.agents.add_party(NASTY, "agent")
    hub.agents.add_mandate(NASTY, NASTY, limits=[("day", "1", "0", "0", "1")])
    reason = {"rule": NASTY, "action": "hold", "text": NASTY, "figures": {NASTY: NASTY}}
    hub.agents.hold("1", agent=NASTY, payee=NASTY, description=NASTY, reasons=[reason])
    visitor = enter(visitors, console, "/agents")
    visitor.page.on("dialog", lambda _: visitor.mistakes.append("a script ran"))
    expect(visitor.page.locator(".tree-label").first).to_have_text(NASTY)
    visitor.page.get_by_role("button", name="Freeze").first.click()
    visitor.says(".question", NASTY)
    visitor.page.goto(f"{console.url}/inbox")
    assert visitor.says(".review", NASTY).count(NASTY) >= 4


@pytest.mark.parametrize("path", ["/agents", "/inbox", "/escrows", f"/payments/{SCOUT_MANDATE}"])
def test_pages_need_a_login(console: Console, path: str) -> None:
    """
    Each page asks for a session, and comes back after it.
    """
    answer = httpx.get(console.url + path, headers={"accept": "text/html"})

    assert answer.status_code == 303
    assert answer.headers["location"] == f"/login?next={path}"


def test_pages_for_the_documents(console: Console, agents: FakeHub, visitors: Visitors) -> None:
    """
    The pictures of docs/console.md: each page as an operator sees it, with something in it.
    """
    agents.agents.hold("12.5", description="Quarterly report on hydro prices")
    visitor = visitors.open(console, height=860)
    visitor.log_in(ADMIN_KEY, f"/agents/{SCOUT_MANDATE}")
    visitor.page.locator(".panel .decided").first.wait_for()
    visitor.keep("console-agents", full_page=False)
    visitor.page.goto(f"{console.url}/inbox")
    visitor.page.locator(".review").wait_for()
    visitor.keep("console-inbox", full_page=False)
    visitor.page.goto(f"{console.url}/escrows/{identifier('escrow translate')}")
    visitor.page.locator(".panel summary", has_text="draft").click()
    visitor.page.get_by_text('"words": 512').wait_for()
    visitor.keep("console-escrows", full_page=False)


def test_pages_are_dark_and_narrow(console: Console, agents: FakeHub, visitors: Visitors) -> None:
    """
    At 420 px in the dark nothing scrolls sideways, and what was chosen lies over the list.
    """
    agents.agents.hold("140", needed=2)
    payment = agents.agents.pay(SCOUT_MANDATE, "scout", "data.example", "0.07")
    escrow_id = identifier("escrow translate")
    visitor = visitors.open(console, scheme="dark", width=420)
    visitor.log_in(ADMIN_KEY, f"/agents/{SCOUT_MANDATE}")
    for path, sign in (
        (f"/agents/{SCOUT_MANDATE}", ".panel.is-open .sentences"),
        ("/agents", ".tree-row"),
        ("/inbox", ".review"),
        (f"/escrows/{escrow_id}", ".panel.is-open .milestone"),
        (f"/payments/{payment}", ".receipt-top"),
    ):
        visitor.page.goto(console.url + path)
        visitor.page.locator(sign).first.wait_for()
        visitor.needs_width(420)
        visitor.ground(until=lambda ground: ground < 60)
    visitor.mistakes.clear()  # Chromium logs the receipt that is not there
