"""
The hub's word that a payment is held, to be shown to a seller (x402's credit proposal).

An attestation is a statement of a lane's key: short, verified offline with the hub's published
keys, and good only for one payee and one resource until the hold ends. It moves nothing by
itself; the seller settles with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from tokenworks.agents.payments.errors import (
    AttestationInvalidError,
    BindingMismatchError,
    NetworkMismatchError,
    RequirementsMismatchError,
    UnauthorizedServerError,
)
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.model import Requirements, Scheme
from tokenworks.foundation.clock import Clock
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import STATEMENT_TYPE, read_compact
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.statements import is_statement_good
from tokenworks.receipts.trust import TrustedKeys

ATTESTATION_CHARACTERS_MAX: Final = 8_192
KEYS_AGAIN_S: Final = 5.0
"""A key that is not known is looked up at most so often."""


class Attestation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What an attestation says, by the names of the credit proposal.
    """

    kind: Literal["payment-attestation"]
    iss: str
    aud: UUID  # the payee's party id
    sub: str  # the wallet
    jti: UUID  # the payment's id
    iat: int
    exp: int
    hold_exp: int = msgspec.field(name="holdExp")
    bundle_id: UUID = msgspec.field(name="bundleId")  # the mandate
    network: str
    scheme: Scheme
    asset: str
    amount: str
    resource: str

    @property
    def payment_id(self) -> UUID:
        """
        Return the payment's id.
        """
        return self.jti

    @property
    def pay_to(self) -> UUID:
        """
        Return the payee.
        """
        return self.aud


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attestation).decode


class Attesting:
    """
    Sign attestations, and read those of every process of this hub.

    Args:
        signer: This process's lane key.
        published: Returns all public keys of the hub as JSON.
        network: The hub's network.
        clock: How old the keys are.
    """

    def __init__(
        self,
        signer: LaneSigner,
        published: Callable[[], Awaitable[dict[str, object]]],
        *,
        network: str,
        clock: Clock,
    ) -> None:
        self._signer = signer
        self._published = published
        self._network = network
        self._clock = clock
        self._keys: TrustedKeys | None = None
        self._read_at_s = 0.0

    def issue(
        self, held: HeldPayment, *, resource: str, issued_at: datetime, expires_at: datetime
    ) -> str:
        """
        Return the attestation of a hold; the same until the hold is extended.
        """
        ends = int(expires_at.timestamp())
        return self._signer.sign_statement(
            _encode(
                Attestation(
                    kind="payment-attestation",
                    iss=self._network,
                    aud=held.payee_id,
                    sub=held.payer,
                    jti=held.payment_id,
                    iat=int(issued_at.timestamp()),
                    exp=ends,
                    hold_exp=ends,
                    bundle_id=held.mandate_id,
                    network=self._network,
                    scheme=Scheme(held.kind),
                    asset=held.currency,
                    amount=str(held.authorised_quanta),
                    resource=resource,
                )
            )
        )

    async def read(self, attestation: str) -> Attestation:
        """
        Return what this hub attested.

        Raises:
            AttestationInvalidError: Not an attestation, or not signed by a key of this hub.
        """
        if len(attestation) > ATTESTATION_CHARACTERS_MAX:
            raise AttestationInvalidError("The attestation is too long.")
        try:
            payload = read_compact(attestation, STATEMENT_TYPE).payload
            said = _decode(payload)
        except (JwsMalformedError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AttestationInvalidError(f"This is no attestation: {error}.") from error
        if self._keys is None:
            await self._read_keys()
        if not self._is_good(payload, attestation):
            if self._clock.monotonic_s() - self._read_at_s >= KEYS_AGAIN_S:
                await self._read_keys()
            if not self._is_good(payload, attestation):
                raise AttestationInvalidError("The attestation is not signed by this hub.")
        return said

    def _is_good(self, payload: bytes, attestation: str) -> bool:
        assert self._keys is not None, "read before"
        return is_statement_good(payload, attestation, self._keys)

    async def _read_keys(self) -> None:
        self._keys = TrustedKeys.from_json(msgspec.json.encode(await self._published()))
        self._read_at_s = self._clock.monotonic_s()


def check_attested(
    said: Attestation, requirements: Requirements, *, network: str, is_settling: bool
) -> None:
    """
    Refuse an attestation that is not for what the seller asks; pure.

    Raises:
        NetworkMismatchError, UnauthorizedServerError, RequirementsMismatchError,
            BindingMismatchError: In this order.
    """
    if network != said.network or requirements.network != network:
        raise NetworkMismatchError("The attestation is meant for another network.")
    if requirements.pay_to != said.pay_to:
        raise UnauthorizedServerError("The attestation is meant for another payee.")
    for name, ours, theirs in (
        ("scheme", said.scheme.value, requirements.scheme.value),
        ("asset", said.asset, requirements.asset),
    ):
        if ours != theirs:
            message = f"{name} was attested as {ours!r}; the seller asks for {theirs!r}."
            raise RequirementsMismatchError(message, param=name)
    authorised, asked = int(said.amount), requirements.amount
    may_differ = is_settling and (asked == 0 or (said.scheme is Scheme.UPTO and asked < authorised))
    if asked != authorised and not may_differ:
        message = f"{authorised} were attested; the seller asks for {asked}."
        raise RequirementsMismatchError(message, param="amount")
    if requirements.binding.url != said.resource:
        raise BindingMismatchError("The attestation is for another resource.", param="url")
