"""
Who sends a request: an API key, or a wallet that signed it.
"""

from __future__ import annotations

from typing import Final

from tokenworks.agents.mandates.paths import wallet_scope
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.mandates.signed_request import SignedRequest, read_signed_request
from tokenworks.foundation.clock import Clock
from tokenworks.identity.admission import resolve_tier
from tokenworks.identity.errors import PartyClosedError, PartyFrozenError
from tokenworks.identity.model import PartyState, Principal, Role
from tokenworks.identity.service import Identity

WALLET_HEADER: Final = "x-tokenworks-wallet"


class Callers:
    """
    Turn what came with a request into a principal.

    Args:
        identity: Knows keys and parties.
        mandates: Knows wallets.
        network: The hub's own: a request signed for another hub means nothing here.
        clock: The time.
    """

    def __init__(
        self, *, identity: Identity, mandates: Mandates, network: str, clock: Clock
    ) -> None:
        self._identity = identity
        self._mandates = mandates
        self._network = network
        self._clock = clock

    async def authenticate(
        self, presented: str, /, *, address: str | None = None, may_be_frozen: bool = False
    ) -> Principal:
        """
        Return the principal of an API key's secret; see ``Identity.authenticate``.
        """
        return await self._identity.authenticate(
            presented, address=address, may_be_frozen=may_be_frozen
        )

    async def authenticate_wallet(
        self, header: str, *, method: str, url: str, may_be_frozen: bool
    ) -> tuple[Principal, SignedRequest]:
        """
        Return the agent that a wallet speaks for; the body is still to be compared.

        Raises:
            WalletRequestError: The signature, or what it covers, is not as it must be.
            WalletUnknownError, WalletRevokedError: The wallet may not act.
            PartyClosedError, PartyFrozenError: Its agent, or someone above it, may not act.
        """
        signed = read_signed_request(
            header, network=self._network, method=method, url=url, now=self._clock.now()
        )
        # No hold follows that would find a revoked wallet's scope closed: read it now.
        wallet = await self._mandates.wallet_of(signed.address, is_fresh=True)
        chain = await self._identity.get_chain(wallet.agent_id)
        if any(party.state is PartyState.CLOSED for party in chain):
            message = "The agent of this wallet, or someone above it, is closed."
            raise PartyClosedError(message)
        is_frozen = any(party.state is PartyState.FROZEN for party in chain)
        if is_frozen and not may_be_frozen:
            message = "The agent of this wallet, or someone above it, is frozen; ask its owner."
            raise PartyFrozenError(message)
        scope_id = wallet_scope(signed.address)
        principal = Principal(
            key_id=scope_id,
            role=Role.BUYER,
            party_id=wallet.agent_id,
            organisation_id=chain[0].party_id,
            organisation_name=chain[0].name,
            chain=tuple(party.party_id for party in chain),
            models=None,
            requests_per_minute=None,
            expires_at=None,
            default_tier=resolve_tier(chain),
            # A wallet pays by signing payments, never along a path of its own.
            spend_path_id=scope_id,
            spend_path_version=0,
            is_frozen=is_frozen,
            wallet=signed.address,
        )
        return principal, signed
