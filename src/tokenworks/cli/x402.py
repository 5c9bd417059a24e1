"""
``tokenworks x402``: attack an x402 facilitator before somebody else does.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    JsonOption,
    reporting,
)
from tokenworks.cli.reading import parse_object, read_text
from tokenworks.cli.rendering import PIPE_WIDTH, Output, clean
from tokenworks.conformance.facilitator import Facilitator
from tokenworks.conformance.ground import GivenPurse, Ground
from tokenworks.conformance.hub_business import HubBusiness
from tokenworks.conformance.hub_rail import HubRail, hub_wallet
from tokenworks.conformance.model import Check, Finding, JsonObject, Report, Verdict
from tokenworks.conformance.official import OfficialDefaults, read_official_defaults
from tokenworks.conformance.rails import Rail, Sale, Wallet, from_base64url
from tokenworks.conformance.suite import CHECKS, audit, choose
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource

app: Final = typer.Typer(help="x402 facilitators: attack one.", no_args_is_help=True)

IN_PARALLEL_MAX: Final = 500
_SECRET_BYTES: Final = 32
_COLORS: Final = {
    Verdict.SURVIVED: "green",
    Verdict.FAILED: "bold red",
    Verdict.NOT_APPLICABLE: "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What is attacked and with what.
    """

    url: str
    sale: Sale
    rail: Rail
    wallets: GivenPurse | None  # ``None``: the hub opens them
    headers: dict[str, str]


@app.callback()
def _noun() -> None:  # pyright: ignore[reportUnusedFunction] - Typer calls it
    """
    Keep ``audit`` a word of its own: a noun with one command would swallow it.
    """


@app.command("audit")
def audit_facilitator(
    url: Annotated[str, typer.Argument(help="The facilitator, such as http://host/x402.")],
    network: Annotated[
        str | None, typer.Option(help="CAIP-2; else the facilitator's first of a known kind.")
    ] = None,
    asset: Annotated[
        str | None, typer.Option(help="USD on a hub; a token's address on eip155.")
    ] = None,
    pay_to: Annotated[
        str | None, typer.Option(help="Who is paid: a party's id, or an address.")
    ] = None,
    amount: Annotated[
        str, typer.Option(help="The price of each payment, in the asset's smallest unit.")
    ] = "1000",
    wallet: Annotated[
        Path | None,
        typer.Option(help="File with the key of a wallet that can pay: a JWK, or hex on eip155."),
    ] = None,
    poor_wallet: Annotated[
        Path | None,
        typer.Option(help="The same of a wallet with the money of exactly one payment."),
    ] = None,
    mandate: Annotated[str | None, typer.Option(help="Of a hub: the mandate that pays.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Of a hub: an admin key, to open throwaway payers and attack mandates."),
    ] = None,
    extra: Annotated[
        str | None,
        typer.Option(help='JSON for the requirements, on eip155 {"name": .., "version": ..}.'),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="'name: value' sent along. Repeat for more.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only the check of this id. Repeat for more.")
    ] = None,
    in_parallel: Annotated[
        int, typer.Option(min=2, max=IN_PARALLEL_MAX, help="So many requests at once.")
    ] = 50,
    as_json: JsonOption = False,
) -> None:
    """
    Attack a facilitator as dishonest clients and broken networks do, and say what came of it.

    It pays: on a network where money is real, with real money, about twenty times the amount.
    Exits 0 when everything was survived, 1 when something failed, 2 when it could not run.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        checks = choose(CHECKS, only or [])
        target = asyncio.run(
            _find_target(
                url,
                network=network,
                asset=asset,
                pay_to=pay_to,
                amount=amount,
                wallet=wallet,
                poor_wallet=poor_wallet,
                mandate=mandate,
                is_opened=key is not None,
                extra=_parse_extra(extra),
                headers=_parse_headers(header or []),
            )
        )
        report = asyncio.run(
            _run(target, checks, key=key, in_parallel=in_parallel, is_shown=not as_json)
        )
    defaults = read_official_defaults()
    if as_json:
        output.document(to_document(report, defaults))
    else:
        show(report, defaults)
    if report.failures:
        raise typer.Exit(EXIT_REFUSED)


# ------------------------------------------------------------------ arguments


async def _find_target(
    url: str,
    *,
    network: str | None,
    asset: str | None,
    pay_to: str | None,
    amount: str,
    wallet: Path | None,
    poor_wallet: Path | None,
    mandate: str | None,
    is_opened: bool,
    extra: JsonObject,
    headers: dict[str, str],
) -> Target:
    """
    Ask the facilitator what it settles and put together what is attacked.
    """
    async with Facilitator(url, connections=1, headers=headers) as facilitator:
        kinds = await facilitator.read_kinds()
    chosen = network or _first_network(kinds)
    rail: Rail
    if chosen.startswith("eip155:"):
        from tokenworks.conformance.evm_rail import EvmRail

        evm = rail = EvmRail()

        def read(path: Path) -> Wallet:
            return evm.wallet(_read_hex(path))

    elif chosen.startswith("hub:"):
        rail = HubRail(IdentifierSource(SystemClock()).mint)

        def read(path: Path) -> Wallet:
            return hub_wallet(_read_jwk(path), mandate=mandate)

    else:
        message = f"The suite cannot pay on {chosen}: it knows hub:.. and eip155:.. networks."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    if is_opened and rail.family != "hub":
        # A foreign facilitator must never be sent a hub's key.
        message = f"--key is for hubs; {chosen} is none."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    is_named = pay_to is not None and wallet is not None
    if not (is_named or is_opened) or (asset is None and rail.family != "hub"):
        message = (
            "Name --pay-to and --wallet (and --asset on eip155): the suite pays for real."
            " For a hub of yours an admin key does it too: --key."
        )
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    if not (amount.isascii() and amount.isdigit() and int(amount) > 0):
        message = f"--amount {amount!r} is no whole number of the asset's smallest unit."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    sale = Sale(
        scheme="exact",
        network=chosen,
        asset=asset or "USD",
        amount=amount,
        pay_to=pay_to or "",
        method="GET",
        url="http://seller.invalid/audit",
        extra=extra,
    )
    wallets = None
    if wallet is not None:
        poor = None if poor_wallet is None else read(poor_wallet)
        wallets = GivenPurse(rich=read(wallet), poor=poor)
    return Target(url=url, sale=sale, rail=rail, wallets=wallets, headers=headers)


def _first_network(kinds: list[JsonObject]) -> str:
    for kind in kinds:
        network = str(kind.get("network", ""))
        if kind.get("scheme") == "exact" and network.startswith(("hub:", "eip155:")):
            return network
    named = ", ".join(f"{kind.get('scheme')} on {kind.get('network')}" for kind in kinds)
    message = f"The facilitator settles nothing that the suite can pay: {named or 'nothing'}."
    raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)


def _read_hex(path: Path) -> bytes:
    text = read_text(path).strip()
    try:
        return _thirty_two(bytes.fromhex(text.removeprefix("0x")))
    except ValueError as error:
        message = f"{path} holds no private key of 64 hexadecimal digits."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


def _read_jwk(path: Path) -> bytes:
    text = read_text(path).strip()
    try:
        document = json.loads(text)
        if (document["kty"], document["crv"]) != ("OKP", "Ed25519"):
            raise ValueError(document["crv"])
        return _thirty_two(from_base64url(document["d"]))
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} holds no private Ed25519 key as a JWK."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


def _thirty_two(secret: bytes) -> bytes:
    if len(secret) != _SECRET_BYTES:
        raise ValueError(len(secret))
    return secret


def _parse_extra(text: str | None) -> JsonObject:
    return {} if text is None else parse_object(text, "--extra")


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, mark, value = line.partition(":")
        if not mark or not name.strip():
            message = f"--header {line!r} is not of the form 'name: value'."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        headers[name.strip()] = value.strip()
    return headers


# ------------------------------------------------------------------ running


class _Shown:
    """
    Fill in a line on the terminal while the attacks run.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def began(self, check: Check, *, number: int, of: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=of)
        self._progress.update(self._task, completed=number - 1, description=check.check_id)

    def ended(self, finding: Finding) -> None:
        del finding
        if self._task is not None:
            self._progress.advance(self._task)


