"""
What a page does when answers come late, in another order, or not at all.

Nothing here is left to chance: answers are held until the test lets them go.
"""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.console.conftest import Console, Visitor, Visitors, read
from tests.console.fake_agents import identifier
from tests.console.fake_hub import ADMIN_KEY, FakeHub

pytestmark = [pytest.mark.console, pytest.mark.timeout(120)]

SCOUT_MANDATE = identifier("mandate look things up")
OTHER_MANDATE = identifier("mandate research budget")
OTHER_MODEL = "gpt-oss-120b|mxfp4|gpqa"
THIRD_MODEL = "gemma-3-27b-it|bfloat16|lm-arena-chat"
HOLD_TEXTS = """
window.held = 0;
window.isHolding = false;
const text = Response.prototype.text;
Response.prototype.text = async function () {
  const all = await text.call(this);
  if (window.isHolding) window.held += 1;
  while (window.isHolding) await new Promise((done) => setTimeout(done, 5));
  return all;
};
"""
SLOW_LOOK = """
const match = window.matchMedia.bind(window);
window.matchMedia = (query) => {
  const until = Date.now() + 1500;
  while (query.includes("720px") && Date.now() < until);
  return match(query);
};
"""
NOTE_HEADINGS = """
{
  const panel = document.querySelector(".panel");
  window.headings = [];
  const note = () => window.headings.push(panel.querySelector("h2")?.textContent ?? "");
  new MutationObserver(note).observe(panel, {childList: true, subtree: true});
}
"""


@pytest.fixture
def agents(hub: FakeHub) -> FakeHub:
    """
    A hub with a small world of agents.
    """
    hub.agents.fill()
    return hub


def enter(visitors: Visitors, console: Console, path: str) -> Visitor:
    """
    Open a page as an admin.
    """
    visitor = visitors.open(console)
    visitor.log_in(ADMIN_KEY, path)
    return visitor


# --------------------------------------------------------------------------- the factory page


def test_answer_that_is_overtaken_while_it_is_read_changes_nothing(
    console: Console, visitors: Visitors
) -> None:
    """
    Headers of an answer came, its text not yet, and another model is chosen: the choice stays.
    """
    visitor = visitors.open(console)
    page = visitor.page
    page.add_init_script(HOLD_TEXTS)
    visitor.log_in(ADMIN_KEY, "/factory")
    visitor.do("window.isHolding = true")
    page.select_option("#family", OTHER_MODEL)
    read(lambda: page.evaluate("window.held"), until=bool)
    page.select_option("#family", THIRD_MODEL)
    visitor.do("window.isHolding = false")

    expect(page).to_have_url(re.compile("family=(gpt-oss|gemma)"))
    expect(page.locator("#family")).to_have_value(THIRD_MODEL)
    expect(page).to_have_url(re.compile("family=gemma"))


def test_choice_made_before_the_script_came_counts(console: Console, visitors: Visitors) -> None:
    """
    On a slow line the form is there before its script; what was chosen meanwhile is computed.
    """
    waiting: list[Route] = []
    visitor = visitors.open(console)
    page = visitor.page

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/console/factory.js", hold)
    page.goto(console.url + "/factory")
    page.fill("#key", ADMIN_KEY)
    with page.expect_navigation(wait_until="commit"):
        page.click("button.primary")
    page.select_option("#family", OTHER_MODEL)
    read(lambda: page.locator("#plan").count() + len(waiting), until=lambda found: found == 2)
    waiting[0].continue_()

    expect(page.locator("[data-part=economics] .source")).to_contain_text("One B200")
    expect(page.locator("#gpu option", has_text="H100")).to_have_count(1)
    expect(page).to_have_url(re.compile("family=gpt-oss-120b"))


