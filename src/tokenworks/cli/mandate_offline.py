"""
What ``tokenworks mandate`` does on this machine: sign a delegation, verify a chain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from uuid import UUID

from tokenworks.agents.mandates.signing import sign_by_wallet
from tokenworks.agents.mandates.terms import moment_from_text, terms_from_object
from tokenworks.agents.mandates.verifying import verify_chain
from tokenworks.cli.client import EXIT_COULD_NOT_RUN, CommandError
from tokenworks.cli.key import parse_expiry
from tokenworks.cli.reading import parse_object, read_text
from tokenworks.cli.wallet_file import read_wallet
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.receipts.files import read_keys


def sign_delegation(
    parent: dict[str, Any],
    agent: dict[str, Any],
    *,
    wallet_file: Path,
    terms: str,
    expires: str | None,
) -> str:
    """
    Sign a part of a mandate away with its agent's wallet; return the JWS.

    Args:
        parent: The mandate, as the hub shows it.
        agent: Who gets it, as the hub shows it.
        wallet_file: Of the agent that delegates.
        terms: A JSON object; what it does not say is not narrowed.
        expires: A time or a span; with its parent when omitted.

    Raises:
        CommandError: Terms or time cannot be read.
        TokenworksError: The wallet cannot be read, or the terms break a rule.
    """
    clock = SystemClock()
    fields = parse_object(terms, "--terms")
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


def verify_file(file: Path, root: Path) -> dict[str, Any]:
    """
    Verify a chain of mandates; return whether it is good, the mandates and the findings.

    Raises:
        CommandError: The file holds no chain.
    """
    report = verify_chain(_chain_of(file), read_keys(root), now=SystemClock().now())
    findings = [
        {
            "position": finding.position,
            "mandate_id": str(finding.mandate_id) if finding.mandate_id else None,
            "code": finding.code,
            "message": finding.message,
        }
        for finding in report.findings
    ]
    return {
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


def _chain_of(path: Path) -> list[str]:
    text = read_text(path).strip()
    if not text.startswith("{"):
        return text.split()
    chain: object = parse_object(text, str(path)).get("chain")
    if not isinstance(chain, list):
        message = f"{path} has no chain of signed mandates."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return [str(item) for item in cast("list[object]", chain)]