async def _run(
    target: Target,
    checks: tuple[Check, ...],
    *,
    key: str | None,
    in_parallel: int,
    is_shown: bool,
) -> Report:
    columns = (TextColumn("{task.description:28}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not is_shown)
    async with AsyncExitStack() as stack:
        facilitator = await stack.enter_async_context(
            Facilitator(target.url, connections=in_parallel, headers=target.headers)
        )
        hub = None
        sale = target.sale
        if key is not None:
            hub = await stack.enter_async_context(_hub(target, key))
            sale = replace(sale, pay_to=sale.pay_to or await hub.payee())
        purse = target.wallets or hub
        assert purse is not None, "wallets were named, or a key that opens them"
        ground = Ground(
            facilitator=facilitator,
            rail=target.rail,
            sale=sale,
            purse=purse,
            clock=SystemClock(),
            in_parallel=in_parallel,
            hub=hub,
        )
        with progress:
            return await audit(ground, checks, listener=_Shown(progress))


def _hub(target: Target, key: str) -> HubBusiness:
    return HubBusiness(
        target.url.rstrip("/").removesuffix("/x402"),
        key,
        price=int(target.sale.amount),
        mint=IdentifierSource(SystemClock()).mint,
        random_bytes=os.urandom,
    )


# ------------------------------------------------------------------ showing


def to_document(report: Report, defaults: OfficialDefaults) -> JsonObject:
    """
    Return the report as JSON, with what the official defaults do beside each verdict.
    """
    document = report.to_document()
    findings = cast("list[JsonObject]", document["findings"])
    for finding in findings:
        known = defaults.verdicts.get(str(finding["check_id"]))
        finding["official_defaults"] = (
            None if known is None else {"verdict": str(known[0]), "because": known[1]}
        )
    return {
        **document,
        "failed": len(report.failures),
        "official_defaults": {
            "x402_version": defaults.x402_version,
            "made_on": defaults.made_on.isoformat(),
            "suite_version": defaults.suite_version,
            "in_parallel": defaults.in_parallel,
        },
    }


def show(report: Report, defaults: OfficialDefaults) -> None:
    """
    Print the report as a table.
    """
    console = Console(emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Check", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Because", overflow="fold", ratio=1)
    table.add_column("Official defaults", overflow="fold", ratio=1)
    for finding in report.findings:
        outcome = finding.outcome
        table.add_row(
            finding.check_id,
            Text(outcome.verdict.replace("_", " "), style=_COLORS[outcome.verdict]),
            Text(clean(outcome.because)),
            Text(defaults.verdict_of(finding.check_id), style="dim"),
        )
    console.print(table)
    counts = dict.fromkeys(Verdict, 0)
    for finding in report.findings:
        counts[finding.outcome.verdict] += 1
    console.print(
        Text(
            f"{report.target} on {report.network}: {counts[Verdict.SURVIVED]} survived,"
            f" {counts[Verdict.FAILED]} failed, {counts[Verdict.NOT_APPLICABLE]} not applicable."
        )
    )
    console.print(Text(defaults.source, style="dim"))
