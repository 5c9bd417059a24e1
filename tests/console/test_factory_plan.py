"""
What the machines can do and what a million tokens cost, as people meet it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.console.conftest import Console, Visitor, Visitors, read
from tests.console.fake_hub import ADMIN_KEY, BUYER_KEY, SUPPLIER_KEY
from tests.console.fake_hub_door import Server

pytestmark = [pytest.mark.console, pytest.mark.timeout(120)]

FRONT = {"gpu": "b200", "model": "DeepSeek-V4-Pro"}
CHART = ".plot-wide"


def ask(server: Server, path: str, query: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - whatever JSON has
    """
    Return what the hub says, by default of the front that is shown first.
    """
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    url = f"{server.url}/hub/v1/factory/{path}"
    params = {} if path == "systems" else FRONT | (query or {})
    answer = httpx.get(url, params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def enter(visitor: Visitor, key: str = ADMIN_KEY, path: str = "/factory") -> None:
    """
    Open the page; it is whole, and its script has run.
    """
    visitor.log_in(key, path)
    visitor.page.wait_for_selector("#plan")


def shows_costs(visitor: Visitor, document: dict[str, Any]) -> None:
    """
    Wait until the table by tier shows the costs that the hub computes.
    """
    cells = visitor.page.locator("[data-part=economics] .by-tier tr", has_text="Cost").locator("td")
    costs = costs_of(document)
    # Below the figure a cell may have the one it was before.
    read(
        lambda: [text.split("\n")[0] for text in cells.all_inner_texts()],
        until=lambda texts: agrees(texts, costs),
    )


def costs_of(document: dict[str, Any]) -> list[Decimal | None]:
    """
    Return the hub's costs by tier.
    """
    texts = [tier["cost_usd_per_million"] for tier in document["tiers"]]
    return [None if text is None else Decimal(text) for text in texts]


def agrees(texts: list[str], figures: list[Decimal | None]) -> bool:
    """
    Tell whether what is shown is what was computed, to four digits.
    """
    return len(texts) == len(figures) and all(
        (text == "–")
        if figure is None
        else Decimal(text.replace(",", "")) == pytest.approx(figure, rel=Decimal("0.001"))
        for text, figure in zip(texts, figures, strict=True)
    )


def test_front_shows_points_tiers_and_what_is_out_of_reach(
    console: Console, server: Server, visitors: Visitors
) -> None:
    """
    Every point is drawn and stands in the table; a tier that no point serves says so.
    """
    frontier = ask(server, "frontier")
    visitor = visitors.open(console)
    enter(visitor)
    page = visitor.page
    rows = {point["row"] for point in frontier["points"]}
    reaches = [tier["reach"] for tier in frontier["tiers"]]
    part = page.locator("[data-part=frontier]")
    addresses = "all => all.map(each => each.getAttribute('href'))"
    spots = page.locator(f"{CHART} a.spot")
    drawn = read(lambda: spots.evaluate_all(addresses), until=bool)

    assert {int(each.removeprefix("#point-")) for each in drawn} == rows
    expect(page.locator(".points tbody tr")).to_have_count(len(rows))
    expect(part.locator(".plot-wide .floor-mark text")).to_have_text(
        ["standard 50", "premium 100", "high speed 200", "elite 300"]
    )
    expect(page.locator(".floor .status")).to_have_text(reaches)
    assert "unreachable" in reaches
    expect(part.locator(".plot-wide .reach-unreachable")).to_have_count(
        reaches.count("unreachable")
    )
    expect(page.locator(".floor", has_text="standard")).to_contain_text("begin too late")
    expect(page.locator(".source").first).to_contain_text("SemiAnalysis InferenceX")
    expect(part.locator(".plot-wide .axis")).to_have_text(
        ["tokens/s of one user", "tokens/s per GPU"]
    )


def test_focus_tells_the_facts_of_a_point_and_enter_leads_to_its_row(
    console: Console, server: Server, visitors: Visitors
) -> None:
    """
    With the keyboard alone: what a point is, where it is from, and its row in the table.
    """
    best = [point for point in ask(server, "frontier")["points"] if not point["dominated_by_row"]]
    visitor = visitors.open(console)
    enter(visitor)
    page = visitor.page
    spot = page.locator(f'{CHART} a[href="#point-{best[1]["row"]}"]')
    spot.focus()
    tip = page.locator(".tip:visible")
    facts = (best[1]["layout"], "GPU boards alone", "median", f"Row {best[1]['row']}.")

    visitor.says(tip, *facts, "SemiAnalysis")
    expect(spot).to_have_attribute("aria-label", re.compile("^" + re.escape(best[1]["engine"])))
    page.keyboard.press("Enter")
    expect(page.locator(".points tr:target")).to_be_visible()
    page.locator(f"{CHART} a.spot[tabindex]").first.hover()
    visitor.says(tip, "is better")


def test_slider_computes_without_a_reload_and_the_address_keeps_it(
    console: Console, server: Server, visitors: Visitors
) -> None:
    """
    What is shown after a slider moved is what the hub computes, and the same after a reload.
    """
    visitor = visitors.open(console)
    enter(visitor)
    page = visitor.page
    visitor.mark()
    shows_costs(visitor, ask(server, "economics"))
    slider = page.locator("input[data-of=utilisation]")
    slider.focus()
    slider.press("Home")
    slider.press("ArrowRight")
    page.wait_for_url(re.compile("utilisation=2&"))
    now = ask(server, "economics", {"utilisation": "0.02"})

    shows_costs(visitor, now)
    expect(slider).to_be_focused()
    expect(page.locator(f"{CHART} .was")).to_have_count(
        sum(cost is not None for cost in costs_of(now))
    )
    assert visitor.is_marked
    page.fill("#power", "-20")
    page.wait_for_url(re.compile("power=-20"))
    page.reload()
    supposed = {"utilisation": "0.02", "power_usd_per_mwh": "-20"}
    shows_costs(visitor, ask(server, "economics", supposed))
    visitor.keep("factory-plan")


def test_hardware_is_compared_on_the_same_model(console: Console, visitors: Visitors) -> None:
    """
    Another GPU has another front; the one it is compared with stays as a dotted line.
    """
    visitor = visitors.open(console)
    enter(visitor, path="/factory")
    page = visitor.page
    page.select_option("#family", "gpt-oss-120b|mxfp4|gpqa")
    page.locator("#gpu option", has_text="H100").wait_for(state="attached")
    page.select_option("#gpu", "h100")
    page.locator(f"{CHART} .ghost-name", has_text="B200").wait_for()
    page.get_by_text("One H100 with its share").wait_for()

    visitor.says(page.locator(".floor", has_text="standard"), "First token not measured")
    expect(page.locator("#capital")).to_have_attribute("placeholder", "1.04")
    expect(page.locator(".was-figure")).not_to_have_count(0)
    expect(page.locator("#gpu")).to_have_value("h100")


def test_what_is_no_plant_is_said_and_nothing_is_computed(
    console: Console, visitors: Visitors
) -> None:
    """
    A word, and a value the hub refuses: a sentence each, and no figures beside it.
    """
    visitor = visitors.open(console)
    enter(visitor)
    page = visitor.page
    alert = page.locator("[role=alert]")
    page.fill("#pue", "low")
    page.get_by_text("PUE: 'low' is no number.").wait_for()
    page.fill("#pue", "0.9")
    page.get_by_text("PUE is at least 1 and at most 10.").wait_for()

    table = page.locator("[data-part=economics] .by-tier")
    expect(alert).to_have_count(1)
    expect(table).to_have_count(0)
    page.fill("#pue", "1.1")
    expect(table).to_be_visible()
    expect(alert).to_have_count(0)


def test_page_works_without_a_script(console: Console, server: Server, visitors: Visitors) -> None:
    """
    The form has a button, the chart is a picture with titles, points lead to the table.
    """
    visitor = visitors.open(console, has_script=False)
    enter(visitor)
    page = visitor.page
    page.fill("#utilisation", "50")
    visitor.follow("[data-without-script]")

    shows_costs(visitor, ask(server, "economics", {"utilisation": "0.5"}))
    titles = page.locator(f"{CHART} a.spot title")
    told = read(titles.all_text_contents, until=bool)
    assert all("Source: SemiAnalysis" in title for title in told)
    expect(page.locator("input[type=range]:visible")).to_have_count(0)
    page.locator(f"{CHART} a.spot:not([tabindex])").first.click()
    expect(page.locator(".points tr:target")).to_have_count(1)


def test_systems_show_what_a_gigawatt_earns(
    console: Console, server: Server, visitors: Visitors
) -> None:
    """
    Four systems with the tiers' floors, and what is out of reach; the revenue table's figures.
    """
    systems = ask(server, "systems")["items"]
    visitor = visitors.open(console)
    enter(visitor)
    card = visitor.page.locator("[aria-labelledby=systems-title]")
    rows = card.locator(".systems tbody tr")

    expect(rows).to_have_count(len(systems))
    assert len(systems) == 4
    for index, system in enumerate(systems):
        earned = f"{float(system['even_five_usd_billion']):.2f}"
        visitor.says(rows.nth(index), system["system"], earned)
    drawn = card.locator(".plot-wide .series-dot")
    expect(drawn).to_have_count(sum(len(system["points"]) for system in systems))
    unreachable = [t for system in systems for t in system["tiers"] if t["reach"] == "unreachable"]
    assert unreachable
    expect(card.locator(".by-tier .bad")).to_have_count(len(unreachable))
    card.locator(".plot-wide .spot").last.focus()
    visitor.says(card.locator(".tip"), "Vera Rubin")
    visitor.keep("factory-systems")


@pytest.mark.parametrize(("width", "scheme"), [(800, "dark"), (390, "light")])
def test_narrow_factory_needs_no_sideways_scrolling(
    console: Console, visitors: Visitors, width: int, scheme: str
) -> None:
    """
    At 800 and 390 pixels the page fits, with the longest name of a model.
    """
    visitor = visitors.open(console, width=width, scheme=scheme)
    long = "Llama-4-Maverick-17B-128E-Instruct-FP8|fp8|lm-arena-chat"
    enter(visitor)
    visitor.page.goto(f"{console.url}/factory?family={long}&utilisation=40")
    visitor.page.wait_for_selector("[data-part=economics] .by-tier")

    visitor.needs_width(width)
    expect(visitor.page.locator(".plot-wide").first).to_be_visible(visible=width == 800)
    visitor.keep(f"factory-{width}")


def test_factory_is_for_who_runs_one(console: Console, visitors: Visitors) -> None:
    """
    A supplier sees what its machines can do; a buyer has no way there, and is told.
    """
    supplier = visitors.open(console)
    enter(supplier, SUPPLIER_KEY)
    expect(supplier.page.locator(".ways a")).to_have_text(["Live", "Factory", "Escrows"])
    buyer = visitors.open(console)
    buyer.log_in(BUYER_KEY, "/factory")
    buyer.page.get_by_role("heading", name="Not for this key").wait_for()
    expect(buyer.page.locator(".ways a")).to_have_text(["Live", "Agents", "Inbox", "Escrows"])
    buyer.mistakes.clear()  # Chromium logs every answer of 403


def test_script_of_the_page_is_the_only_one_allowed(console: Console) -> None:
    """
    The page's policy names this process alone, without inline scripts; so does its part's.
    """
    with httpx.Client(base_url=console.url, follow_redirects=True) as client:
        client.post("/login", data={"key": ADMIN_KEY})
        page = client.get("/factory")
        policy = page.headers["content-security-policy"]

        assert page.status_code == 200
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert client.get("/factory/plan").status_code == 200
    stranger = httpx.get(console.url + "/factory/plan", headers={"accept": "*/*;q=0"})
    assert stranger.status_code == 401
