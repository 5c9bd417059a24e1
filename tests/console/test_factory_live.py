"""
Power and tokens live, joules per token, the value chain, as people meet them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from playwright.sync_api import expect
from typer.testing import CliRunner

from tests.console.conftest import Console, Visitor, Visitors
from tests.console.fake_hub import ADMIN_KEY, BUYER_KEY, SUPPLIER_KEY, FakeHub
from tests.console.fake_hub_door import Server
from tests.console.fake_plant import FakePlant
from tokenworks.cli.main import app
from tokenworks.web.console.factory import chain_chart, power_chart
from tokenworks.web.console.factory.live_model import Live, ValueChain
from tokenworks.web.console.factory.summary import MICRO, to_summary

browser_test = pytest.mark.timeout(120)
pytestmark = pytest.mark.console

NASTY = "<img src=x onerror=alert(1)>{{7*7}}"


@pytest.fixture
def plant(hub: FakeHub) -> FakePlant:
    """
    A hub with a plant at work.
    """
    hub.plant.fill()
    return hub.plant


def enter(
    visitors: Visitors, console: Console, *, width: int = 1280, scheme: str = "light"
) -> Visitor:
    """
    Open the page as an admin.
    """
    visitor = visitors.open(console, width=width, scheme=scheme)
    visitor.log_in(ADMIN_KEY, "/factory")
    visitor.page.wait_for_selector("#plan")
    return visitor


# --------------------------------------------------------------------------- in the browser


@browser_test
def test_power_tokens_and_what_no_call_used_are_live(
    console: Console, plant: FakePlant, visitors: Visitors
) -> None:
    """
    Figures, their source and method stand together, and change without a reload.
    """
    visitor = enter(visitors, console)
    page = visitor.page
    visitor.mark()
    summary = to_summary(msgspec.convert(plant.live(15), Live))

    visitor.says(".figures", f"{summary.watts:g} W", "% of the time metered", "Used by no call")
    visitor.says(
        ".provenance", "MODEL", "CPU time × a share of the TDP", "phases that llama.cpp told"
    )
    wide = page.locator("[aria-labelledby=watts-title] .plot-half-wide")
    expect(wide.locator(".spot")).to_have_count(len(plant.points))
    expect(wide.locator(".not-whole")).to_have_count(1)
    visitor.says("main", "5.5 s without a reading")

    plant.points[-1]["watts"] = 912.0
    page.locator(".figures", has_text="912 W").wait_for()
    assert visitor.is_marked
    page.locator("#intervals").click()
    page.locator(".across tr", has_text="912").wait_for()
    visitor.keep("factory-live")


@browser_test
def test_models_and_chain_show_energy_and_money(
    console: Console, plant: FakePlant, visitors: Visitors
) -> None:
    """
    Joules per token by model with what is not whole; five stages, and what no call used.
    """
    plant.add_model(NASTY, joules=77, is_measured=True, electricity_cost_per_million=None)
    plant.add_chain(buyers=("acme", NASTY))
    visitor = enter(visitors, console)
    page = visitor.page
    rows = page.locator(".by-model tbody tr")

    visitor.says(rows.nth(0), "3 not whole", "MODEL")
    visitor.says(rows.filter(has_text="measured"), "no price", NASTY)
    stages = page.locator(".stage")
    expect(stages.locator(".stage-name")).to_have_text(
        ["Electricity", "Compute", "Model", "Tokens", "Applications"], use_inner_text=True
    )
    visitor.says(stages.nth(3), "0.44 USD charged for tokens")
    visitor.says(stages.nth(2), "nobody is paid here")
    page.locator("#chain-table").click()
    unused = next(
        box["energy_uj"] for box in plant.chain["stages"][1]["boxes"] if "unattr" in box["box"]
    )
    visitor.says(".chain-table", f"{int(unused):,}")
    page.locator(".chain-wide .band.is-unattributed").hover()
    visitor.says(".tip:visible", "riverside → unattributed")


@browser_test
def test_buyer_sees_the_joules_of_its_own_call(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    The last signed addendum: joules, method, source, grams; nothing before it is known.
    """
    call_id = hub.sell(ago_s=20)
    visitor = visitors.open(console)
    visitor.log_in(BUYER_KEY, f"/calls/{call_id}")
    assert "Energy" not in visitor.says(".facts", "Charge", "Key")

    hub.add_energy(call_id, 7_000_000)
    hub.add_energy(call_id, 7_933_579, is_whole=False)
    visitor.page.reload()
    visitor.says(
        "[aria-labelledby=energy-title]",
        "MODEL",
        "7.933579 J",
        "not whole",
        "as addendum 2",
        "the signature holds",
        "g/kWh",
    )
    visitor.keep("receipt-energy")


