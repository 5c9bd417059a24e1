"""
``tokenworks review``: payments of agents that wait for a person.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    HubClient,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import Record, column, short_moment, to_text

app: Final = typer.Typer(help="Payments that wait for a person.", no_args_is_help=True)


class State(StrEnum):
    """
    Where a review stands.
    """

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    ANY = "any"


class Scope(StrEnum):
    """
    How far an approval goes.
    """

    ONCE = "once"
    PAYEE = "payee"


class Window(StrEnum):
    """
    Which limit of the mandate is raised.
    """

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"
    EVER = "ever"


def _amount(row: Record) -> str:
    return f"{row['amount']} {row['currency']}"


def _reasons(row: Record) -> str:
    return " ".join(str(reason["text"]) for reason in row["reasons"])


def _approvals(row: Record) -> str:
    return f"{len(row['approved_by'])} of {row['approvals_needed']}"


def _said(row: Record) -> str:
    return "; ".join(
        f"{entry['word']} by {to_text(entry['person']) or entry['actor']}"
        + (f" ({entry['note']})" if entry["note"] else "")
        for entry in row.get("decisions", ())
    )


LIST: Final = (
    column("Review", "review_id"),
    column("State"),
    column("Agent", "agent.name"),
    column("Pays", "payee.name"),
    column("Amount", _amount, right=True),
    column("Approved", _approvals),
    column("Until", short_moment("expires_at")),
    column("Why", _reasons),
)

RECORD: Final = (
    column("Review", "review_id"),
    column("State"),
    column("Agent", "agent.name"),
    column("Of", "organisation.name"),
    column("Pays", "payee.name"),
    column("Amount", _amount),
    column("For", "resource"),
    column("Description"),
    column("Why", _reasons),
    column("Approved", _approvals),
    column("Said", _said),
    column("Until", short_moment("expires_at")),
    column("Decided at", short_moment("decided_at")),
    column("Mandate", "mandate_id"),
    column("Digest"),
)

ReviewArgument = Annotated[str, typer.Argument(help="The review's id, which is the payment's.")]
DigestOption = Annotated[
    str | None,
    typer.Option(help="The digest you looked at, e.g. in a webhook; else the one shown now."),
]
NoteOption = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_reviews(
    state: Annotated[State, typer.Option(help="Which of them.")] = State.PENDING,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List payments that wait, newest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        wanted = None if state is State.ANY else state.value
        rows = hub.pages("reviews", state=wanted, agent=agent)
        hub.output.records(rows, LIST, empty="No payment waits for a person.")


@app.command("show")
def show(
    review: ReviewArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show a payment, why it waits, and what was said about it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"reviews/{review}"), RECORD)


@app.command("approve")
def approve(
    review: ReviewArgument,
    digest: DigestOption = None,
    scope: Annotated[
        Scope, typer.Option(help="This payment once, or the payee from now on.")
    ] = Scope.ONCE,
    raise_to: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Also raise the mandate's limit to this.")
    ] = None,
    raise_per: Annotated[Window | None, typer.Option(help="Which limit is raised.")] = None,
    note: NoteOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let exactly this payment pass; above an amount a second person has to approve too.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        if (raise_to is None) != (raise_per is None):
            message = "--raise-to needs --raise-per, and the other way round."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        raised = None if raise_to is None else {"per": str(raise_per), "amount": raise_to}
        body = {
            "digest": digest or _looked_at(hub, review, "Approve this payment?", is_sure=yes),
            "scope": scope.value if raised is None else "raise",
            "raise_limit": raised,
            "note": note,
        }
        hub.output.record(hub.post(f"reviews/{review}/approve", body), RECORD)


@app.command("deny")
def deny(
    review: ReviewArgument,
    digest: DigestOption = None,
    note: NoteOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let a payment not be made; what was reserved for it goes back.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        seen = digest or _looked_at(hub, review, "Deny this payment?", is_sure=yes)
        body = {"digest": seen, "note": note}
        hub.output.record(hub.post(f"reviews/{review}/deny", body), RECORD)


def _looked_at(hub: HubClient, review: str, question: str, *, is_sure: bool) -> str:
    """
    Show a payment, ask, and return the digest of exactly what was shown.
    """
    row = hub.get(f"reviews/{review}")
    if is_sure:
        return str(row["digest"])
    if hub.output.as_json or not sys.stdin.isatty():
        message = "Nobody is here to ask."
        raise CommandError(
            message, exit_code=EXIT_COULD_NOT_RUN, hint="Pass --yes if you are sure."
        )
    hub.output.record(row, RECORD)
    if not typer.confirm(question, err=True):
        message = "Nothing was decided."
        raise CommandError(message, exit_code=EXIT_REFUSED)
    return str(row["digest"])