def test_choice_without_an_answer_is_said_until_there_is_one(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Figures of an earlier choice never pass for the new one's; the page tries again by itself.
    """
    visitor = enter(visitors, console, "/factory")
    page = visitor.page
    notice = page.locator("#plan-away")
    hub.is_unready = True
    page.fill("#power", "-20")
    expect(notice).to_be_visible()
    expect(page.locator("#plan")).to_have_class(re.compile("is-behind"))
    expect(page.locator("#power")).to_have_value("-20")

    hub.is_unready = False
    expect(notice).to_be_hidden()
    expect(page.locator("#plan")).not_to_have_class(re.compile("is-behind"))
    expect(page).to_have_url(re.compile("power=-20"))


def test_plant_whose_console_is_away_is_not_taken_for_news(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    The last answer stays, with a word that it is one; the word goes with the next answer.
    """
    hub.plant.fill()
    visitor = enter(visitors, console, "/factory")
    page = visitor.page
    page.route("**/factory/live", lambda route: route.abort())
    expect(page.locator("#live-away")).to_be_visible()
    expect(page.locator(".figures .figure")).to_have_count(4)
    page.unroute("**/factory/live")
    expect(page.locator("#live-away")).to_be_hidden()
    visitor.mistakes.clear()  # Chromium logs what it could not load


def test_news_leave_the_focus_and_what_was_moved(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Whoever reads a table in the plant keeps the place in it, and the window does not jump.
    """
    hub.plant.fill()
    visitor = visitors.open(console, width=390, height=700)
    visitor.log_in(ADMIN_KEY, "/factory")
    page = visitor.page
    page.locator("#intervals").click()
    box = page.locator(".across .scroll").first
    visitor.do("document.querySelector('.across .scroll').scrollLeft = 60")
    visitor.do("scrollTo(0, document.body.scrollHeight)")
    hub.plant.points[-1]["watts"] = 912.0
    page.locator(".figures", has_text="912 W").wait_for()

    expect(page.locator("#intervals")).to_be_focused()
    expect(page.locator(".across details").first).to_have_attribute("open", "")
    assert read(lambda: box.evaluate("box => box.scrollLeft"), until=bool) == 60
    assert read(lambda: page.evaluate("scrollY"), until=bool) > 700


# --------------------------------------------------------------------------- live pages


def test_browser_that_is_slow_to_tell_its_look_has_figures(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Whether the system is dark comes after seconds; the page shows what there is, and then in it.
    """
    hub.sell(ago_s=1)
    visitor = visitors.open(console)
    visitor.page.add_init_script(SLOW_LOOK)
    visitor.see_live_page(ADMIN_KEY)

    expect(visitor.page.locator(".calls tbody tr")).to_have_count(1)


def test_mandate_that_was_left_does_not_come_back(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    One mandate is chosen and its answer is late; another is chosen: the first is never shown.
    """
    visitor = enter(visitors, console, "/agents")
    page = visitor.page
    panel = page.locator(".panel")
    agents.held.add(SCOUT_MANDATE)
    page.get_by_role("button", name="look things up").first.click()
    read(lambda: [path for path, _ in agents.requests if SCOUT_MANDATE in path], until=bool)
    page.get_by_role("button", name="research budget").first.click()
    expect(panel.locator("h2").first).to_have_text("research budget active")
    visitor.do(NOTE_HEADINGS)
    agents.held.clear()
    agents.agents.pay(OTHER_MANDATE, "orchestrator", "later.example", "0.03")
    panel.get_by_text("later.example").wait_for()  # so what was held is here, too

    expect(panel.locator("h2").first).to_have_text("research budget active")
    headings = read(lambda: page.evaluate("window.headings"), until=lambda _: True)
    assert not any("look things up" in heading for heading in headings)


def test_logout_while_the_hub_answers_is_told_as_a_logout(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    What a page asks after its key was forgotten is refused; the key is not what was wrong.
    """
    visitor = enter(visitors, console, "/agents")
    visitor.page.locator(".tree-row").first.wait_for()
    agents.held.add("/agents/tree")
    asked = len(agents.requests)
    read(lambda: "/hub/v1/agents/tree" in dict(agents.requests[asked:]), until=bool)
    cookies = {each.get("name", ""): each.get("value", "") for each in visitor.context.cookies()}
    httpx.post(f"{console.url}/logout", cookies=cookies)
    agents.held.clear()

    visitor.says("#login-message", "You are logged out.")
    visitor.mistakes.clear()  # Chromium logs what it could not load after the logout


def test_second_press_asks_no_second_time(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    Who presses twice is asked once.
    """
    visitor = enter(visitors, console, "/agents")
    page = visitor.page
    page.get_by_role("button", name="Freeze research", exact=True).dblclick()
    question = page.locator(".question")
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_have_count(0)
    page.get_by_role("button", name="Freeze research", exact=True).click()
    expect(question).to_have_count(1)
    assert agents.agents.done == []


def test_question_stays_when_its_review_was_decided_elsewhere(
    console: Console, agents: FakeHub, visitors: Visitors
) -> None:
    """
    What somebody is typing is not taken away; the hub's word says that it is too late.
    """
    review_id = agents.agents.hold("12.5")
    visitor = enter(visitors, console, "/inbox")
    page = visitor.page
    page.get_by_role("button", name="Deny").click()
    page.locator(".question textarea").fill("Nobody ordered this.")
    agents.agents.reviews[review_id]["state"] = "approved"
    page.locator(".review").wait_for(state="detached")
    agents.agents.refusal = "The review is decided already."
    expect(page.locator(".question textarea")).to_have_value("Nobody ordered this.")
    page.locator(".question").get_by_role("button", name="Deny").click()

    expect(page.locator(".said .bad")).to_have_text("The review is decided already.")
    expect(page.locator(".question")).to_have_count(0)
