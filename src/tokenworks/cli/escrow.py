"""
``tokenworks escrow``: payments that are due when a condition is met.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from tokenworks.agents.escrow.result import read_strictly
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
from tokenworks.cli.escrow_offline import checked, run_again, sign_escrow
from tokenworks.cli.reading import read_bytes
from tokenworks.cli.receipt import default_keys
from tokenworks.cli.rendering import Output, Record, column, short_moment
from tokenworks.cli.wallet_file import read_wallet
from tokenworks.receipts.files import read_keys, verify_paths

app: Final = typer.Typer(
    help="Escrow: paid when it worked, by a condition both sides can run.", no_args_is_help=True
)


def _milestones(row: Record) -> str:
    return ", ".join(f"{item['name']}: {item['state']}" for item in row["milestones"])


COLUMNS: Final = (
    column("Created", short_moment("created_at")),
    column("Escrow", "escrow_id"),
    column("State"),
    column("Amount", right=True),
    column("Captured", right=True),
    column("Currency"),
    column("Submit by", short_moment("submit_by")),
    column("Milestones", _milestones),
)
VERDICT_COLUMNS: Final = (
    column("Met", "is_met"),
    column("Share"),
    column("Error"),
    column("Waits for", lambda row: ", ".join(row["waits_for"])),
    column("Engine"),
)
RERUN_COLUMNS: Final = (
    column("Receipt", "source"),
    column("Milestone"),
    column("Verdict", lambda row: "good" if row["ok"] else "BAD"),
    column("Share"),
    column("Problems", lambda row: "; ".join(row["problems"])),
)

EscrowArgument = Annotated[str, typer.Argument(help="The escrow's id.")]
AttestationOption = Annotated[
    list[Path] | None,
    typer.Option("--attestation", help="A file with a verifier's JWS. Repeat for more."),
]
ResultOption = Annotated[Path, typer.Option("--result", help="The result, a JSON object.")]


@app.command("open")
def open_escrow(
    terms: Annotated[Path, typer.Argument(help="The terms, JSON (docs/escrow.md).")],
    payee: Annotated[str, typer.Option(help="The payee's party id.")],
    wallet: Annotated[
        Path | None, typer.Option(help="The payer's wallet: a private Ed25519 key as JWK.")
    ] = None,
    authorisation: Annotated[
        Path | None, typer.Option(help="A file with the JWS, signed elsewhere.")
    ] = None,
    mandate: Annotated[str | None, typer.Option(help="The mandate to spend through.")] = None,
    currency: Annotated[str, typer.Option(help="Of the amounts.")] = "USD",
    valid_s: Annotated[
        int, typer.Option(min=60, max=3_600, help="How long the signature is good.")
    ] = 600,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Sign the terms and hold their amount.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        agreed = _read_object(terms)
        if (wallet is None) == (authorisation is None):
            message = "Give either --wallet or --authorisation."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        if authorisation is not None:
            jws = read_bytes(authorisation).decode(errors="replace").strip()
        else:
            assert wallet is not None, "checked a line before"
            jws = sign_escrow(
                read_wallet(wallet),
                agreed,
                keys=json.dumps(hub.published_keys()),
                payee=payee,
                mandate=mandate,
                currency=currency,
                valid_s=valid_s,
            )
        answer = hub.post("escrows", {"authorisation": jws, "terms": agreed})
        hub.output.record(answer, COLUMNS)


@app.command("list")
def list_escrows(
    state: Annotated[str | None, typer.Option(help="Of this state.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List escrows you have a part in, newest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        found = hub.pages("escrows", rows_max=rows, state=state)
        hub.output.records(found, COLUMNS, empty="No escrow yet.")


@app.command("show")
def show(
    escrow: EscrowArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print an escrow with its terms and everything that happened, as JSON.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.document(hub.get(f"escrows/{escrow}"))


@app.command("submit")
def submit(
    escrow: EscrowArgument,
    milestone: Annotated[str, typer.Argument(help="The milestone's name.")],
    result: Annotated[Path, typer.Argument(help="The result, a JSON object.")],
    attestation: AttestationOption = None,
    call: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="A call you made for it: result.metered is what the hub metered. Repeat for more.",
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Hand in a result; its condition is evaluated before this returns.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "milestone": milestone,
            "result": _read_object(result),
            "attestations": _read_statements(attestation),
            "calls": call or [],
        }
        hub.output.record(hub.post(f"escrows/{escrow}/submit", body), COLUMNS)


@app.command("attest")
def attest(
    escrow: EscrowArgument,
    milestone: Annotated[str, typer.Argument(help="The milestone's name.")],
    attestation: AttestationOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Hand in verifiers' statements about the last submission.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {"milestone": milestone, "attestations": _read_statements(attestation)}
        hub.output.record(hub.post(f"escrows/{escrow}/attest", body), COLUMNS)


@app.command("dispute")
def dispute(
    escrow: EscrowArgument,
    milestones: Annotated[list[str], typer.Argument(help="What is disputed.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    evidence: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE=URI", help="A file to hash, and where it is kept."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Stop milestones until the arbiter decides; again, to add evidence.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "milestones": milestones,
            "reason": reason,
            "evidence": [_evidence(text) for text in evidence or []],
        }
        hub.output.record(hub.post(f"escrows/{escrow}/dispute", body), COLUMNS)


@app.command("arbitrate")
def arbitrate(
    escrow: EscrowArgument,
    part: Annotated[
        list[str],
        typer.Option(
            metavar="MILESTONE=PART", help="What the payee gets: an amount, or 500000ppm."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why; it stands on the receipt.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Decide disputed milestones, for good.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {"parts": [parse_part(text) for text in part], "reason": reason}
        hub.output.record(hub.post(f"escrows/{escrow}/arbitrate", body), COLUMNS)


@app.command("cancel")
def cancel(
    escrow: EscrowArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let an escrow go (payee), or ask the payee to (payer).
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"escrows/{escrow}/cancel"), COLUMNS)


@app.command("check-condition")
def check_condition(
    condition: Annotated[Path, typer.Argument(help="A file with the condition (CEL).")],
    result: ResultOption,
    attested: Annotated[
        list[str] | None,
        typer.Option(metavar="VERIFIER=FILE", help="What a verifier would claim, JSON."),
    ] = None,
    metered: Annotated[
        Path | None, typer.Option(help="What the hub would have metered, JSON.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Run a condition on a result here, in the sandbox, and print the verdict.

    Exit 0 when it is met, 1 when it is not or breaks a rule.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        text = read_bytes(condition).decode().strip()
        claims: dict[str, dict[str, Any]] = {}
        for pair in attested or []:
            name, _, file = pair.partition("=")
            claims[name] = _read_object(Path(file))
        row = asyncio.run(
            checked(
                text, _strict(result), claims, None if metered is None else _read_object(metered)
            )
        )
        output.record(row, VERDICT_COLUMNS)
        if not row["is_met"]:
            raise typer.Exit(EXIT_REFUSED)


@app.command("verify")
def verify(
    receipt: Annotated[Path, typer.Argument(help="The receipt, JSON.")],
    result: ResultOption,
    attestation: AttestationOption = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Public keys: jwks.json, a root key, demo.json; else DATA/demo.json."),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Check a receipt and run its condition again, without the hub. Exit 1 when anything differs.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        findings = verify_paths([receipt], read_keys(keys or default_keys(data)))
        problems = [
            f"{problem.code.value}: {problem.message}"
            for finding in findings
            for problem in finding.problems
        ]
        document = _read_object(receipt)
        content = cast("dict[str, Any]", document.get("receipt") or {})
        statements = _read_statements(attestation)
        row = asyncio.run(run_again(content, _strict(result), statements))
        row = {**row, "source": str(receipt), "problems": [*problems, *row["problems"]]}
        row["ok"] = not row["problems"]
        output.record(row, RERUN_COLUMNS)
        if not row["ok"]:
            raise typer.Exit(EXIT_REFUSED)


def parse_part(text: str) -> dict[str, object]:
    """
    Return ``milestone=amount`` or ``milestone=PARTSppm`` as the hub takes it.

    Raises:
        CommandError: It is neither.
    """
    name, mark, part = text.rpartition("=")
    if not mark or not name or not part:
        message = f"--part {text!r} is not of the form draft=0.25 or draft=500000ppm."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    if part.endswith("ppm") and part[:-3].isdigit():
        return {"milestone": name, "ppm": int(part[:-3])}
    return {"milestone": name, "amount": part}


def _evidence(text: str) -> dict[str, str]:
    file, mark, uri = text.partition("=")
    if not mark or not uri:
        message = f"--evidence {text!r} is not of the form log.txt=https://example.com/log.txt."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return {"sha256": hashlib.sha256(read_bytes(Path(file))).hexdigest(), "uri": uri}


def _read_statements(files: list[Path] | None) -> list[str]:
    return [read_bytes(file).decode(errors="replace").strip() for file in files or []]


def _strict(file: Path) -> object:
    return read_strictly(read_bytes(file))


def _read_object(file: Path) -> dict[str, Any]:
    content = _strict(file)
    if not isinstance(content, dict):
        raise CommandError(f"{file} holds no JSON object.", exit_code=EXIT_COULD_NOT_RUN)
    return cast("dict[str, Any]", content)
