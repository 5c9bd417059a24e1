"""
What stands on a mandate's spend path, and what scopes and paths are called.

A path goes from the root down: the organisation and those between it and the agents of the
chain, the agents, the wallet that signs, the mandates, and for each mandate with limits by
payee the scope of (mandate, payee). Freezing or closing any of them stops the next hold.

Ids follow from what they stand for (SHA-256, UUID version 8), so that every process finds the
same scope without asking, and opening it twice is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from tokenworks.agents.mandates.model import Mandate, Terms
from tokenworks.ledger.model import LimitOpening, ScopeOpening


def wallet_scope(address: str) -> UUID:
    """
    Return the scope of a wallet: closed when it is revoked.
    """
    return _derived("wallet", address)


def payee_scope(mandate_id: UUID, payee_id: UUID) -> UUID:
    """
    Return the scope that counts what one payee gets under one mandate.
    """
    return _derived("payee", mandate_id, payee_id)


def path_of(mandate_id: UUID, *, wallet: str | None, payee_id: UUID | None) -> UUID:
    """
    Return the id of a path: the mandate's own, or one for its wallet and payee too.
    """
    if wallet is None and payee_id is None:
        return mandate_id
    return _derived("path", mandate_id, wallet or "", payee_id or "")


def has_payee_limits(chain: Sequence[Mandate]) -> bool:
    """
    Tell whether what a payee gets is counted by a mandate of the chain.
    """
    return any(mandate.terms.payee_budgets for mandate in chain)


def path_scopes(
    parties: Sequence[UUID],
    chain: Sequence[Mandate],
    *,
    wallet: str | None,
    payee_id: UUID | None,
) -> tuple[UUID, ...]:
    """
    Return a path's scopes, root first.

    Args:
        parties: The organisation and everybody between it and each agent of the chain.
        chain: The mandates, root first.
        wallet: The address that signs, if one does.
        payee_id: Whose limits count too; ``None``: no payee's.
    """
    scopes = [*parties]
    if wallet is not None:
        scopes.append(wallet_scope(wallet))
    scopes.extend(mandate.mandate_id for mandate in chain)
    if payee_id is not None:
        scopes.extend(opening.scope_id for opening in payee_openings(chain, payee_id))
    return tuple(scopes)


def payee_openings(chain: Sequence[Mandate], payee_id: UUID) -> list[ScopeOpening]:
    """
    Return the scopes that count what a payee gets, with the limits they begin with.
    """
    return [
        ScopeOpening(
            scope_id=payee_scope(mandate.mandate_id, payee_id),
            limits=tuple(
                LimitOpening(
                    asset=f"LIMIT.{mandate.terms.currency}",
                    quanta=limit.quanta,
                    window=limit.window.value,
                )
                for limit in mandate.terms.payee_budgets
            ),
        )
        for mandate in chain
        if mandate.terms.payee_budgets
    ]


def mandate_opening(mandate_id: UUID, terms: Terms, *, expires_at: datetime | None) -> ScopeOpening:
    """
    Return a mandate's own scope with the limits that its terms begin with.
    """
    money = [
        LimitOpening(
            asset=f"LIMIT.{terms.currency}", quanta=limit.quanta, window=limit.window.value
        )
        for limit in terms.budgets
    ]
    counts = [
        LimitOpening(asset="LIMIT.PAYMENTS", quanta=limit.payments, window=limit.window.value)
        for limit in terms.counts
    ]
    return ScopeOpening(scope_id=mandate_id, expires_at=expires_at, limits=(*money, *counts))


def _derived(kind: str, *parts: object) -> UUID:
    text = "\n".join(("tokenworks", kind, *(str(part) for part in parts)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    # RFC 9562 §5.8: version 8, the variant's two bits, the rest ours.
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0b11 << 62) | 0b10 << 62)
