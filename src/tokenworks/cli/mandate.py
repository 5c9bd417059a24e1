"""
``tokenworks mandate``: what agents may spend, signed and verifiable without a hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, cast

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
from tokenworks.cli.receipt import default_keys
from tokenworks.cli.rendering import Output, column, short_moment
from tokenworks.cli.wallet_file import read_wallet
from tokenworks.foundation.clock import SystemClock

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
            "budgets": _money_limits(budget),
            "counts": [
                {"window": window, "payments": _whole(number)}
                for number, window in map(_split_window, count or [])
            ],
            "payee_budgets": _money_limits(payee_budget),
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
        hub.output.record(hub.post(f"mandates/{mandate}/freeze"), _FROZEN)


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
        hub.output.record(hub.post(f"mandates/{mandate}/thaw"), _FROZEN)


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
        amount, window = _split_window(budget)
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
        parent = hub.get(f"mandates/{mandate}")
        agent = hub.get(f"agents/{to}")
        jws = _sign_delegation(parent, agent, wallet_file=wallet_file, terms=terms, expires=expires)
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
        text = _read_text(file)
        is_claims = text.lstrip().startswith("{")
        body = {
            "agent": agent,
            "mandate" if is_claims else "sd_jwt": _read_json(file) if is_claims else text.strip(),
            "issuer_key": None if issuer_key is None else _read_json(issuer_key),
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
        from tokenworks.agents.mandates.verifying import verify_chain
        from tokenworks.receipts.files import read_keys

        trusted = read_keys(root or default_keys(data))
        report = verify_chain(_chain_of(file), trusted, now=SystemClock().now())
        findings = [
            {
                "position": finding.position,
                "mandate_id": str(finding.mandate_id) if finding.mandate_id else None,
                "code": finding.code,
                "message": finding.message,
            }
            for finding in report.findings
        ]
        document = {
            "is_good": report.is_good,
            "mandates": [
                {
                    "mandate_id": str(signed.claims.jti),
                    "agent_id": str(signed.claims.sub),
                    "iss": signed.claims.iss,
                }
                for signed in report.mandates
            ],
            "findings": findings,
        }
        if as_json:
            output.document(document)
        else:
            columns = (column("Position", right=True), column("Code"), column("Message"))
            output.records(findings, columns, empty="Good.")
        if not report.is_good:
            raise typer.Exit(EXIT_REFUSED)


_FROZEN: Final = (column("Name"), column("Kind"), column("State"), column("Id"))


def terms_text(terms: dict[str, Any]) -> str:
    """
    Return terms in one line for people.
    """
    parts: list[str] = []
    for field, value in terms.items():
        if field in {"budgets", "payee_budgets"}:
            each = " each payee" if field == "payee_budgets" else ""
            parts.extend(f"{limit['amount']}/{limit['window']}{each}" for limit in value)
        elif field == "counts":
            parts.extend(f"{limit['payments']} payments/{limit['window']}" for limit in value)
        elif isinstance(value, list):
            parts.append(f"{field}: {len(cast('list[object]', value))}")
        else:
            parts.append(f"{field} {value}")
    return ", ".join(parts)


def _sign_delegation(
    parent: dict[str, Any],
    agent: dict[str, Any],
    *,
    wallet_file: Path,
    terms: str,
    expires: str | None,
) -> str:
    from uuid import UUID

    from tokenworks.agents.mandates.signing import sign_by_wallet
    from tokenworks.agents.mandates.terms import moment_from_text, terms_from_object
    from tokenworks.foundation.identifiers import IdentifierSource

    clock = SystemClock()
    fields = _parsed(terms, "--terms")
    wallets = [w["address"] for w in agent["wallets"] if w["revoked_at"] is None]
    return sign_by_wallet(
        read_wallet(wallet_file),
        mandate_id=IdentifierSource(clock).mint(),
        agent_id=UUID(agent["party_id"]),
        terms=terms_from_object({"currency": parent["terms"]["currency"], **fields}),
        issued_at=clock.now(),
        expires_at=(
            None if expires is None else moment_from_text("expires", parse_expiry(expires))
        ),
        agent_address=wallets[0] if wallets else None,
        parent_id=UUID(parent["mandate_id"]),
        parent_jws=parent["chain"][-1],
    )


def _money_limits(texts: list[str] | None) -> list[dict[str, str]]:
    return [
        {"window": window, "amount": amount} for amount, window in map(_split_window, texts or [])
    ]


def _split_window(text: str) -> tuple[str, str]:
    amount, separator, window = text.partition("/")
    if not separator or not amount or not window:
        message = f"{text!r} is not written as 5/day or 100/ever."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return amount, window


def _split_pair(text: str) -> tuple[str, str]:
    merchant, separator, party = text.rpartition("=")
    if not separator or not merchant or not party:
        message = f"{text!r} is not written as MERCHANT_ID=PARTY."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return merchant, party


def _whole(text: str) -> int:
    if not text.isdecimal():
        message = f"{text!r} is no whole number of payments."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return int(text)


def _read_json(path: Path) -> dict[str, Any]:
    return _parsed(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        document: object = json.loads(text)
    except ValueError as error:
        message = f"{where} is no JSON: {error}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    if not isinstance(document, dict):
        message = f"{where} is no JSON object."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return cast("dict[str, Any]", document)


def _chain_of(path: Path) -> list[str]:
    text = _read_text(path).strip()
    if not text.startswith("{"):
        return text.split()
    chain: object = _parsed(text, str(path)).get("chain")
    if not isinstance(chain, list):
        message = f"{path} has no chain of signed mandates."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return [str(item) for item in cast("list[object]", chain)]