@browser_test
def test_plant_without_a_meter_says_which_command_adds_one(
    console: Console, hub: FakeHub, visitors: Visitors
) -> None:
    """
    Nothing is drawn as zero; the plan below needs no meter. A supplier's key asks for no power.
    """
    visitor = enter(visitors, console)
    text = visitor.says("#live", "No power meter is configured")
    commands = visitor.says("#live .try", "tokenworks").splitlines()

    for command in [*commands, "tokenworks factory demo"]:
        assert command in text
        known = CliRunner().invoke(app, [*command.split()[1:], "--help"])
        assert known.exit_code == 0, command
    expect(visitor.page.locator("#live svg")).to_have_count(0)
    expect(visitor.page.locator(".floor")).to_have_count(5)
    hub.requests.clear()
    supplier = visitors.open(console)
    supplier.log_in(SUPPLIER_KEY, "/factory")
    supplier.page.wait_for_selector("#plan")
    expect(supplier.page.locator("#live")).to_have_count(0)
    assert not any("/factory/live" in path for path, key in hub.requests if key == SUPPLIER_KEY)


@browser_test
def test_last_answer_stays_when_the_hub_is_away(
    console: Console, plant: FakePlant, server: Server, visitors: Visitors
) -> None:
    """
    A hub that does not answer is a notice above the last figures, and goes by itself.
    """
    visitor = enter(visitors, console)
    notice = visitor.page.locator("[data-part=live] .notice")
    with server.stopped():
        notice.get_by_text("does not answer").wait_for()
        expect(visitor.page.locator(".figures .figure")).to_have_count(4)
    notice.wait_for(state="detached")


@browser_test
def test_session_that_ended_leads_to_the_login(
    console: Console, plant: FakePlant, hub: FakeHub, visitors: Visitors
) -> None:
    """
    A page whose key was revoked leaves by itself.
    """
    visitor = enter(visitors, console)
    hub.revoked.add(ADMIN_KEY)

    visitor.says("#login-message", "no longer accepts this key")
    expect(visitor.page).to_have_url(re.compile("next=/factory&"))


@browser_test
@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (390, "dark")])
def test_narrow_plant_needs_no_sideways_scrolling(
    console: Console, plant: FakePlant, visitors: Visitors, width: int, scheme: str
) -> None:
    """
    With long names of models, meters and buyers.
    """
    long = "a-vendor/With-A-Name-That-Nobody-Would-Choose-235B-A22B-Instruct-2507-FP8"
    plant.add_model(long, joules=4_000)
    plant.add_meter("rack 7, " + "very " * 20 + "long", source="dcgm", supplier=long)
    plant.add_chain(supplier=long, buyers=(long, *"abcdefgh"))
    visitor = enter(visitors, console, width=width, scheme=scheme)

    visitor.needs_width(width)
    visitor.keep(f"factory-live-{width}")


# --------------------------------------------------------------------------- the pictures


def test_bands_are_as_thick_as_their_energy_and_fill_their_boxes() -> None:
    """
    Energy into a box and out of it is as high as the box, in every stage.
    """
    plant = FakePlant()
    plant.fill()
    chain = msgspec.convert(plant.value_chain(24), ValueChain)
    chart = chain_chart.to_chart(chain, chain_chart.WIDE)
    assert chart is not None
    heights = {(box.stage, box.label): box.height for box in chart.boxes}
    scale = heights["electricity", "riverside"] / int(chain.energy_uj)
    into: dict[str, int] = {}
    out: dict[str, int] = {}
    for link in chain.links:
        out[link.source] = out.get(link.source, 0) + int(link.energy_uj)
        into[link.target] = into.get(link.target, 0) + int(link.energy_uj)

    for stage in chain.stages:
        for box in stage.boxes:
            height = heights[stage.stage, box.label]
            assert height == pytest.approx(int(box.energy_uj) * scale, abs=0.1)
            if stage.stage != "electricity":
                assert into[box.box] == int(box.energy_uj)
            if stage.stage not in {"compute", "applications"} or box.box in out:
                assert out[box.box] == int(box.energy_uj)
    assert len(chart.bands) == len(chain.links)
    assert sum(band.is_unattributed for band in chart.bands) == 1


