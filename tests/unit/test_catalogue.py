"""
The catalogue's files fit their schemas, and a broken file says what to fix.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tokenworks.catalogue import CatalogueError, load_chart_of_accounts, read_catalogue, read_file
from tokenworks.metering.model import Axis

NAMES = ("tiers", "chart_of_accounts")

TIER = """
tiers:
  standard:
    meaning: x
    prices_usd_per_million_tokens: {input: "1", output: "2"}
"""
PURPOSE = "purposes:\n  cash: {meaning: x, class: liability, normal_side: credit, title: party"


def schema_of(name: str) -> dict[str, object]:
    """
    Return a shipped JSON schema.
    """
    text = resources.files("tokenworks.catalogue").joinpath(f"{name}.schema.json").read_text()
    return json.loads(text)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_fit_their_schemas(name: str) -> None:
    """
    The package's own data is valid, and so is each schema.
    """
    Draft202012Validator.check_schema(schema_of(name))
    assert read_catalogue(name)


def test_the_schema_of_tiers_knows_every_axis() -> None:
    """
    An axis added to the code can be priced in the catalogue.
    """
    text = json.dumps(schema_of("tiers"))
    assert all(f'"{axis}"' in text for axis in Axis)


@pytest.mark.parametrize(
    ("schema", "text", "place", "reason"),
    [
        ("tiers", TIER.replace('"1"', "1"), "standard.prices_usd_per_million_tokens.input", "1 is"),
        ("tiers", TIER.replace('"1"', '"-1"'), "prices_usd_per_million_tokens.input", "does not"),
        ("tiers", TIER.replace('input: "1", ', ""), "standard.prices", "'input' is a required"),
        (
            "tiers",
            TIER.replace("meaning: x", "meening: x"),
            "tiers.standard",
            "'meaning' is a required",
        ),
        ("tiers", TIER + "    meaning: y\n", "line 6", "stands twice"),
        ("tiers", "tiers: [", "line", ""),
        ("tiers", "", "the top", "None is not of type 'object'"),
        ("tiers", "[1]", "the top", "is not of type 'object'"),
        ("chart_of_accounts", PURPOSE.replace("credit", "debit") + "}", "cash.normal_side", "cred"),
        ("chart_of_accounts", PURPOSE + ", client_money: true}", "purposes.cash", "no_overdraft"),
        (
            "chart_of_accounts",
            PURPOSE + ", laned: true, no_overdraft: true}",
            "cash.no_overdraft",
            "False was expected",
        ),
    ],
)
def test_a_broken_file_says_where_and_why(
    tmp_path: Path, schema: str, text: str, place: str, reason: str
) -> None:
    """
    The error names the file, the place in it and the reason.
    """
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        read_file(file, schema=schema)
    assert "mine.yaml" in caught.value.message
    assert place in caught.value.message
    assert reason in caught.value.message
    assert caught.value.code == "catalogue_invalid"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """
    A path that is not there is an error of the catalogue, not of the system.
    """
    with pytest.raises(CatalogueError, match=r"gone\.yaml"):
        read_file(tmp_path / "gone.yaml", schema="tiers")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    """
    A file is data: a tag that would run code is refused.
    """
    file = tmp_path / "mine.yaml"
    file.write_text("tiers: !!python/object/apply:os.getcwd []")
    with pytest.raises(CatalogueError):
        read_file(file, schema="tiers")


def test_client_money_is_exactly_what_buyers_prepaid() -> None:
    """
    Only a party's own money needs safeguarding; nothing receive-only is checked.
    """
    chart = load_chart_of_accounts()
    assert [row.purpose for row in chart.values() if row.is_client_money] == ["cash"]
    assert not any(row.is_laned and row.no_overdraft for row in chart.values())


@pytest.mark.parametrize(
    ("purpose", "account_class", "laned"),
    [
        ("cash", "liability", False),
        ("supplier_payable", "liability", True),
        ("power_payable", "liability", True),
        ("rights_payable", "liability", True),
        ("reseller_payable", "liability", True),
        ("tax_payable", "liability", True),
        ("platform_revenue", "income", True),
        ("purchases", "expense", True),
        ("safeguarded", "asset", True),
        ("own_funds", "asset", True),
        ("overrun", "expense", False),
        ("supplier_variance", "expense", False),
        ("receivable", "asset", False),
        ("limit_source", "memo", True),
        ("limit_available", "memo", False),
        ("limit_spent", "memo", True),
        ("limit_overrun", "memo", False),
        ("energy_metered", "memo", False),
        ("energy_used", "memo", False),
        ("energy_unattributed", "memo", False),
    ],
)
def test_purposes_have_their_class(purpose: str, account_class: str, laned: bool) -> None:
    """
    The chart that the ledger is opened with.
    """
    row = load_chart_of_accounts()[purpose]
    assert (row.account_class, row.is_laned) == (account_class, laned)
