"""
``tokenworks mandate``: what agents may spend, signed and verifiable without a hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tokenworks.cli.agent import limits_text
from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
    reporting,
)
from tokenworks.cli.key import parse_expiry, split_models
from tokenworks.cli.mandate_terms import money_limits, payment_limits, split_window, terms_text
from tokenworks.cli.reading import read_object, read_text
from tokenworks.cli.receipt import default_keys
from tokenworks.cli.rendering import Output, column, short_moment

app: Final = typer.Typer(help="Mandates: what agents may spend.", no_args_is_help=True)

COLUMNS: Final = (
    column("Agent", "agent.name"),
    column("Label"),
    column("State"),
    column("Depth", right=True),
    column("Terms", lambda row: terms_text(row["terms"])),
    column("Expires", short_moment("expires_at")),
    column("Id", "mandate_id"),
)
DETAIL: Final = (
    *COLUMNS[:3],
    column("Status"),
    *COLUMNS[3:6],
    column("Left", limits_text),
    column("Parent", "parent_id"),
    column("Created", short_moment("created_at")),
    column("Id", "mandate_id"),
)

FROZEN: Final = (column("Name"), column("Kind"), column("State"), column("Id"))

MandateArgument = Annotated[str, typer.Argument(metavar="MANDATE", help="The mandate's id.")]


@app.command("add")
def add(
    agent: Annotated[str, typer.Argument(help="Who may spend.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Money in a window: 5/day, 100/ever; repeat it for more."),
    ] = None,
    count: Annotated[
        list[str] | None, typer.Option(help="Payments in a window: 1000/hour; repeat it.")
    ] = None,
    payee_budget: Annotated[
        list[str] | None, typer.Option(help="As --budget, for each payee by itself.")
    ] = None,
    amount_max: Annotated[str | None, typer.Option(help="At most so much in one payment.")] = None,
    amount_min: Annotated[str | None, typer.Option(help="At least so much.")] = None,
    payee: Annotated[list[str] | None, typer.Option(help="Only these parties; repeat it.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only these models: model or model@tier.")
    ] = None,
    tool: Annotated[list[str] | None, typer.Option(help="Only through these MCP tools.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="Only over these networks.")] = None,
    reference: Annotated[str | None, typer.Option(help="Only this transaction.")] = None,
    not_before: Annotated[str | None, typer.Option(help="ISO 8601 with its offset.")] = None,
    not_after: Annotated[str | None, typer.Option(help="ISO 8601 with its offset.")] = None,
    delegations: Annotated[int, typer.Option(help="Levels that may be made below it.")] = 0,
    parent: Annotated[str | None, typer.Option(help="The mandate it narrows.")] = None,
    expires: Annotated[str | None, typer.Option(help="ISO 8601 time, or a span: 12h, 30d.")] = None,
    label: Annotated[str, typer.Option(help="To know it by.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Issue a mandate, signed by the hub. What is not said is not narrowed.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        terms = {
            "budgets": money_limits(budget),
            "counts": payment_limits(count),
            "payee_budgets": money_limits(payee_budget),
            "amount_max": amount_max,
            "amount_min": amount_min,
            "payees": payee,
            "models": split_models(model),
            "tools": tool,
            "instruments": network,
            "reference": reference,
            "not_before": not_before,
            "not_after": not_after,
            "delegations_max": delegations,
        }
        body = {
            "agent": agent,
            "terms": {name: value for name, value in terms.items() if value not in (None, [])},
            "parent": parent,
            "expires_at": None if expires is None else parse_expiry(expires),
            "label": label,
        }
        hub.output.record(hub.post("mandates", body), DETAIL)


@app.command("list")
def list_mandates(
    agent: Annotated[str | None, typer.Argument(help="Only this agent's.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List mandates.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.records(hub.pages("mandates", agent=agent), COLUMNS, empty="No mandate.")


@app.command("show")
def show(
    mandate: MandateArgument,
    chain: Annotated[
        Path | None, typer.Option(help="Write the signed chain there, for mandate verify.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show a mandate with what is left of it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        document = hub.get(f"mandates/{mandate}")
        if chain is not None:
            chain.write_text("\n".join(document["chain"]) + "\n", encoding="utf-8")
            hub.output.note(f"The signed chain is in {chain}.")
        hub.output.record(document, DETAIL)


@app.command("revoke")
def revoke(
    mandate: MandateArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Revoke a mandate for good, and all below it, at once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"mandates/{mandate}/revoke"), DETAIL)


@app.command("freeze")
def freeze(
    mandate: MandateArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Stop a mandate and all below it, at once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"mandates/{mandate}/freeze"), FROZEN)


@app.command("thaw")
def thaw(
    mandate: MandateArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let a frozen mandate go on.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"mandates/{mandate}/thaw"), FROZEN)


@app.command("raise")
def raise_limit(
    mandate: MandateArgument,
    budget: Annotated[str, typer.Argument(help="The new budget: 10/day.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Raise a budget of a mandate, never above those of the mandates above it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        amount, window = split_window(budget)
        body = {"amount": amount, "window": window}
        hub.output.record(hub.post(f"mandates/{mandate}/raise", body), DETAIL)


@app.command("delegate")
def delegate(
    mandate: MandateArgument,
    to: Annotated[str, typer.Option("--to", help="The other agent's name or id.")],
    wallet_file: Annotated[
        Path, typer.Option("--wallet-file", help="The delegating agent's wallet.")
    ],
    terms: Annotated[
        str, typer.Option(help='What it may: JSON, e.g. {"amount_max": "0.5"}.')
    ] = "{}",
    expires: Annotated[str | None, typer.Option(help="ISO 8601 time, or a span: 12h, 30d.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Sign a part of a mandate away with the agent's own wallet; it can only narrow.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        from tokenworks.cli.mandate_offline import sign_delegation

        parent = hub.get(f"mandates/{mandate}")
        agent = hub.get(f"agents/{to}")
        jws = sign_delegation(parent, agent, wallet_file=wallet_file, terms=terms, expires=expires)
        answer = hub.post(f"mandates/{mandate}/delegate", {"jws": jws})
        hub.output.record(answer, DETAIL)


@app.command("import-ap2")
def import_ap2(
    agent: Annotated[str, typer.Argument(help="Who may spend.")],
    file: Annotated[
        Path, typer.Argument(help="The open payment mandate: as signed (SD-JWT), or its claims.")
    ],
    issuer_key: Annotated[
        Path | None,
        typer.Option(help="The public key that must have signed it, a JWK in JSON."),
    ] = None,
    payee: Annotated[
        list[str] | None,
        typer.Option(help="Which party a merchant is: MERCHANT_ID=PARTY; repeat it."),
    ] = None,
    label: Annotated[str, typer.Option(help="To know it by.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Issue a mandate that says what an AP2 v0.2 open payment mandate says.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        text = read_text(file)
        is_claims = text.lstrip().startswith("{")
        body = {
            "agent": agent,
            "mandate" if is_claims else "sd_jwt": read_object(file) if is_claims else text.strip(),
            "issuer_key": None if issuer_key is None else read_object(issuer_key),
            "payees": dict(_split_pair(pair) for pair in payee or []),
            "label": label,
        }
        hub.output.record(hub.post("mandates/import-ap2", body), DETAIL)
        if issuer_key is None:
            hub.output.note(
                "THE AP2 SIGNATURE WAS NOT CHECKED: nobody but you says who gave this mandate."
                " Import it as it was signed, with --issuer-key."
            )


@app.command("export-ap2")
def export_ap2(
    mandate: MandateArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print a mandate in AP2's words, as JSON; what they cannot say is named.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get(f"mandates/{mandate}/ap2")
        hub.output.document(answer)
        if answer["not_expressed"]:
            hub.output.note(f"AP2 has no word for: {', '.join(answer['not_expressed'])}.")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A chain: JWS, one a line, or show --json.")],
    root: Annotated[
        Path | None,
        typer.Option("--key", "--root", help="The hub's public root key; else DATA/demo.json."),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Verify a chain of mandates without a hub. Exit 1 when it is not good.

    Whether one was revoked, and what is left of its budgets, only the hub knows.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        from tokenworks.cli.mandate_offline import verify_file

        document = verify_file(file, root or default_keys(data))
        if as_json:
            output.document(document)
        else:
            columns = (column("Position", right=True), column("Code"), column("Message"))
            output.records(document["findings"], columns, empty="Good.")
        if not document["is_good"]:
            raise typer.Exit(EXIT_REFUSED)


def _split_pair(text: str) -> tuple[str, str]:
    merchant, separator, party = text.rpartition("=")
    if not separator or not merchant or not party:
        message = f"{text!r} is not written as MERCHANT_ID=PARTY."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return merchant, party