def test_many_buyers_are_drawn_as_one_and_no_energy_is_lost() -> None:
    """
    A stage of forty boxes has twelve in the picture; what goes in is what there was.
    """
    plant = FakePlant()
    plant.fill()
    plant.add_chain(buyers=tuple(f"buyer-{number}" for number in range(40)))
    chain = msgspec.convert(plant.value_chain(24), ValueChain)
    small = chain_chart.gathered(chain)
    last = small.stages[-1].boxes

    assert len(last) == chain_chart.BOXES_MAX
    assert last[-1].label == "29 others"
    before, after = chain.stages[-1].boxes, last
    assert sum(int(box.energy_uj) for box in before) == sum(int(box.energy_uj) for box in after)
    assert sum(int(link.energy_uj) for link in chain.links) == sum(
        int(link.energy_uj) for link in small.links
    )


def test_chain_without_energy_is_no_picture() -> None:
    """
    Nothing is drawn of nothing.
    """
    chain = msgspec.convert(FakePlant().value_chain(24), ValueChain)

    assert chain_chart.to_chart(chain, chain_chart.WIDE) is None


def test_bars_divide_power_as_the_books_do() -> None:
    """
    What calls used and what none used make the bar; what is not divided yet is all in one.
    """
    plant = FakePlant()
    plant.fill()
    live = msgspec.convert(plant.live(15), Live)
    chart = power_chart.power_chart(live, power_chart.WIDE)
    scale = (chart.bottom - chart.top) / float(chart.y_ticks[-1].label)

    assert len(chart.bars) == len(live.points)
    for bar, point in zip(chart.bars, live.points, strict=True):
        assert bar.used + bar.unused == pytest.approx(point.watts * scale, abs=0.3)
        if point.unattributed_uj is None:
            assert (bar.unused, bar.is_divided) == (0, False)
        else:
            share = int(point.unattributed_uj) / int(point.energy_uj)
            assert bar.unused == pytest.approx(point.watts * scale * share, abs=0.2)
        assert chart.left <= bar.x <= bar.x + bar.width <= chart.right + 1
    assert sum(not bar.is_whole for bar in chart.bars) == 1


def test_young_plant_has_the_whole_axis() -> None:
    """
    Three intervals of ten seconds do not hide at the edge of fifteen minutes.
    """
    plant = FakePlant()
    plant.add_points(3)
    chart = power_chart.power_chart(msgspec.convert(plant.live(15), Live), power_chart.WIDE)

    assert len(chart.bars) == 3
    assert chart.bars[0].width > (chart.right - chart.left) / 15


def test_old_and_unknown_intervals_are_not_drawn() -> None:
    """
    What ended before the window is left out; a plant without an interval is an empty chart.
    """
    plant = FakePlant()
    plant.add_points(88)
    old = datetime.now(UTC) - timedelta(hours=1)
    plant.points[0] |= {"start": old.isoformat(), "end": (old + timedelta(seconds=10)).isoformat()}
    live = msgspec.convert(plant.live(15), Live)
    empty = msgspec.convert(FakePlant().live(15), Live)

    assert len(power_chart.power_chart(live, power_chart.WIDE).bars) == 87
    assert power_chart.tokens_chart(empty, power_chart.COMPACT).bars == ()
    nothing = to_summary(empty)
    assert (nothing.watts, nothing.tokens_per_s, nothing.unattributed_share) == (None, None, None)


def test_power_is_of_the_newest_interval_that_is_over() -> None:
    """
    The newest one is seconds old and says 0 W right after a reload: it is no figure yet.
    """
    plant = FakePlant()
    plant.add_points(10)
    plant.points[-1] |= {"is_complete": False, "watts": 0.0, "coverage": 0.02}
    plant.points[-2] |= {"watts": 41.5}
    live = msgspec.convert(plant.live(15), Live)
    summary = to_summary(live)

    assert summary.watts == 41.5
    assert summary.watts_until == live.points[-2].end


def test_summary_adds_up_whole_microjoules() -> None:
    """
    Energy per token is all divided energy, used or not, over the tokens of the same intervals.
    """
    plant = FakePlant()
    plant.fill()
    live = msgspec.convert(plant.live(15), Live)
    summary = to_summary(live)
    divided = [point for point in live.points if point.unattributed_uj is not None]
    energy = sum(int(point.energy_uj) for point in divided)

    assert summary.divided_uj == energy < summary.energy_uj
    assert summary.joules_per_output_token == pytest.approx(energy / MICRO / summary.output_tokens)
    assert 0 < summary.unattributed_uj < energy
    assert summary.watts == live.points[-1].watts
    assert (summary.watts_from, summary.watts_until) == (live.points[-1].start, live.points[-1].end)
    assert summary.coverage == pytest.approx((87 + 0.45) / 88)
