"""
``tokenworks agent``: agents, their wallets, and the kill switch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    CommandError,
    DataOption,
    HubClient,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import Record, column, short_moment
from tokenworks.cli.wallet_file import new_wallet, read_address

app: Final = typer.Typer(help="Agents: wallets, tree, kill switch.", no_args_is_help=True)


def _wallets(row: Record) -> str:
    return ", ".join(w["address"] for w in row["wallets"] if w["revoked_at"] is None)


COLUMNS: Final = (
    column("Name"),
    column("Owner", "owner.name"),
    column("Organisation", "organisation.name"),
    column("State"),
    column("Frozen", "is_frozen"),
    column("Wallets", _wallets),
    column("Created", short_moment("created_at")),
    column("Id", "party_id"),
)

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]
WalletFileOption = Annotated[
    Path | None,
    typer.Option("--wallet-file", help="Where its key is, or is to be; a new one gets mode 0600."),
]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The agent's name.")],
    owner: Annotated[str, typer.Option(help="Whose money it spends: a party's name or id.")],
    public_key: Annotated[
        str | None, typer.Option(help="Its Ed25519 public key, base64url, made elsewhere.")
    ] = None,
    wallet_file: WalletFileOption = None,
    label: Annotated[str, typer.Option(help="To know the wallet by.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add an agent with its wallet. Without a key of its own one is made here, in NAME.wallet.json.

    The private key never leaves this machine.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        if public_key is not None and wallet_file is not None:
            message = "Give either --public-key or --wallet-file."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        address = public_key or _own_address(hub, wallet_file or Path(f"{name}.wallet.json"))
        body = {"name": name, "owner": owner, "public_key": address, "label": label}
        hub.output.record(hub.post("agents", body), COLUMNS)


@app.command("list")
def list_agents(
    owner: Annotated[str | None, typer.Option(help="Only at or below this party.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List agents.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.records(hub.pages("agents", owner=owner), COLUMNS, empty="No agent.")


@app.command("show")
def show(
    agent: AgentArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show an agent with its wallets.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"agents/{agent}"), COLUMNS)


@app.command("tree")
def tree(
    owner: Annotated[str | None, typer.Argument(help="Only at or below this party.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show agents below their owners, with mandates and what is left of each limit.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        document = hub.get("agents/tree", owner=owner)
        if as_json:
            hub.output.document(document)
            return
        rows = tree_rows(document)
        columns = (column("Who"), column("State"), column("Limits"), column("Id"))
        hub.output.records(rows, columns, empty="No agent.")
        if document["is_cut"]:
            hub.output.note("There are more: name an owner.")


@app.command("freeze")
def freeze(
    agent: AgentArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Stop an agent, or an owner with all agents below it, at once.
    """
    _switch(agent, "freeze", url=url, key=key, data=data, as_json=as_json)


@app.command("thaw")
def thaw(
    agent: AgentArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let a frozen agent or owner go on.
    """
    _switch(agent, "thaw", url=url, key=key, data=data, as_json=as_json)


@app.command("wallet-add")
def wallet_add(
    agent: AgentArgument,
    public_key: Annotated[str | None, typer.Option(help="The key, base64url.")] = None,
    wallet_file: WalletFileOption = None,
    label: Annotated[str, typer.Option(help="To know the wallet by.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let another key speak for an agent.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        if (public_key is None) == (wallet_file is None):
            message = "Give either --public-key or --wallet-file."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        address = public_key or _own_address(hub, wallet_file or Path())
        body = {"public_key": address, "label": label}
        hub.output.record(hub.post(f"agents/{agent}/wallets", body), _WALLET_COLUMNS)


@app.command("wallet-revoke")
def wallet_revoke(
    agent: AgentArgument,
    address: Annotated[str, typer.Argument(help="The wallet's public key.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Revoke a wallet for good, at once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.delete(f"agents/{agent}/wallets/{address}"), _WALLET_COLUMNS)


_WALLET_COLUMNS: Final = (
    column("Address"),
    column("Label"),
    column("Created", short_moment("created_at")),
    column("Revoked", short_moment("revoked_at")),
)


def tree_rows(document: Record) -> list[dict[str, Any]]:
    """
    Return an answered tree as lines, each below what it belongs to and set in.
    """
    rows: list[dict[str, Any]] = []

    def add_mandates(agent_id: str, parent_id: str | None, depth: int) -> None:
        for mandate in document["mandates"]:
            is_top = mandate["parent_id"] not in known_by_agent[agent_id]
            belongs = is_top if parent_id is None else mandate["parent_id"] == parent_id
            if mandate["agent_id"] == agent_id and belongs:
                name = mandate["label"] or f"mandate {mandate['mandate_id']}"
                state = mandate["state"]
                usable = state if mandate["is_usable"] or state != "active" else "stopped above"
                rows.append(_line(name, depth, usable, mandate, mandate["mandate_id"]))
                add_mandates(agent_id, mandate["mandate_id"], depth + 1)

    def add_parties(parent_id: str | None, depth: int) -> None:
        for party in document["parties"]:
            if party["parent_id"] == parent_id:
                frozen = "frozen" if party["is_frozen"] else party["state"]
                name = f"{party['name']} ({party['level']})"
                rows.append(_line(name, depth, frozen, party, party["party_id"]))
                add_mandates(party["party_id"], None, depth + 1)
                add_parties(party["party_id"], depth + 1)

    known_by_agent: dict[str, set[str]] = {p["party_id"]: set() for p in document["parties"]}
    for mandate in document["mandates"]:
        known_by_agent.setdefault(mandate["agent_id"], set()).add(mandate["mandate_id"])
    add_parties(None, 0)
    return rows


def limits_text(row: Record) -> str:
    """
    Return limits as people read them: what is left of what, and how often.
    """
    return "; ".join(
        f"{limit['remaining']} of {limit['amount']} {limit['unit']} {_window_text(limit['per'])}"
        for limit in row["limits"]
    )


def _window_text(per: str) -> str:
    return "in all" if per == "ever" else f"per {per}"


def _line(name: str, depth: int, state: str, row: Record, identifier: str) -> dict[str, Any]:
    return {
        "who": "  " * depth + name,
        "state": state,
        "limits": limits_text(row),
        "id": identifier,
    }


def _own_address(hub: HubClient, path: Path) -> str:
    if path.exists():
        return read_address(path)
    from tokenworks.agents.mandates.signing import address_of

    address = address_of(new_wallet(path))
    hub.output.note(f"The agent's private key is in {path}; the hub never sees it.")
    return address


def _switch(
    agent: str, act: str, *, url: str | None, key: str | None, data: Path | None, as_json: bool
) -> None:
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.post(f"agents/{agent}/{act}")
        hub.output.record(answer, (column("Name"), column("Kind"), column("State"), column("Id")))
