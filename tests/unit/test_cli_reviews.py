"""
Commands of the brake send what they were told, and decide only on what was looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_commands import Wire, run
from tests.unit.test_cli_commands import wire as wire  # noqa: PLC0414 - a fixture
from tokenworks.agents.brake.rule_documents import default_document, parse_rules, to_document
from tokenworks.cli.brake import read_rules

DIGEST = "ab" * 32
REVIEW: dict[str, Any] = {
    "review_id": "r1",
    "state": "pending",
    "digest": DIGEST,
    "agent": {"name": "bot"},
    "organisation": {"name": "acme"},
    "payee": {"name": "shop"},
    "mandate_id": "m1",
    "amount": "12",
    "currency": "USD",
    "resource": "GET https://shop.example/",
    "description": "",
    "reasons": [
        {"rule": "new_payee", "action": "hold", "text": "Never paid before.", "figures": {}}
    ],
    "approvals_needed": 2,
    "approved_by": ["ann"],
    "created_at": "2026-01-01T00:00:00.000000Z",
    "expires_at": "2026-01-01T00:15:00.000000Z",
    "decided_at": None,
    "note": "",
    "decisions": [
        {"word": "approve", "person": {"name": "ann"}, "actor": "key", "note": "we know them"}
    ],
}


def test_pending_reviews_are_listed_in_plain_words(wire: Wire) -> None:
    """
    The list says who pays whom how much, and why it waits.
    """
    wire.answers["reviews"] = {"items": [REVIEW], "next_cursor": None}

    result = run("review", "list")

    assert result.exit_code == 0, result.output
    assert wire.sent[0][2]["state"] == "pending"
    for text in ("bot", "shop", "12 USD", "1 of 2", "Never paid before."):
        assert text in result.stdout


def test_show_tells_what_was_said(wire: Wire) -> None:
    """
    Who approved, and why, stands beside the digest.
    """
    wire.answers["reviews/r1"] = REVIEW
    output = run("review", "show", "r1").stdout
    assert "approve by ann (we know them)" in output
    assert DIGEST in output


@pytest.mark.parametrize(
    ("command", "path", "body"),
    [
        ("approve r1 --yes", "approve", {"digest": DIGEST, "scope": "once"}),
        (
            "approve r1 --yes --scope payee --note known",
            "approve",
            {"digest": DIGEST, "scope": "payee", "note": "known"},
        ),
        (
            "approve r1 --yes --raise-to 50 --raise-per day",
            "approve",
            {
                "digest": DIGEST,
                "scope": "raise",
                "raise_limit": {"per": "day", "amount": "50"},
            },
        ),
        ("deny r1 --yes --note no", "deny", {"digest": DIGEST, "note": "no"}),
        (f"deny r1 --digest {'cd' * 32}", "deny", {"digest": "cd" * 32}),
    ],
)
def test_decision_names_the_digest(
    wire: Wire, command: str, path: str, body: dict[str, object]
) -> None:
    """
    What is sent is the digest of exactly what was shown, or the one that was passed.
    """
    wire.answers["reviews/r1"] = REVIEW
    wire.answers[f"reviews/r1/{path}"] = {**REVIEW, "state": "approved"}

    result = run("review", *command.split())

    assert result.exit_code == 0, result.output
    assert wire.sent[-1] == ("POST", f"reviews/r1/{path}", body)


@pytest.mark.parametrize(
    "command",
    ["approve r1", "approve r1 --json", "deny r1", "approve r1 --yes --raise-to 5"],
)
def test_nothing_is_decided_without_a_yes(wire: Wire, command: str) -> None:
    """
    Without a terminal and without --yes, or with half a raise, nothing is sent.
    """
    wire.answers["reviews/r1"] = REVIEW

    result = run("review", *command.split())

    assert result.exit_code == 2
    assert [method for method, _, _ in wire.sent if method == "POST"] == []


def test_rules_file_means_what_it_says(wire: Wire, tmp_path: Path) -> None:
    """
    `off` is a word, 22:00 a time, an amount needs no quotes; the hub checks the rest.
    """
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n"
        "  loop: {action: off}\n"
        "  night: {action: hold, from: 22:00, until: 06:00, time_zone: Europe/Berlin}\n"
        "  new_payee: {action: hold, above: 10, new_payees_per_hour: 5}\n"
        "  velocity: {action: deny, amount_per_hour: 0.5}\n"
        "two_persons_above: 100\n"
    )
    wire.answers["parties/acme/brake"] = {"effective": [dict(default_document())]}

    result = run("brake", "set", "acme", str(file))

    assert result.exit_code == 0, result.output
    [(method, path, body)] = wire.sent
    assert (method, path) == ("PUT", "parties/acme/brake")
    rules = parse_rules(body)
    assert rules.night is not None
    assert rules.night.from_minute == 22 * 60
    assert rules.two_persons_above == 100 * 10**9
    assert to_document(rules)["rules"]["velocity"]["amount_per_hour"] == "0.5"
    assert "payments_per_minute=600" in result.stdout


def test_catalogue_is_a_rules_file(tmp_path: Path) -> None:
    """
    The shipped rules can be written out, edited and set again.
    """
    from tokenworks import catalogue

    file = Path(catalogue.__file__).with_name("brake.yaml")
    assert parse_rules(read_rules(file)) == parse_rules(default_document())


@pytest.mark.parametrize("content", ["- a\n", "just text", "a: [", ""])
def test_file_without_rules_is_refused(wire: Wire, tmp_path: Path, content: str) -> None:
    """
    A file that holds no rules is never sent.
    """
    file = tmp_path / "rules.yaml"
    file.write_text(content)
    assert run("brake", "set", "acme", str(file)).exit_code == 2
    assert wire.sent == []


def test_webhook_commands(wire: Wire) -> None:
    """
    The secret is printed when it is made; the log of deliveries is shown.
    """
    hook: dict[str, Any] = {
        "party": {"name": "acme"},
        "url": "https://hooks.example/",
        "allow_private": False,
        "actor": "key",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "secret": "whsec_abc",
        "deliveries": [
            {
                "review_id": "r1",
                "event": "opened",
                "state": "given_up",
                "attempts": 8,
                "attempted_at": "2026-01-01T00:00:00.000000Z",
                "next_attempt_at": None,
                "http_status": 500,
                "error": "it answered with status 500",
            }
        ],
    }
    wire.answers["parties/acme/webhook"] = hook
    made = run("brake", "webhook", "set", "acme", "https://hooks.example/")
    assert "whsec_abc" in made.stdout
    body = {"url": "https://hooks.example/", "allow_private": False}
    assert wire.sent[-1] == ("PUT", "parties/acme/webhook", body)
    wire.answers["parties/acme/webhook"] = {**hook, "secret": None}
    assert "it answered with status 500" in run("brake", "webhook", "show", "acme").stdout
    wire.answers["parties/acme/webhook"] = {"party": {"name": "acme"}, "removed": True}
    assert run("brake", "webhook", "remove", "acme").exit_code == 0
    assert wire.sent[-1][:2] == ("DELETE", "parties/acme/webhook")
